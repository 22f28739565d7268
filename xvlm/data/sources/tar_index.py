"""Index of the members of a tar, and the file beside the tar that stores it.

Neither is trusted: memory is never allocated for a size that a header claims, and an index file that does not
match its tar is rebuilt.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from xvlm.common.atomic import atomic_file
from xvlm.common.errors import InputError, printable
from xvlm.data.files import storage
from xvlm.data.files.output import new_file

MAX_NAME_BYTES = 1024
MAX_SIZE = 1 << 62
"""Larger sizes, which no file has, are stored as this one, since they do not fit into int64."""
_COLUMNS = {"first": "i", "names": "S", "offsets": "i", "sizes": "i"}  # -> kind of the dtype
_log = logging.getLogger(__name__)


class DamagedTarError(InputError):
    """A file is no tar, or its headers are damaged."""


@dataclass(frozen=True)
class TarIndex:
    """The members of one tar, grouped by sample, in arrays, since there may be millions.

    Attributes:
        first: (samples + 1,) int64; members `first[i]` to `first[i + 1]` belong to sample i.
        names: (members,) UTF-8 byte strings.
        offsets: (members,) int64 positions of the contents in bytes.
        sizes: (members,) int64 sizes of the contents in bytes.
    """

    first: np.ndarray
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def members(self, sample: int) -> range:
        """Return the members of a sample."""
        return range(int(self.first[sample]), int(self.first[sample + 1]))

    def name(self, member: int) -> str:
        """Return the name of a member; bytes that are not UTF-8 become escapes."""
        return str(self.names[member], "utf-8", "backslashreplace")

    def probe_samples(self) -> list[int]:
        """Return up to five evenly spaced samples, beginning with the first."""
        last = len(self) - 1
        return sorted({round(share * last) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}) if len(self) else []


def build_tar_index(path: str) -> TarIndex:
    """Index a tar by its headers, and write the index to `path + ".idx"` (local files only).

    A member that is truncated by the end of the file is in the index; reading it raises BadRecord.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is not an uncompressed tar, or is damaged between members.
    """
    state = storage.file_state(path)
    index = _scan(path, state.bytes)
    if not storage.is_remote(path):
        try:
            _write(path + ".idx", index, state)
        except OSError as error:
            _log.info("the index of %s stays in memory: %s", printable(path), printable(error))
    return index


def save_tar_index(tar: str | Path, path: str) -> None:
    """Index a local tar, and write the index beside the path, local or remote, to which it will be moved."""
    state = storage.file_state(str(tar))
    with new_file(f"{path}.idx") as partial:
        _save(partial, _scan(str(tar), state.bytes), state)


def load_tar_index(path: str) -> TarIndex:
    """Return the index beside a tar; it is rebuilt if it is missing, damaged, or belongs to another tar.

    Size and, for local files, modification time tell the versions of a tar apart; the headers of some members
    tell whether the index belongs to this tar at all.
    """
    state = storage.file_state(path)
    try:
        index = _read(path, state)
        if index is not None:
            return index
        _log.info("the index of %s belongs to another version of it; it is rebuilt", printable(path))
    except FileNotFoundError:
        _log.info("indexing %s", printable(path))
    except Exception as error:  # NumPy's and zipfile's readers raise almost any type on damaged files
        detail = printable(error)[:200]
        _log.warning("the index of %s is damaged (%s); it is rebuilt", printable(path), detail)
    return build_tar_index(path)


def sample_name(name: str) -> tuple[str, str]:
    """Split the name of a member into the key of its sample and its suffix in lower case.

    `dir.v2/0001.seg.PNG` becomes (`dir.v2/0001`, `seg.png`).
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _scan(path: str, tar_bytes: int) -> TarIndex:
    samples: dict[str, list[tuple[bytes, int, int]]] = {}
    with storage.open_binary(path) as file:
        try:
            with tarfile.open(fileobj=_BoundedFile(file, tar_bytes), mode="r:") as tar:  # type: ignore[call-overload]
                end = _collect_members(path, tar, tar_bytes, samples)
        except tarfile.ReadError as error:
            raise DamagedTarError(f"{path} is not an uncompressed tar: {error}") from error
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise DamagedTarError(f"{path} is damaged: {type(error).__name__} {str(error)[:200]}") from error
        file.seek(min(end, tar_bytes))
        rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
        if len(rest) == tarfile.BLOCKSIZE:
            raise DamagedTarError(f"{path} is damaged at byte {end}: neither a member nor the end of the tar")
        _log.warning("%s is truncated in a header, at byte %d", printable(path), end)
    if end > tar_bytes:
        _log.warning(
            "%s is truncated: its last member should end at byte %d of %d", printable(path), end, tar_bytes
        )
    members = [member for sample in samples.values() for member in sample]
    return TarIndex(
        np.cumsum([0, *map(len, samples.values())], dtype=np.int64),
        np.array([name for name, _, _ in members], dtype=np.bytes_),
        np.array([offset for _, offset, _ in members], dtype=np.int64),
        np.array([size for _, _, size in members], dtype=np.int64),
    )


