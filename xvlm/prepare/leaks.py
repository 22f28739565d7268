"""Look for images of evaluation data in training data, and for copies within training data.

Images are the same if they have the same id in a public data set, the same bytes, or look the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xvlm.common.errors import InputError, XVLMError
from xvlm.common.json_file import json_text
from xvlm.common.progress import progress_bar
from xvlm.common.terminal import print_notice
from xvlm.data.files.output import write_bytes
from xvlm.prepare.copies import earlier_copies
from xvlm.prepare.image_hashes import ImageHashes, hash_source, shard_hashes, shard_names
from xvlm.prepare.preparation import release_root
from xvlm.records import BadRecord

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
        is_copy: whether training data, and not evaluation data, have it too.
        root: the release that the training data were made of; empty if that is unknown.
    """

    data: str
    shard: str
    number: int
    key: str
    against: str
    other: str
    how: str
    content: str
    is_copy: bool
    root: str

    def __str__(self) -> str:
        return f"{self.data}/{self.shard}, {self.key} is {self.other} of {self.against}: {self.how}"


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found.

    Attributes:
        leaks: images of training data that are also elsewhere.
        unread: images that could not be read, by data; of evaluation data their ids alone were compared.
    """

    leaks: list[Leak]
    unread: dict[str, list[BadRecord]]


class KnownImages:
    """Images of evaluation data, for comparison.

    Args:
        name: name of the data.
        hashes: hashes of its images, of several views of each.
    """

    def __init__(self, name: str, hashes: ImageHashes) -> None:
        self.name, self.keys = name, [*hashes.keys, *(bad.key for bad, _ in hashes.unread)]
        self._by_content = {one.tobytes(): number for number, one in enumerate(hashes.content)}
        every = [*hashes.ids, *(ids for _, ids in hashes.unread)]
        self._by_id = {item: number for number, ids in enumerate(every) for item in ids.items()}
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


@dataclass(frozen=True)
class _Part:
    """A shard of training data, or all of it.

    Attributes:
        data, shard, root: as of `Leak`.
        hashes: of its images.
    """

    data: str
    shard: str
    root: str
    hashes: ImageHashes

    def leak(self, number: int, against: str, other: str, how: str, is_copy: bool) -> Leak:
        """Return the leak of an image by its number."""
        content = self.hashes.content[number].tobytes().hex()
        key = self.hashes.keys[number]
        return Leak(self.data, self.shard, number, key, against, other, how, content, is_copy, self.root)


def find_leaks(
    train: Sequence[str],
    against: Sequence[str],
    duplicates: bool = False,
    workers: int = 2,
    image_roots: Mapping[str, str] | None = None,
) -> Comparison:
    """Look for images of evaluation data in training data, and for copies within training data.

    Args:
        train: folders of shards that `xvlm prepare` made, whose hashes are known, or other data.
        against: evaluation data, as for `open_source`.
        duplicates: also look for copies within the training data; the first one is none.
        workers: number of processes that read images.
        image_roots: folders that image paths are relative to, by data; by default that of their file.
    """
    roots = image_roots or {}
    known: list[KnownImages] = []
    unread: dict[str, list[BadRecord]] = {}
    for one in against:
        hashes = hash_source(one, workers, views=True, image_root=roots.get(one, ""))
        known.append(KnownImages(one, hashes))
        unread[one] = [bad for bad, _ in hashes.unread]
    leaks: list[Leak] = []
    parts: list[_Part] = []
    for data in train:
        shards, root = shard_names(data), release_root(data)
        for shard in progress_bar(shards or [""], f"comparing {data}", len(shards) or 1):
            hashes = (
                shard_hashes(data, shard)
                if shard
                else hash_source(data, workers, image_root=roots.get(data, ""))
            )
            if hashes.unread:
                unread.setdefault(data, []).extend(bad for bad, _ in hashes.unread)
            part = _Part(data, shard, root, hashes)
            for images in known:
                leaks += [
                    part.leak(number, images.name, images.keys[place], how, False)
                    for number, place, how in images.find(hashes)
                ]
            if duplicates:
                parts.append(replace(part, hashes=replace(hashes, ids=[])))
    return Comparison(leaks + list(_copies(parts)), {name: bad for name, bad in unread.items() if bad})


def _copies(parts: Sequence[_Part]) -> Iterator[Leak]:
    """Yield the images that occur before in these parts."""
    if not parts:
        return
    content = np.concatenate([part.hashes.content for part in parts])
    first, bits = earlier_copies(np.concatenate([part.hashes.perceptual[:, 0] for part in parts]))
    starts = np.cumsum([0, *(len(part.hashes) for part in parts)])
    for number in np.flatnonzero(first >= 0):
        part, own = _at(parts, starts, int(number))
        before, other = _at(parts, starts, int(first[number]))
        is_same = (content[number] == content[first[number]]).all()
        how = "the same bytes" if is_same else _alike(int(bits[number]))
        if is_same and (part.data, part.hashes.keys[own]) == (before.data, before.hashes.keys[other]):
            continue  # one image of which the release has several samples
        yield part.leak(own, before.data, before.hashes.keys[other], how, True)


def _at(parts: Sequence[_Part], starts: np.ndarray, number: int) -> tuple[_Part, int]:
    """Return where an image is, and its number there."""
    part = int(np.searchsorted(starts, number, "right")) - 1
    return parts[part], number - int(starts[part])


def _alike(bits: int) -> str:
    return f"looks the same, {bits} of 256 bits differ"


def write_leaks(path: str, leaks: Sequence[Leak]) -> None:
    """Write a JSON line for each leak; `exclude` of a preparation leaves out the images of such a file."""
    write_bytes(path, "".join(json_text(vars(one)) + "\n" for one in leaks).encode())


def raise_leaks(found: Comparison, allow_unread: bool = False) -> None:
    """Raise LeakError if there are leaks, with the first ones; else InputError if images could not be read.

    Args:
        allow_unread: images that could not be read are said on standard error alone.
    """
    problems = [
        f"{len(bad):,} images of {name} cannot be read, so their content is not compared; first: {bad[0]}"
        for name, bad in found.unread.items()
    ]
    leaks = found.leaks
    for problem in problems if leaks or allow_unread else ():
        print_notice(problem)
    if problems and not (leaks or allow_unread):
        raise InputError(f"{'; '.join(problems)}; --allow-unread accepts that")
    if leaks:
        more = f"; and {len(leaks) - _SHOWN:,} more" if len(leaks) > _SHOWN else ""
        first = "; ".join(map(str, leaks[:_SHOWN]))
        raise LeakError(f"{len(leaks):,} images are also elsewhere: {first}{more}")
