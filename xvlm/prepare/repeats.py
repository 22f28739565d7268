"""Count the samples of a release, and find the captions that occur too often in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample
from xvlm.prepare.shard import text_hash
from xvlm.prepare.work import Work, plan, samples_of, tars_of

_FLUSH = 1_000_000


def count_samples(dataset: Dataset, release: Release, max_repeats: int) -> tuple[int, np.ndarray]:
    """Return how many samples, or shards of the release, are to be prepared, and the repeated captions.

    Args:
        max_repeats: most occurrences of a caption; 0 for any number.
    Returns:
        the number, and (R,) int64 sorted hashes of captions that occur more often.
    """
    if tars_of(dataset, release):
        works = list(plan(dataset, release, 1))
        texts = (text for work in works for text in _captions(work, dataset, release.split))
        return len(works), _repeated(texts if max_repeats else iter(()), max_repeats)
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for one in dataset.read(release):
            count += 1
            if max_repeats and isinstance(one, Sample):
                yield from _texts(one)

    repeated = _repeated(counted(), max_repeats)
    return count, repeated


def _captions(work: Work, dataset: Dataset, split: str) -> Iterator[str]:
    for one in samples_of(work, dataset, split):
        if isinstance(one, Sample):
            yield from _texts(one)


def _texts(sample: Sample) -> Iterator[str]:
    value = sample.fields.get("caption")
    yield from filter(lambda one: isinstance(one, str), value if isinstance(value, list) else [value])


def _repeated(texts: Iterator[str], max_repeats: int) -> np.ndarray:
    """Return the (R,) int64 sorted hashes that occur more than `max_repeats` times; a text takes 8 bytes."""
    parts: list[np.ndarray] = []
    some: list[int] = []
    for text in texts:
        some.append(text_hash(text))
        if len(some) == _FLUSH:
            parts.append(np.array(some, np.int64))
            some = []
    hashes, counts = np.unique(np.concatenate([*parts, np.array(some, np.int64)]), return_counts=True)
    return hashes[counts > max_repeats] if max_repeats else np.zeros(0, np.int64)
