"""CIDEr-D: how much a caption says what people said of the image (Vedantam et al. 2015).

pycocoevalcap takes document frequencies from the captions that it is asked about; for a reward in training
they must be those of the whole training set, which is what this is for.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]
LONGEST = 4
SIGMA = 6.0


class Cider:
    """Document frequencies of a corpus, and scores by them.

    Texts are words with spaces between them.
    """

    def __init__(self, corpus: Iterable[Sequence[str]]) -> None:
        """`corpus`: the references of each image."""
        self.images = 0
        self.frequency: Counter[Ngram] = Counter()
        for references in corpus:
            self.images += 1
            self.frequency.update({ngram for text in references for ngram in ngrams(text)})

    def score(self, text: str, references: Sequence[str]) -> float:
        """One text against the references of its image; usual values are 0 to 2, the best is 10."""
        found = self._weighted(text)
        scores = [_agreement(found, self._weighted(reference)) for reference in references]
        return 10 * sum(scores) / len(scores)

    def _weighted(self, text: str) -> tuple[list[dict[Ngram, float]], int]:
        """The tf-idf of n-grams by length, and how many pairs of words the text has."""
        by_length: list[dict[Ngram, float]] = [defaultdict(float) for _ in range(LONGEST)]
        for ngram, count in ngrams(text).items():
            rarity = math.log(max(1, self.images)) - math.log(max(1, self.frequency[ngram]))
            by_length[len(ngram) - 1][ngram] = count * rarity
        return by_length, max(0, len(text.split()) - 1)


def ngrams(text: str) -> Counter[Ngram]:
    """How often each sequence of one to four words stands in a text."""
    words = text.split()
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    )


def _agreement(
    found: tuple[list[dict[Ngram, float]], int], reference: tuple[list[dict[Ngram, float]], int]
) -> float:
    """Cosine by length of n-grams, repeated words clipped, other lengths of text penalised; their mean."""
    penalty = math.exp(-((found[1] - reference[1]) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for one, other in zip(found[0], reference[0], strict=True):
        norm = math.hypot(*one.values()) * math.hypot(*other.values())
        if norm:
            total += (
                sum(
                    min(weight, other.get(ngram, 0.0)) * other.get(ngram, 0.0)
                    for ngram, weight in one.items()
                )
                / norm
            )
    return penalty * total / LONGEST
