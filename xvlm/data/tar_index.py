"""Where the members of a tar lie, and the file beside it that keeps this.

Neither is trusted: sizes that a header claims are never allocated, and an index file that does not fit its
tar is built anew.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import numpy as np

from xvlm.data import files
from xvlm.errors import InputError, printable

MAX_NAME_BYTES = 1024
MAX_SIZE = 1 << 62
"""Larger sizes, which no file has, are kept as this one."""
_COLUMNS = {"first": "i", "names": "S", "offsets": "i", "sizes": "i"}  # kinds of their dtypes
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TarIndex:
    """Where the members of one tar lie, grouped by sample.  Arrays, so that millions stay small.

    Attributes:
        first: (samples + 1,) int64; members `first[i]` to `first[i + 1]` are sample i.
        names: (members,) utf-8 byte strings.
        offsets: (members,) int64, of the content, in bytes.
        sizes: (members,) int64, in bytes.
    """

    first: np.ndarray
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def name(self, member: int) -> str:
        """The name of a member; bytes that are no UTF-8 are shown as escapes."""
        return str(self.names[member], "utf-8", "backslashreplace")


def build_tar_index(path: str) -> TarIndex:
    """Index the tar at `path` by its headers, and write the index to `path + ".idx"` (local files only).

    A member that the end of the file cuts off is in the index; reading it is a BadRecord.

    Raises:
        MissingFileError.
        InputError: not an uncompressed tar, or damaged between members.
    """
    state = files.state(path)
    index = _scan(path, state.bytes)
    if not files.is_remote(path):
        try:
            _write(path + ".idx", index, state)
        except OSError as error:
            _log.info("the index of %s stays in memory: %s", printable(path), printable(error))
    return index


def load_tar_index(path: str) -> TarIndex:
    """The index beside the tar; built anew where it is missing, damaged, or of another tar.

    Versions of a tar are told apart by size and, for local files, time of last change; that the index is of
    this tar at all, by the headers of a few members.
    """
    state = files.state(path)
    try:
        index = _read(path, state)
        if index is not None:
            return index
        _log.info("the index of %s is of another version of it; indexing anew", printable(path))
    except FileNotFoundError:
        _log.info("indexing %s", printable(path))
    except Exception as error:  # NumPy's and zipfile's readers raise almost any type on damaged files
        _log.warning(
            "the index of %s is damaged (%s); indexing anew", printable(path), printable(error)[:200]
        )
    return build_tar_index(path)


def sample_name(name: str) -> tuple[str, str]:
    """(sample's key, suffix in lower case): `dir.v2/0001.seg.PNG` -> (`dir.v2/0001`, `seg.png`)."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _scan(path: str, tar_bytes: int) -> TarIndex:
    samples: dict[str, list[tuple[bytes, int, int]]] = {}
    with files.open_binary(path) as file:
        try:
            with tarfile.open(fileobj=_Bounded(file, tar_bytes), mode="r:") as tar:  # type: ignore[call-overload]
                end = _members(path, tar, tar_bytes, samples)
        except tarfile.ReadError as error:
            raise InputError(f"{path} is not an uncompressed tar: {error}") from error
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise InputError(f"{path} is damaged: {type(error).__name__} {str(error)[:200]}") from error
        file.seek(min(end, tar_bytes))
        rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
        if len(rest) == tarfile.BLOCKSIZE:
            raise InputError(f"{path} is damaged at byte {end}: neither a member nor the end of the tar")
        _log.warning("%s is cut off in a header, at byte %d", printable(path), end)
    if end > tar_bytes:
        _log.warning(
            "%s is cut off: its last member should end at byte %d of %d", printable(path), end, tar_bytes
        )
    members = [member for sample in samples.values() for member in sample]
    return TarIndex(
        np.cumsum([0, *map(len, samples.values())], dtype=np.int64),
        np.array([name for name, _, _ in members], dtype=np.bytes_),
        np.array([offset for _, offset, _ in members], dtype=np.int64),
        np.array([size for _, _, size in members], dtype=np.int64),
    )


class _Bounded:
    """A file that is never asked for more than it has: a header may claim any size of what follows it."""

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


def _members(
    path: str, tar: tarfile.TarFile, tar_bytes: int, samples: dict[str, list[tuple[bytes, int, int]]]
) -> int:
    """Collect regular files by sample; returns where the last member ends."""
    end = 0
    skipped: Counter[str] = Counter()
    for member in _in_order(path, tar, tar_bytes):
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


def _in_order(path: str, tar: tarfile.TarFile, tar_bytes: int) -> Iterator[tarfile.TarInfo]:
    """The members, each behind the one before it.  Raises InputError where a size leads backwards."""
    end = 0
    while end < tar_bytes and (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
        if member.size < 0 or tar.offset <= end:
            raise InputError(f"{path} is damaged at byte {end}: a member of {member.size} bytes")
        end = tar.offset
        yield member


def _kind(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "sparse members"
    return "links" if member.islnk() or member.issym() else "devices, pipes or other members"


def _version(path: str, state: files.FileState) -> list[int]:
    return [state.bytes] if files.is_remote(path) else [state.bytes, state.mtime_ns]


def _read(path: str, state: files.FileState) -> TarIndex | None:
    """The index beside the tar, or nothing if it is of another version.

    Raises ValueError or what NumPy's reader raises if it is damaged or lies.
    """
    most = 4 * state.bytes + (1 << 20)  # of a tar whose members are all empty and have long names
    if files.state(path + ".idx").bytes > most:
        raise ValueError("it is larger than the tar allows")
    data = files.read_all(path + ".idx")
    with zipfile.ZipFile(io.BytesIO(data)) as stored:
        if sum(one.file_size for one in stored.infolist()) > len(data):
            raise ValueError("its arrays are larger than the file")  # ours are not compressed
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        if arrays["state"].tolist()[: 1 if files.is_remote(path) else 2] != _version(path, state):
            return None
        columns = {name: arrays[name] for name in _COLUMNS}
    for name, kind in _COLUMNS.items():
        if columns[name].ndim != 1 or columns[name].dtype.kind != kind:
            raise ValueError(f"{name} is {columns[name].dtype} {columns[name].shape}")
    index = TarIndex(
        **{name: one if name == "names" else one.astype(np.int64) for name, one in columns.items()}
    )
    _check(path, index, state.bytes)
    return index


def _check(path: str, index: TarIndex, tar_bytes: int) -> None:
    """Raises ValueError unless the index may be of this tar."""
    count = len(index.names)
    if not len(index.offsets) == len(index.sizes) == count:
        raise ValueError("its columns have different lengths")
    if (
        len(index.first) == 0
        or index.first[0] != 0
        or index.first[-1] != count
        or (np.diff(index.first) < 1).any()
    ):
        raise ValueError("its samples do not follow each other")
    if count and (
        index.offsets.min() < tarfile.BLOCKSIZE
        or index.offsets.max() > tar_bytes + tarfile.BLOCKSIZE
        or index.sizes.min() < 0
        or (index.offsets % tarfile.BLOCKSIZE).any()
    ):
        raise ValueError("a member lies outside the tar")
    shares = (0.0,) if files.is_remote(path) else (0.0, 0.25, 0.5, 0.75, 1.0)
    for sample in {round(share * (len(index) - 1)) for share in shares} if len(index) else ():
        members = range(int(index.first[sample]), int(index.first[sample + 1]))
        if len({sample_name(index.name(member))[0] for member in members}) > 1:
            raise ValueError(f"sample {sample} holds members of other samples")
        header = files.read_range(path, int(index.offsets[members[0]]) - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
        check_header(header, index, members[0])


def check_header(header: bytes, index: TarIndex, member: int) -> None:
    """Raises ValueError unless the 512 bytes before a member's content say what the index says of it.

    A name that is long or not ASCII, and the size of such a member, may stand elsewhere and are not compared.
    """
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(f"there is no header before {index.name(member)}: {error}") from error
    name, known = found.name.encode("utf-8", "surrogateescape"), bytes(index.names[member])
    elsewhere = len(known) > tarfile.LENGTH_NAME or not known.isascii()
    if not found.isreg() or (name != known and not elsewhere):
        raise ValueError(
            f"found {str(name[:60], 'utf-8', 'backslashreplace')} in place of {index.name(member)}"
        )


def _write(path: str, index: TarIndex, state: files.FileState) -> None:
    """Whole or not at all, however many processes index at once."""
    folder, name = os.path.split(path)
    half = os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        with open(half, "xb") as file:
            np.savez(
                file,
                state=np.array([state.bytes, state.mtime_ns]),
                first=index.first,
                names=index.names,
                offsets=index.offsets,
                sizes=index.sizes,
            )
        os.replace(half, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(half)
