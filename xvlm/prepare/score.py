"""How probable captions are for their image, by the matching head of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xvlm.data.images.decode import ImageFile

Score = Callable[[ImageFile, Sequence[str]], list[float]]
"""Returns the probability that each text describes an image."""


def caption_score(model: str) -> Score:
    """Return the score of a model.

    Raises MissingFileError if there is no such model, MissingHead if it has no matching head.
    """
    # Processes that prepare data without a score load no torch.
    from xvlm.predict import Predictor

    predictor = Predictor.load(model)

    def score(image: ImageFile, texts: Sequence[str]) -> list[float]:
        return predictor.photo(image).match(texts, warn=False)

    return score
