"""Look for images of evaluation data in training data, and for copies within training data.

Images are the same if they have the same id in a public data set, the same bytes, or look the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xvlm.common.errors import XVLMError
from xvlm.common.json_file import json_text
from xvlm.common.progress import progress_bar
from xvlm.data.files.output import write_bytes
from xvlm.prepare.copies import earlier_copies
from xvlm.prepare.image_hashes import ImageHashes, hash_source, shard_hashes, shard_names

DIFFERENT_BITS = 50
"""Bits of 256 in which the hashes of copies differ at most; docs/results.md has how that was measured."""
_BLOCK = 8192
_SHOWN = 5


class LeakError(XVLMError, RuntimeError):
    """Images of evaluation data are in training data."""


@dataclass(frozen=True)
class Leak:
    """An image of training data that is also elsewhere.

    Attributes:
        data, shard, number, key: where it is: folder, shard, number in the shard, and name of the image.
        against, other: evaluation data, or training data, that has it too, and its name there.
        how: what is the same.
        content: hash of the bytes of the image, as hexadecimal digits.
    """

    data: str
    shard: str
    number: int
    key: str
    against: str
    other: str
    how: str
    content: str

    def __str__(self) -> str:
        return f"{self.data}/{self.shard}, {self.key} is {self.other} of {self.against}: {self.how}"


class KnownImages:
    """Images of evaluation data, for comparison.

    Args:
        name: name of the data.
        hashes: hashes of its images, of several views of each.
    """

    def __init__(self, name: str, hashes: ImageHashes) -> None:
        self.name, self.hashes = name, hashes
        self._by_content = {one.tobytes(): number for number, one in enumerate(hashes.content)}
        self._by_id = {item: number for number, ids in enumerate(hashes.ids) for item in ids.items()}
        self._views = hashes.perceptual.shape[1]
        self._signs = _signs(hashes.perceptual.reshape(-1, hashes.perceptual.shape[-1]))

    def find(self, hashes: ImageHashes) -> Iterator[tuple[int, int, str]]:
        """Yield (number of an image, number of the one that it is here, what is the same)."""
        near = self._nearest(hashes)
        for number, (content, ids) in enumerate(zip(hashes.content, hashes.ids, strict=True)):
            same = next((item for item in ids.items() if item in self._by_id), None)
            if same is not None:
                yield number, self._by_id[same], f"the same {same[0]} id, {same[1]}"
            elif (found := self._by_content.get(content.tobytes())) is not None:
                yield number, found, "the same bytes"
            elif number in near:
                place, bits = near[number]
                yield number, place // self._views, _alike(bits)

    def _nearest(self, hashes: ImageHashes) -> dict[int, tuple[int, int]]:
        """Return image -> (row of the nearest hash, bits that differ) of those that look the same."""
        near: dict[int, tuple[int, int]] = {}
        if not len(self._signs):
            return near
        for start in range(0, len(hashes), _BLOCK):
            # A product of signs is the number of equal bits less that of different ones.
            products = _signs(hashes.perceptual[start : start + _BLOCK, 0]) @ self._signs.T
            best = products.argmax(1)
            bits = (256 - products.max(1)) / 2
            for number in np.flatnonzero(bits <= DIFFERENT_BITS):
                near[start + int(number)] = int(best[number]), int(bits[number])
        return near


def _signs(hashes: np.ndarray) -> np.ndarray:
    """Return (N, 256) float32 of -1 and 1 for (N, 32) uint8 hashes."""
    return 2 * np.unpackbits(hashes, axis=-1).astype(np.float32) - 1


def find_leaks(
    train: Sequence[str], against: Sequence[str], duplicates: bool = False, workers: int = 2
) -> list[Leak]:
    """Return the images of training data that evaluation data has, and copies within training data.

    Args:
        train: folders of shards that `xvlm prepare` made, whose hashes are known, or other data.
        against: evaluation data, as for `open_source`.
        duplicates: also look for copies within the training data; the first one is none.
        workers: number of processes that read evaluation images.
    """
    known = [KnownImages(one, hash_source(one, workers, views=True)) for one in against]
    leaks: list[Leak] = []
    read: list[tuple[str, str, ImageHashes]] = []
    for data in train:
        shards = shard_names(data)
        for shard in progress_bar(shards or [""], f"comparing {data}", len(shards) or 1):
            hashes = shard_hashes(data, shard) if shard else hash_source(data, workers)
            for one in known:
                leaks += [
                    Leak(
                        data,
                        shard,
                        number,
                        hashes.keys[number],
                        one.name,
                        one.hashes.keys[place],
                        how,
                        hashes.content[number].tobytes().hex(),
                    )
                    for number, place, how in one.find(hashes)
                ]
            if duplicates:
                read.append((data, shard, replace(hashes, ids=[])))
    return leaks + list(_copies(read))


def _copies(read: Sequence[tuple[str, str, ImageHashes]]) -> Iterator[Leak]:
    """Yield the images of data, shards and hashes that occur before in them."""
    if not read:
        return
    content = np.concatenate([hashes.content for *_, hashes in read])
    first, bits = earlier_copies(np.concatenate([hashes.perceptual[:, 0] for *_, hashes in read]))
    starts = np.cumsum([0, *(len(hashes) for *_, hashes in read)])
    for number in np.flatnonzero(first >= 0):
        (data, shard, hashes), own = _at(read, starts, int(number))
        (against, _, others), other = _at(read, starts, int(first[number]))
        is_same = (content[number] == content[first[number]]).all()
        how = "the same bytes" if is_same else _alike(int(bits[number]))
        digest = content[number].tobytes().hex()
        yield Leak(data, shard, own, hashes.keys[own], against, others.keys[other], how, digest)


def _at(
    read: Sequence[tuple[str, str, ImageHashes]], starts: np.ndarray, number: int
) -> tuple[tuple[str, str, ImageHashes], int]:
    """Return where an image is, and its number there."""
    part = int(np.searchsorted(starts, number, "right")) - 1
    return read[part], number - int(starts[part])


def _alike(bits: int) -> str:
    return f"looks the same, {bits} of 256 bits differ"


def write_leaks(path: str, leaks: Sequence[Leak]) -> None:
    """Write a JSON line for each leak; `exclude` of a preparation leaves out the images of such a file."""
    write_bytes(path, "".join(json_text(vars(one)) + "\n" for one in leaks).encode())


def raise_leaks(leaks: Sequence[Leak]) -> None:
    """Raise LeakError if there are leaks; the message has the first ones."""
    if leaks:
        more = f"; and {len(leaks) - _SHOWN:,} more" if len(leaks) > _SHOWN else ""
        first = "; ".join(map(str, leaks[:_SHOWN]))
        raise LeakError(f"{len(leaks):,} images are also elsewhere: {first}{more}")
