"""The hashes and ids of the images of a data set, by which leaks and copies are found."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from xvlm.common.errors import InputError
from xvlm.common.json_file import parse_json
from xvlm.common.progress import progress_bar
from xvlm.data.files import storage
from xvlm.data.files.limits import Limits, current_limits, set_limits
from xvlm.data.files.output import join
from xvlm.data.files.storage import SIDECARS
from xvlm.data.images.content_hash import CONTENT_BYTES, content_hash
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.sources.open import open_source
from xvlm.data.sources.source import Source
from xvlm.prepare.perceptual_hash import HASH_BYTES, VIEWS, perceptual_hash, variants
from xvlm.prepare.records import records_of
from xvlm.records import BadRecord, ImageData, normalize_id

_PART = 64
"""Images of a task of a process."""
_COCO_SCHEMES = ("refcoco:", "grefcoco:")
"""Schemes whose `image_id` is that of COCO."""


@dataclass(frozen=True)
class ImageHashes:
    """Hashes of the images of a data set.

    Attributes:
        content: (N, 16) uint8 hashes of the bytes.
        perceptual: (N, V, 32) uint8 hashes of what the images look like, of V views of each.
        ids: ids of each image in public data sets.
        keys: name of each image, in reports.
        unread: why further images have no hashes, and their ids.
    """

    content: np.ndarray
    perceptual: np.ndarray
    ids: list[dict[str, str]]
    keys: list[str]
    unread: list[tuple[BadRecord, dict[str, str]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)


def pack_hashes(
    content: Iterable[bytes], perceptual: Iterable[np.ndarray], fields: Iterable[Mapping[str, Any]]
) -> bytes:
    """Return the hashes of the images of a shard as a file of NumPy.

    Args:
        content: hashes of the bytes of each image.
        perceptual: (32,) uint8 of each image.
        fields: fields of each image's sample.
    """
    data, own = io.BytesIO(), list(fields)
    np.savez(
        data,
        content=np.frombuffer(b"".join(content), np.uint8).reshape(-1, CONTENT_BYTES),
        perceptual=np.array(list(perceptual), np.uint8).reshape(-1, HASH_BYTES),
        ids=np.array([_join(one.get("ids", {})) for one in own], dtype=np.str_),
        keys=np.array([one["key"] for one in own], dtype=np.str_),
    )
    return data.getvalue()


def _join(ids: Mapping[str, str]) -> str:
    return ";".join(f"{name}={ids[name]}" for name in sorted(ids))


def _split(ids: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in ids.split(";") if part)


def shard_names(folder: str) -> list[str]:
    """Return the names of the shards that `xvlm prepare` made in a folder; none if it made none there."""
    names = storage.list_names(join(folder, SIDECARS))
    return [name.removesuffix(".npz") for name in names if name.endswith(".npz")]


def shard_hashes(folder: str, shard: str) -> ImageHashes:
    """Return the hashes of the images of a shard."""
    data = storage.read_all(join(folder, f"{SIDECARS}/{shard}.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        ids = [_split(one) for one in found["ids"].tolist()]
        return ImageHashes(found["content"], found["perceptual"][:, None], ids, found["keys"].tolist())


def hash_source(spec: str, workers: int = 1, views: bool = False, image_root: str = "") -> ImageHashes:
    """Return the hashes of the different images of any data that xvlm reads.

    Args:
        workers: number of processes.
        views: hash also the mirrored and slightly cropped image, see `variants`.
        image_root: folder or URL that image paths are relative to; empty: the folder of the file.
    """
    found = list(_images(open_source(spec, image_root or None), spec))
    images = [one for one in found if not isinstance(one, BadRecord)]
    unread: list[tuple[BadRecord, dict[str, str]]] = [
        (one, {}) for one in found if isinstance(one, BadRecord)
    ]
    parts = [images[start : start + _PART] for start in range(0, len(images), _PART)]
    hash_some = partial(_hash_some, views=views, limits=current_limits())
    if workers == 1:
        done = list(progress_bar(map(hash_some, parts), f"hashing {spec}", len(parts)))
    else:
        with ProcessPoolExecutor(workers) as pool:
            done = list(progress_bar(pool.map(hash_some, parts), f"hashing {spec}", len(parts)))
    rows: list[tuple[bytes, np.ndarray, dict[str, str], str]] = []
    for (_, ids, key), row in zip(images, (row for part in done for row in part), strict=True):
        if isinstance(row, BadRecord):
            unread.append((row, ids))
        else:
            rows.append((*row, ids, key))
    width = VIEWS if views else 1
    return ImageHashes(
        np.frombuffer(b"".join(row[0] for row in rows), np.uint8).reshape(-1, CONTENT_BYTES),
        np.array([row[1] for row in rows], np.uint8).reshape(-1, width, HASH_BYTES),
        [row[2] for row in rows],
        [row[3] for row in rows],
        unread,
    )


@dataclass(frozen=True)
class Excluded:
    """Images that a preparation leaves out.

    Attributes:
        evaluation: hashes of the bytes of images of evaluation data.
        copies: (key, hash of the bytes) of images that the release, or one before it, has already.
    """

    evaluation: frozenset[bytes] = frozenset()
    copies: frozenset[tuple[str, bytes]] = frozenset()

    def reason(self, key: str, content: bytes) -> str | None:
        """Return why an image is left out, or `None`."""
        if content in self.evaluation:
            return "image of evaluation data"
        return "copy of another image" if (key, content) in self.copies else None

    def digest(self) -> list[str]:
        """Return what decides its answers, in order."""
        copies = (f"{key} {content.hex()}" for key, content in self.copies)
        return sorted([*(one.hex() for one in self.evaluation), *copies])


def read_excluded(path: str, root: str) -> Excluded:
    """Return the images that a file of leaks excludes from a release; none without a path.

    Args:
        root: the release, as in `preparation.json`.
    Raises:
        MissingFileError: there is no such file.
        InputError: it is another file.
    """
    if not path:
        return Excluded()
    evaluation, copies = set[bytes](), set[tuple[str, bytes]]()
    try:
        for line in storage.read_all(path).decode().splitlines():
            leak = parse_json(line.encode(), path)
            content = bytes.fromhex(leak["content"])
            if not leak["is_copy"]:
                evaluation.add(content)
            elif leak["root"] == root:
                copies.add((leak["key"], content))
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no list of images that `xvlm prepare leaks` wrote: {error}") from error
    return Excluded(frozenset(evaluation), frozenset(copies))


def _images(source: Source, spec: str) -> Iterator[tuple[ImageData, dict[str, str], str] | BadRecord]:
    """Yield image, ids and key of each record; an image that several records name by its path once."""
    seen: set[str] = set()
    for record in records_of(source):
        if isinstance(record, BadRecord):
            yield record
            continue
        ids = dict(record.extra.get("ids") or {})
        if spec.startswith(_COCO_SCHEMES):
            ids["coco"] = normalize_id(record.extra["image_id"])
        for image in (record.image, record.extra.get("right")):
            if isinstance(image, str) and image in seen:
                continue
            if isinstance(image, str):
                seen.add(image)
            if image is not None:
                yield image, ids, record.key


def content_hash_of(opened: ImageFile) -> bytes:
    """Return the hash of the bytes of an image that was opened."""
    return content_hash(opened.data if isinstance(opened.data, bytes) else opened.data.tobytes())


def _hash_some(
    images: Iterable[tuple[ImageData, dict[str, str], str]], views: bool, limits: Limits
) -> list[tuple[bytes, np.ndarray] | BadRecord]:
    set_limits(limits)
    rows: list[tuple[bytes, np.ndarray] | BadRecord] = []
    for image, _, key in images:
        try:
            opened = open_image(image, key=key, trusted=True)
            picture = opened.image
        except BadRecord as error:
            rows.append(error)
            continue
        hashes = variants(picture) if views else perceptual_hash(picture)[None]
        rows.append((content_hash_of(opened), hashes))
    return rows
