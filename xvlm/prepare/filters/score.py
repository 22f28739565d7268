"""Leave out captions that a trained model finds improbable for their image.

`xvlm data look DATA --model MODEL` shows how probable the captions of a sample are, to choose the limit by.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from xvlm.data.images.decode import ImageFile
from xvlm.prepare.filtering import Filter
from xvlm.prepare.score import Score, caption_score


def make(model: str, min_probability: float = 0.1) -> Filter:
    """Return the filter.

    Args:
        model: model folder, or repository of a hub, whose matching is used.
        min_probability: smallest probability that a caption describes its image.
    """

    def captions(texts: Sequence[str], image: ImageFile) -> list[str | None]:
        probabilities = _score(model)(image, texts)
        return ["caption is improbable" if one < min_probability else None for one in probabilities]

    return Filter(captions=captions)


@cache
def _score(model: str) -> Score:
    """Load a model once in a process."""
    return caption_score(model)
