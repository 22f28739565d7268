"""CIDEr-D equals pycocoevalcap's."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider as PycocoCider

from xvlm.metrics.cider import Cider

WORDS = ["a", "man", "dog", "runs", "red", "ball", "on", "the", "of", "park", "bench", "with", "two"]


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words).tolist())


def test_agrees_with_pycocoevalcap() -> None:
    """Compare 250 texts of 1 to 14 words with 1 to 5 references each; some equal a reference."""
    rng = np.random.default_rng(0)
    references = [
        [sentence(rng, int(rng.integers(2, 15))) for _ in range(rng.integers(1, 6))] for _ in range(250)
    ]
    texts = [
        several[0] if rng.random() < 0.2 else sentence(rng, int(rng.integers(1, 15)))
        for several in references
    ]
    cider = Cider(references)
    own_scores = [cider.score(text, several) for text, several in zip(texts, references, strict=True)]
    mean, scores = PycocoCider().compute_score(
        dict(enumerate(references)), {n: [text] for n, text in enumerate(texts)}
    )
    assert own_scores == pytest.approx(scores.tolist(), abs=1e-9)
    assert sum(own_scores) / 250 == pytest.approx(mean) and max(own_scores) > 5


def test_document_frequencies_are_those_of_the_corpus() -> None:
    """An n-gram that all images share has weight 0; a rare one has a large weight."""
    cider = Cider([["a dog"], ["a cat"], ["a bird"]])
    assert cider.score("a", ["a dog"]) == 0
    assert cider.score("a dog", ["a dog"]) > cider.score("a dog here", ["a dog"]) > 0
    assert cider.score("", ["a dog"]) == 0
