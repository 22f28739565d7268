"""Tar shards in the WebDataset layout, with random access through an index beside each.

Members that share a name up to the first dot of its last part are one sample: `dir/0001.jpg` with
`dir/0001.json` (fields in the published shapes), `dir/0001.txt` (a caption), or both.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvlm.data import files
from xvlm.data.published import USUAL_KEYS, Keys, record_from_fields
from xvlm.errors import InputError
from xvlm.records import BadRecord, Record

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
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


def build_tar_index(path: str) -> TarIndex:
    """Index the tar at `path` by its headers, and write the index to `path + ".idx"` (local files only).

    A member that the end of the file cuts off is in the index; reading it is a BadRecord.

    Raises:
        FileNotFoundError.
        InputError: not an uncompressed tar, or damaged between members.
    """
    state = files.state(path)
    index = _scan(path, state.bytes)
    if not files.is_remote(path):
        try:
            _write(path + ".idx", index, state)
        except OSError as error:
            _log.info("the index of %s stays in memory: %s", path, error)
    return index


def load_tar_index(path: str) -> TarIndex:
    """The index beside the tar; built anew where it is missing, unreadable, or of another version of the tar.

    Versions are told apart by size and, for local files, time of last change.
    """
    state = files.state(path)
    try:
        with np.load(io.BytesIO(files.read_all(path + ".idx")), allow_pickle=False) as stored:
            if stored["state"].tolist()[: 1 if files.is_remote(path) else 2] == _version(path, state):
                return TarIndex(stored["first"], stored["names"], stored["offsets"], stored["sizes"])
            _log.info("the index of %s is of another version of it; indexing anew", path)
    except FileNotFoundError:
        _log.info("indexing %s", path)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("the index of %s is damaged (%s); indexing anew", path, error)
    return build_tar_index(path)


class TarSource:
    """Samples of tar shards, local or remote; only the bytes of the wanted members are read.

    Args:
        paths: tars, globs, folders, or a list of them.
        image_root: where image paths start, for samples whose JSON names an image outside the tar.
    """

    def __init__(self, paths: files.Paths, image_root: str | None = None, keys: Keys = USUAL_KEYS) -> None:
        self._paths = files.expand(paths)
        self.name = files.name_of(paths)
        self._root = image_root
        self._keys = keys
        self._indexes = [load_tar_index(path) for path in self._paths]
        self.shards: Sequence[int] = [len(index) for index in self._indexes]
        self._ends = np.cumsum(self.shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, position: int) -> Record:
        shard, sample = files.locate(self._ends, position)
        path, index = self._paths[shard], self._indexes[shard]
        members = range(int(index.first[sample]), int(index.first[sample + 1]))
        key = f"{path}:{_split(str(index.names[members[0]], 'utf-8'))[0]}"
        by_suffix = {_split(str(index.names[member], "utf-8"))[1]: member for member in members}

        def read(suffix: str) -> bytes:
            offset, size = int(index.offsets[by_suffix[suffix]]), int(index.sizes[by_suffix[suffix]])
            data = files.read_range(path, offset, size)
            if len(data) < size:
                raise BadRecord("tar member is truncated", key, f".{suffix} has {len(data)} of {size} bytes")
            return data

        fields = _json(read("json"), key) if "json" in by_suffix else {}
        if "txt" in by_suffix and isinstance(fields, dict):
            fields.setdefault(self._keys.caption_key, read("txt").decode("utf-8", "replace").strip())
        image = next((suffix for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
        return record_from_fields(
            fields,
            key=key,
            image_root=os.path.dirname(path) if self._root is None else self._root,
            keys=self._keys,
            image=None if image is None else read(image),
        )


def _json(data: bytes, key: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRecord("member is not JSON", key, str(error)) from error


def _split(name: str) -> tuple[str, str]:
    """(sample's key, suffix in lower case): `dir.v2/0001.seg.PNG` -> (`dir.v2/0001`, `seg.png`)."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _scan(path: str, tar_bytes: int) -> TarIndex:
    samples: dict[str, list[tuple[bytes, int, int]]] = {}
    with files.open_binary(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                end = _members(tar, tar_bytes, samples)
        except tarfile.ReadError as error:
            raise InputError(f"{path} is not an uncompressed tar: {error}") from error
        file.seek(min(end, tar_bytes))
        rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
        if len(rest) == tarfile.BLOCKSIZE:
            raise InputError(f"{path} is damaged at byte {end}: neither a member nor the end of the tar")
        _log.warning("%s is cut off in a header, at byte %d", path, end)
    if end > tar_bytes:
        _log.warning("%s is cut off: its last member should end at byte %d of %d", path, end, tar_bytes)
    members = [member for sample in samples.values() for member in sample]
    return TarIndex(
        np.cumsum([0, *map(len, samples.values())], dtype=np.int64),
        np.array([name for name, _, _ in members], dtype=np.bytes_),
        np.array([offset for _, offset, _ in members], dtype=np.int64),
        np.array([size for _, _, size in members], dtype=np.int64),
    )


def _members(tar: tarfile.TarFile, tar_bytes: int, samples: dict[str, list[tuple[bytes, int, int]]]) -> int:
    """Collect regular files by sample; returns where the last member ends."""
    end = 0
    while end < tar_bytes and (member := tar.next()) is not None:
        end = tar.offset
        if member.isfile() and not os.path.basename(member.name).startswith("."):
            item = (member.name.encode("utf-8", "surrogateescape"), member.offset_data, member.size)
            samples.setdefault(_split(member.name)[0], []).append(item)
    return end


def _version(path: str, state: files.FileState) -> list[int]:
    return [state.bytes] if files.is_remote(path) else [state.bytes, state.mtime_ns]


def _write(path: str, index: TarIndex, state: files.FileState) -> None:
    """Whole or not at all, however many processes index at once."""
    half = f"{path}.{os.getpid()}"
    try:
        with open(half, "wb") as file:
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
        if os.path.exists(half):
            os.remove(half)
