"""What was found in a photo as `supervision.Detections`, to draw, track or count it with that package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xvlm.common.errors import MissingPackageError
from xvlm.inference.answers import Detection


def to_supervision(found: Sequence[Sequence[Detection]], phrases: Sequence[str]) -> Any:
    """Return `supervision.Detections` of the result of `Photo.find_many` for some phrases.

    A box's class is the number of its phrase, and `data["class_name"]` has the phrase.

    Raises MissingPackageError if supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise MissingPackageError(f"this needs the package: pip install supervision ({error})") from error
    rows = [(number, one) for number, own in enumerate(found) for one in own]
    if not rows:
        return supervision.Detections.empty()
    return supervision.Detections(
        xyxy=np.array([one.box_xyxy for _, one in rows], np.float32),
        confidence=np.array([one.score for _, one in rows], np.float32),
        class_id=np.array([number for number, _ in rows]),
        data={"class_name": np.array([phrases[number] for number, _ in rows])},
    )
