"""A release of many small images in the published form, and the bytes of what is prepared from it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny import photo

COUNT = 24
PER_SHARD = 5


def write_many(folder: Path, count: int = COUNT) -> Path:
    """Write images with a caption and a region each; one is damaged, one is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path = folder / f"{number:03}.jpg"
        if number != 7:
            photo(70 + number % 24, 60, number).save(path)
        if number == 11:
            path.write_bytes(path.read_bytes()[:400])
        elems = [{"caption": f"thing {number}", "bb": [3, 4, 30 + number % 9, 20], "attributes": ["red"]}]
        rows.append(
            {"image": path.name, "caption": [f"picture {number}", f"photo {number % 5}"], "elems": elems}
        )
    path = folder / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(out: Path) -> dict[str, bytes]:
    """Return the bytes of all files; an index holds the time of its tar."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".idx" and not path.name.startswith(".")
    }
