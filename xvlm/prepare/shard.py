"""Make one shard: a tar of images with their fields, or JSON lines, and beside it what is in it.

`_shards/NAME.json` is written last, so a shard with it is whole.  It has the digest of what the shard is made
of; the same digest means that nothing is left to do.  `_shards/NAME.npz` has the hashes by which leaks and
copies are found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from xvlm import registry
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import json_text, parse_json
from xvlm.common.threads import in_threads
from xvlm.config import from_json
from xvlm.data.files import storage
from xvlm.data.files.limits import Limits, set_limits
from xvlm.data.files.output import join, new_file, write_bytes
from xvlm.data.files.storage import SIDECARS
from xvlm.data.images.decode import read_encoded
from xvlm.data.sources.tar_index import save_tar_index
from xvlm.prepare.clean import CleanSample, clean
from xvlm.prepare.filtering import make_filters
from xvlm.prepare.image_hashes import Excluded, pack_hashes
from xvlm.prepare.release import Dataset
from xvlm.prepare.sample import Sample
from xvlm.prepare.settings import Settings
from xvlm.prepare.shard_report import ShardReport
from xvlm.prepare.work import Work, samples_of
from xvlm.prepare.writers import LinesOutput, TarOutput
from xvlm.records import BadRecord

_THREADS, _AHEAD = 8, 32
"""Threads that read remote images, and images that wait."""


@dataclass(frozen=True)
class Maker:
    """Makes shards; it travels to the processes that do.

    Attributes:
        dataset: name of the data set or form, or path of a user's file.
        room: room that has it, "prepare.datasets" or "prepare.forms".
        split: part of the data set.
        out: folder or URL of the shards.
        settings: what becomes of images and texts.
        limits: of images and remote files.
        repeated: sorted hashes of captions that occur too often.
        excluded: images that are left out.
        files: hash of the files that the settings name, see `named_files`.
    """

    dataset: str
    room: str
    split: str
    out: str
    settings: Settings
    limits: Limits
    repeated: np.ndarray
    excluded: Excluded
    files: str

    def __call__(self, work: Work) -> ShardReport:
        """Make a shard, unless it is there already, and return its report."""
        set_limits(self.limits)
        digest = self.digest(work)
        done = read_shard_report(self.out, work.name)
        if done is not None and done.digest == digest:
            return done
        return self._make(work, find_dataset(self.room, self.dataset), digest)

    def digest(self, work: Work) -> str:
        """Return a hash of all that decides the content of a shard."""
        return hashlib.sha256(f"{work.digest()}\n{self._common}".encode()).hexdigest()[:32]

    @cached_property
    def _common(self) -> str:
        """What all shards are made with."""
        parts = [self.dataset, self.split, json_text(self.settings), self.repeated.tobytes().hex()]
        return "\n".join([*parts, *self.excluded.digest(), self.files])

    def _make(self, work: Work, dataset: Dataset, digest: str) -> ShardReport:
        report, added = ShardReport("", digest), list[CleanSample]()
        suffix = "tar" if dataset.form == "tar" else "jsonl"
        path = join(self.out, f"{work.name}.{suffix}")
        found = self._clean(work, dataset)
        with new_file(path, keep=lambda: report.samples > 0) as partial:
            with partial.open("wb") as file:
                write = TarOutput(file, work.name) if suffix == "tar" else LinesOutput(file, self.out)
                for item in found:
                    if isinstance(item, BadRecord):
                        report.leave_out(item)
                        continue
                    sample, one = item
                    write.add(sample, one)
                    report.count(one)
                    added.append(replace(one, data=b""))  # the image itself is not held
                write.finish()
            if report.samples:
                report.name, report.bytes = f"{work.name}.{suffix}", partial.stat().st_size
                with partial.open("rb") as file:
                    report.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if suffix == "tar":
                    save_tar_index(partial, path)
        sidecar = join(self.out, f"{SIDECARS}/{work.name}")
        rows = [(*hashes, one.fields) for one in added for hashes in one.hashes()]
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        write_bytes(f"{sidecar}.npz", pack_hashes(*columns))
        write_bytes(f"{sidecar}.json", json_text(report, indent=1).encode())
        return report

    def _clean(self, work: Work, dataset: Dataset) -> Iterator[tuple[Sample, CleanSample] | BadRecord]:
        """Yield each sample with what it becomes, or why it is left out."""
        filters = make_filters(self.settings.filters)

        def read(one: Sample | BadRecord) -> tuple[Sample, bytes] | BadRecord:
            if isinstance(one, BadRecord):
                return one
            try:
                return one, one.image if isinstance(one.image, bytes) else read_encoded(
                    one.image, one.key, True
                )
            except BadRecord as error:
                return error

        for found in in_threads(read, samples_of(work, dataset, self.split), _THREADS, _AHEAD):
            if isinstance(found, BadRecord):
                yield found
                continue
            sample, data = found
            try:
                excluded = self.excluded.reason
                yield sample, clean(sample, data, self.settings, filters, self._is_repeated, excluded)
            except BadRecord as error:
                yield error

    def _is_repeated(self, text: str) -> bool:
        if not len(self.repeated):
            return False
        digest = text_hash(text)
        place = int(np.searchsorted(self.repeated, digest))
        return place < len(self.repeated) and self.repeated[place] == digest


def find_dataset(room: str, name: str) -> Dataset:
    """Return a data set or a form by name, or by the path of a user's file.

    Raises UnknownNameError, or InputError if the file defines none.
    """
    found = getattr(registry.find(room, name), "DATASET", None)
    if not isinstance(found, Dataset):
        raise InputError(f"{name} must define DATASET, an xvlm.prepare.release.Dataset")
    return found


def text_hash(text: str) -> int:
    """Return a 63-bit hash of a caption, without regard to upper case and repeated spaces."""
    plain = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()) >> 1


def read_shard_report(out: str, name: str) -> ShardReport | None:
    """Return the report of a whole shard, or `None`."""
    try:
        data = storage.read_all(join(out, f"{SIDECARS}/{name}.json"))
    except MissingFileError:
        return None
    report: ShardReport = from_json(ShardReport, parse_json(data, name))
    path = join(out, report.name)
    is_there = not report.name or (storage.exists(path) and storage.file_state(path).bytes == report.bytes)
    return report if is_there else None
