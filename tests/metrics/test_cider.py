"""CIDEr-D against the independent implementation that the field uses."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider as Their

from xvlm.metrics.cider import Cider

WORDS = ["a", "man", "dog", "runs", "red", "ball", "on", "the", "of", "park", "bench", "with", "two"]


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words).tolist())


def test_agrees_with_pycocoevalcap() -> None:
    """250 texts of 1 to 14 words, each with 1 to 5 references; some say what a reference says."""
    rng = np.random.default_rng(0)
    references = [
        [sentence(rng, int(rng.integers(2, 15))) for _ in range(rng.integers(1, 6))] for _ in range(250)
    ]
    texts = [
        said[0] if rng.random() < 0.2 else sentence(rng, int(rng.integers(1, 15))) for said in references
    ]
    cider = Cider(references)
    found = [cider.score(text, said) for text, said in zip(texts, references, strict=True)]
    mean, scores = Their().compute_score(
        {n: said for n, said in enumerate(references)}, {n: [text] for n, text in enumerate(texts)}
    )
    assert found == pytest.approx(scores.tolist(), abs=1e-9)
    assert sum(found) / 250 == pytest.approx(mean) and max(found) > 5


def test_rarity_is_that_of_the_corpus() -> None:
    """What all images share says nothing; what few share says much."""
    cider = Cider([["a dog"], ["a cat"], ["a bird"]])
    assert cider.score("a", ["a dog"]) == 0
    assert cider.score("a dog", ["a dog"]) > cider.score("a dog here", ["a dog"]) > 0
    assert cider.score("", ["a dog"]) == 0
