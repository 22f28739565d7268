"""The shards of a preparation: which samples belong to which, the same on any number of workers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from xvlm.common.json_file import json_text
from xvlm.data.files import storage
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord


@dataclass(frozen=True)
class Work:
    """One shard that is to be made.

    Attributes:
        name: name of the shard without suffix.
        samples: its samples, unless they lie in a shard of the release.
        tar: path of a shard of the release.
    """

    name: str
    samples: tuple[Sample | BadRecord, ...] = ()
    tar: str = ""

    def digest(self) -> str:
        """Return a hash of what the shard is made of: samples and the state of their images, or of a tar.

        An image on this machine that was added or replaced since changes it.  A remote one does not, since
        each would need a request.
        """
        if self.tar:
            return _hash([self.tar.rpartition("/")[2], _state(self.tar)])
        return _hash([_plain(one) for one in self.samples])


def plan(dataset: Dataset, release: Release, per_shard: int) -> Iterator[Work]:
    """Yield the shards of a release, in order.

    Args:
        per_shard: samples of a shard, unless the release has shards.
    """
    tars = tars_of(dataset, release)
    for number, path in enumerate(tars):
        yield Work(f"{release.split}-{number:05}", tar=path)
    if tars:
        return
    folder = release.root if storage.is_folder(release.root) else os.path.dirname(release.root)
    samples = (_with_relative_key(one, f"{folder.rstrip('/')}/") for one in dataset.read(release))
    number = 0
    while some := tuple(islice(samples, per_shard)):
        yield Work(f"{release.split}-{number:05}", some)
        number += 1


def tars_of(dataset: Dataset, release: Release) -> list[str]:
    """Return the shards of a release; none if it has other files."""
    return [] if dataset.tars is None else dataset.tars(release)


def samples_of(work: Work, dataset: Dataset, split: str) -> Samples:
    """Yield the samples of a shard."""
    if work.tar:
        yield from dataset.read(Release(work.tar, split))
    else:
        yield from work.samples


def _with_relative_key(one: Sample | BadRecord, folder: str) -> Sample | BadRecord:
    """Return a sample whose key does not begin with the folder of the release, which shards do not name."""
    key = one.key.removeprefix(folder)
    if key == one.key:
        return one
    return BadRecord(one.reason, key, one.detail) if isinstance(one, BadRecord) else replace(one, key=key)


def _plain(sample: Sample | BadRecord) -> Any:
    if isinstance(sample, BadRecord):
        return [sample.reason, sample.key, sample.detail]
    if isinstance(sample.image, str):
        image = [sample.image, _state(sample.image)]
    else:
        image = [hashlib.sha256(sample.image).hexdigest()]
    pair = sample.fields.get("images")
    image += [_state(one) for one in pair if isinstance(one, str)] if isinstance(pair, list) else []
    return [sample.key, image, dict(sample.fields), dict(sample.ids)]


def _state(path: str) -> list[int]:
    """Return size and modification time of a local file, or the size of a remote tar; empty without one."""
    if storage.is_remote(path):
        return [storage.file_state(path).bytes] if path.endswith(".tar") else []
    try:
        state = os.stat(path)
    except OSError:
        return []
    return [state.st_size, state.st_mtime_ns]


def _hash(value: Any) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:32]
