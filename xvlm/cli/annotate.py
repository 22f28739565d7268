"""`xvlm annotate`: boxes of phrases in photos, in the forms of annotation tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from xvlm.common.ranges import PositiveInt, Probability


def command(
    photos: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PHOTOS [PHOTOS ...]")]],
    phrases: tuple[str, ...],
    out: Path = Path("annotations"),
    model: Path = Path("runs/demo"),
    formats: tuple[Literal["coco", "cvat", "fiftyone", "labelme"], ...] = ("coco",),
    min_probability: Probability = 0.5,
    max_pixels: PositiveInt = 100_000_000,
    device: str | None = None,
) -> None:
    """Find phrases in photos, as annotations that a person goes on with: COCO, labelme, CVAT, FiftyOne.

    An interrupted command goes on, and one that is repeated with more formats writes them at once.

    Args:
        photos: folders with the folders below them, tar shards, lists (.txt, a path a line), or photos.
        phrases: what to find: "a dog" "the person on the left".
        out: folder for the annotations.
        model: model folder, run folder or hub repository.
        formats: coco: annotations.json; labelme: a file a photo; cvat: annotations.xml; fiftyone:
            labels.json.
        min_probability: smallest probability of a box.
        max_pixels: maximum width x height of a photo.
        device: cpu, cuda or cuda:NUMBER; by default the GPU, if there is one.
    """
    from xvlm.annotate.annotate import annotate
    from xvlm.data.files.limits import change_limits
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels)
    predictor = Predictor.load(model, device)
    print(annotate(photos, phrases, predictor, str(model), out, formats, min_probability).summary(phrases))
