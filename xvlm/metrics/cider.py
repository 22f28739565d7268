"""CIDEr-D: consensus of a caption with the reference captions of its image (Vedantam et al. 2015).

pycocoevalcap computes document frequencies from the references of the evaluated captions.  As a reward in
training, CIDEr needs the document frequencies of the whole training set; this implementation has them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

Ngram = tuple[str, ...]
MAX_NGRAM = 4
SIGMA = 6.0
"""Standard deviation of the length penalty, in bigrams."""


class Cider:
    """CIDEr-D with the document frequencies of a corpus.

    The words of every text are separated by spaces.
    """

    def __init__(self, corpus: Iterable[Sequence[str]]) -> None:
        """Count document frequencies; `corpus` holds the references of each image."""
        self.num_images = 0
        self.frequency: Counter[Ngram] = Counter()
        for references in corpus:
            self.num_images += 1
            self.frequency.update({ngram for text in references for ngram in ngrams(text)})

    def score(self, text: str, references: Sequence[str]) -> float:
        """Score a text against the references of its image: usually 0 to 2, at most 10."""
        vector = self._tf_idf(text)
        scores = [_agreement(vector, self._tf_idf(reference)) for reference in references]
        return 10 * sum(scores) / len(scores)

    def _tf_idf(self, text: str) -> tuple[list[dict[Ngram, float]], int]:
        """Return the tf-idf weights of the n-grams by length, and the number of bigrams."""
        by_length: list[dict[Ngram, float]] = [defaultdict(float) for _ in range(MAX_NGRAM)]
        for ngram, count in ngrams(text).items():
            idf = math.log(max(1, self.num_images)) - math.log(max(1, self.frequency[ngram]))
            by_length[len(ngram) - 1][ngram] = count * idf
        return by_length, max(0, len(text.split()) - 1)


def ngrams(text: str) -> Counter[Ngram]:
    """Count the n-grams of one to four words in a text."""
    words = text.split()
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, MAX_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )


def _agreement(
    vector: tuple[list[dict[Ngram, float]], int], reference: tuple[list[dict[Ngram, float]], int]
) -> float:
    """Return the clipped cosine similarity, averaged over n-gram lengths, times the length penalty."""
    penalty = math.exp(-((vector[1] - reference[1]) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for own, other in zip(vector[0], reference[0], strict=True):
        norm = math.hypot(*own.values()) * math.hypot(*other.values())
        if norm:
            dot = sum(min(weight, other.get(n, 0.0)) * other.get(n, 0.0) for n, weight in own.items())
            total += dot / norm
    return penalty * total / MAX_NGRAM