class _BoundedFile:
    """A file whose reads are limited to its size, since a header may claim any size for what follows it."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(min(offset, self._size) if whence == 0 else offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _collect_members(
    path: str, tar: tarfile.TarFile, tar_bytes: int, samples: dict[str, list[tuple[bytes, int, int]]]
) -> int:
    """Add (name, offset, size) of the regular files to `samples`; return the end of the last member."""
    end = 0
    skipped: Counter[str] = Counter()
    for member in _members_in_order(path, tar, tar_bytes):
        end = tar.offset
        name = member.name.encode("utf-8", "surrogateescape")
        if os.path.basename(member.name).startswith(".") or member.isdir():
            continue
        if not member.isreg() or member.issparse():
            skipped[_kind(member)] += 1
        elif len(name) > MAX_NAME_BYTES or b"\0" in name:
            skipped[f"members whose name is longer than {MAX_NAME_BYTES} bytes or holds a zero"] += 1
        else:
            item = (name, member.offset_data, min(member.size, MAX_SIZE))
            samples.setdefault(sample_name(member.name)[0], []).append(item)
    for kind, count in skipped.items():
        _log.warning("%s: %d %s are not read", printable(path), count, kind)
    return end


def _members_in_order(path: str, tar: tarfile.TarFile, tar_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members, each after the previous one.  Raises InputError if a size leads backwards."""
    end = 0
    while end < tar_bytes and (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would hold all members in memory
        if member.size < 0 or tar.offset <= end:
            raise DamagedTarError(f"{path} is damaged at byte {end}: a member of {member.size} bytes")
        end = tar.offset
        yield member


def _kind(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "sparse members"
    return "links" if member.islnk() or member.issym() else "devices, pipes or other members"


def _read(path: str, state: storage.FileState) -> TarIndex | None:
    """Return the index beside the tar, or `None` if it belongs to another version.

    Raises ValueError, or what NumPy's reader raises, if the index is damaged or wrong.
    """
    limit = 4 * state.bytes + (1 << 20)  # for a tar whose members are all empty and have long names
    if storage.file_state(path + ".idx").bytes > limit:
        raise ValueError("it is larger than the tar allows")
    data = storage.read_all(path + ".idx")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(array.file_size for array in archive.infolist()) > len(data):
            raise ValueError("its arrays are larger than the file")  # np.savez does not compress
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        compared = 1 if storage.is_remote(path) else 2  # the modification times of remote files are unknown
        if arrays["state"].tolist()[:compared] != [state.bytes, state.mtime_ns][:compared]:
            return None
        columns = {name: arrays[name] for name in _COLUMNS}
    for name, kind in _COLUMNS.items():
        column = columns[name]
        if column.ndim != 1 or column.dtype.kind != kind:
            raise ValueError(f"{name} is {column.dtype} {column.shape}")
        if kind == "i":
            columns[name] = column.astype(np.int64)
    index = TarIndex(**columns)
    _check(path, index, state.bytes)
    return index


def _check(path: str, index: TarIndex, tar_bytes: int) -> None:
    """Raise ValueError unless the index can belong to this tar."""
    count = len(index.names)
    if not len(index.offsets) == len(index.sizes) == count:
        raise ValueError("its columns have different lengths")
    first = index.first
    if len(first) == 0 or first[0] != 0 or first[-1] != count or (np.diff(first) < 1).any():
        raise ValueError("its samples do not follow each other")
    if count and (
        index.offsets.min() < tarfile.BLOCKSIZE
        or index.offsets.max() > tar_bytes + tarfile.BLOCKSIZE
        or index.sizes.min() < 0
        or (index.offsets % tarfile.BLOCKSIZE).any()
    ):
        raise ValueError("a member lies outside the tar")
    for sample in index.probe_samples()[: 1 if storage.is_remote(path) else None]:
        members = index.members(sample)
        if len({sample_name(index.name(member))[0] for member in members}) > 1:
            raise ValueError(f"sample {sample} holds members of other samples")
        start = int(index.offsets[members[0]]) - tarfile.BLOCKSIZE
        check_header(storage.read_range(path, start, tarfile.BLOCKSIZE), index, members[0])


def check_header(header: bytes, index: TarIndex, member: int) -> None:
    """Raise ValueError unless the 512 bytes before the content of a member match the index.

    A name that is long or not ASCII may be stored elsewhere, and is then not compared.
    """
    if _is_plain_header(header, bytes(index.names[member]), int(index.sizes[member])):
        return
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(f"there is no header before {index.name(member)}: {error}") from error
    name, expected = info.name.encode("utf-8", "surrogateescape"), bytes(index.names[member])
    stored_elsewhere = len(expected) > tarfile.LENGTH_NAME or not expected.isascii()
    if not info.isreg() or (name != expected and not stored_elsewhere):
        found = str(name[:60], "utf-8", "backslashreplace")
        raise ValueError(f"found {found} in place of {index.name(member)}")


def _is_plain_header(header: bytes, name: bytes, size: int) -> bool:
    """Return whether a header is the usual one of a file of this name and size.

    The general parser takes a third of the time in which a small image is found and read.
    """
    return (
        len(name) < tarfile.LENGTH_NAME
        and header.startswith(name + b"\0")
        and header[124:135] == b"%011o" % size
        and header[156:157] in (tarfile.REGTYPE, tarfile.AREGTYPE)
        and header[257:262] == b"ustar"
        and header[345:346] == b"\0"
    )


def _write(path: str, index: TarIndex, state: storage.FileState) -> None:
    """Write the index atomically; several processes may do so at once."""
    with atomic_file(path) as partial:
        _save(partial, index, state)


def _save(path: Path, index: TarIndex, state: storage.FileState) -> None:
    columns = {name: getattr(index, name) for name in _COLUMNS}
    with path.open("wb") as file:
        np.savez(file, state=np.array([state.bytes, state.mtime_ns]), **columns)
