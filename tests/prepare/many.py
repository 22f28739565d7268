"""A release of many small images in the published form, and the bytes of what is prepared from it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.tiny import photo
from xvlm.prepare.prepare import Prepared, prepare
from xvlm.prepare.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("XVLM_KILLS", "1"))

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


def run(path: Path, out: Path | str, settings: Settings | None = None, **options: object) -> Prepared:
    """Prepare the release by one process, unless `options` say otherwise."""
    given = {"workers": 1, "per_shard": PER_SHARD, "room": "prepare.forms", **options}
    return prepare("lines", str(path), str(out), settings=settings, **given)  # type: ignore[arg-type]


def kill_and_repeat(release: Path, out: str, folder: Path, seconds: float = 4.0) -> None:
    """Prepare the release by two processes, which are killed at random moments, then once to the end.

    Args:
        folder: for the script that does it.
        seconds: of a whole preparation, more or less.
    """
    code = "import sys; from pathlib import Path; from tests.prepare.many import run\n"
    code += "if __name__ == '__main__':\n    print('started', flush=True)\n"
    code += "    run(Path(sys.argv[1]), sys.argv[2], workers=2); print('finished', flush=True)\n"
    script = folder / "run.py"
    script.write_text(code)
    words = [sys.executable, str(script), str(release), out]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rng, last = random.Random(0), ""
    for number in range(KILLS + 1):
        with subprocess.Popen(
            words, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as one:
            assert one.stdout is not None and one.stdout.readline() == "started\n"
            if number < KILLS:
                time.sleep(rng.uniform(0, seconds))
                os.killpg(one.pid, 9)
            last = one.stdout.read()
    assert last == "finished\n"
