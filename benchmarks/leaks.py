"""How many planted copies of evaluation images `xvlm prepare leaks` finds, and what else it takes for copies.

Each evaluation photo is planted once for every kind of copy; the training photos are the others.  Ids are not
used: names of copies say nothing.  For example:

    python benchmarks/leaks.py --evaluation photos/dev.jsonl --training photos/train.jsonl --out runs/leaks
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from xvlm.prepare.leaks import find_leaks
from xvlm.prepare.prepare import prepare

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def scaled(factor: float) -> Change:
    """Return a change of the size."""
    return lambda image, _: image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(part: float, where: str) -> Change:
    """Return a cut to a part of both sides: in the centre, at the upper left corner, or at random."""

    def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = round(image.width * part), round(image.height * part)
        share_x, share_y = {"centre": (0.5, 0.5), "corner": (0.0, 0.0), "random": rng.random(2)}[where]
        x, y = round((image.width - width) * share_x), round((image.height - height) * share_y)
        return image.crop((x, y, x + width, y + height))

    return crop


KINDS: dict[str, tuple[Change | None, int]] = {
    "same bytes": (None, 0),
    "encoded again, quality 50": (lambda image, _: image, 50),
    "half the size": (scaled(0.5), 90),
    "a quarter of the size": (scaled(0.25), 90),
    "mirrored": (lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
    "cropped to 95 %, centre": (cropped(0.95, "centre"), 90),
    "cropped to 95 %, corner": (cropped(0.95, "corner"), 90),
    "cropped to 95 %, random place": (cropped(0.95, "random"), 90),
    "cropped to 90 %, random place": (cropped(0.9, "random"), 90),
}
"""What is done to a photo, and the quality with which it is encoded again."""


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        evaluation, training: JSON lines whose images lie beside them.
        out: folder for copies and shards.
        planted: number of evaluation photos that are planted; all are compared.
        workers: number of processes.
    """

    evaluation: Path
    training: Path
    out: Path
    planted: int = 1000
    workers: int = 2


def images_of(path: Path) -> list[Path]:
    """Return the images of JSON lines."""
    return [path.parent / json.loads(line)["image"] for line in path.read_text().splitlines()]


def plant(photo: Path, change: Change | None, quality: int, rng: np.random.Generator) -> bytes:
    """Return a copy of a photo."""
    if change is None:
        return photo.read_bytes()
    data = io.BytesIO()
    with Image.open(photo) as image:
        change(image.convert("RGB"), rng).save(data, "JPEG", quality=quality)
    return data.getvalue()


def main(study: Study) -> None:
    """Plant copies, look for them, and print what was found."""
    rng = np.random.default_rng(0)
    (study.out / "in").mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    photos = images_of(study.evaluation)[: study.planted]
    for number, (change, quality) in enumerate(KINDS.values()):
        for index, photo in enumerate(photos):
            names.append(f"copy{number}x{index}.jpg")
            (study.out / "in" / names[-1]).write_bytes(plant(photo, change, quality, rng))
    others = images_of(study.training)
    for index, photo in enumerate(others):
        names.append(f"otherx{index}.jpg")
        (study.out / "in" / names[-1]).write_bytes(photo.read_bytes())
    lines = [json.dumps({"image": name, "caption": ["a photo"]}) for name in names]
    source, shards = study.out / "in" / "in.jsonl", study.out / "shards"
    source.write_text("\n".join(lines) + "\n")
    prepare("lines", str(source), str(shards), room="prepare.forms", workers=study.workers)
    leaks = find_leaks([str(shards)], [str(study.evaluation)], workers=study.workers).leaks
    lines_found = [int(leak.key.rpartition(":")[2]) for leak in leaks]  # FILE:LINE, from 1 on
    found = Counter(names[line - 1].partition("x")[0] for line in lines_found)
    for number, kind in enumerate(KINDS):
        print(f"{kind}: {100 * found[f'copy{number}'] / len(photos):.1f} % of {len(photos)}")
    print(f"others: {found['other']} of {len(others)}, {100 * found['other'] / len(others):.3f} %")


if __name__ == "__main__":
    main(tyro.cli(Study))
