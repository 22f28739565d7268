"""Records from tar shards in the WebDataset layout, with random access through an index beside each shard.

Members whose names agree up to the first dot of the file name form one sample: `dir/0001.jpg` with
`dir/0001.json` (fields in the published forms), `dir/0001.txt` (a caption), or both.
"""

from __future__ import annotations

import os
from tarfile import BLOCKSIZE

from xvlm.common.errors import InputError
from xvlm.data.files import shard_cache, storage
from xvlm.data.files.json_parser import INVALID_UNICODE, decode_unicode, parse_value
from xvlm.data.sources.record_fields import DEFAULT_FIELD_NAMES, FieldNames, record_from_fields
from xvlm.data.sources.source import IndexedSource
from xvlm.data.sources.tar_index import TarIndex, check_header, load_tar_index, sample_name
from xvlm.records import BadRecord, Record

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MAX_MEMBER_BYTES = 1 << 29
_SPAN = 1.5
"""Bytes that are read at once, divided by those that are needed, at most."""
_KNOWN_SUFFIXES = {*IMAGE_SUFFIXES, "json", "txt"}
_NAMING_RULE = (
    "a sample's key ends at the first dot of the file's name, and its suffix begins there (WebDataset's rule)"
)


class TarSource(IndexedSource):
    """Samples of tar shards, local or remote; only the bytes of the members of a sample are read.

    Args:
        paths: tars, globs, folders, or a list of them.
        image_root: folder or URL that image paths are relative to, for samples whose JSON names an image
            outside the tar; by default the folder of each tar.
        field_names: names of the fields, if the JSON members do not use the usual ones.
    Raises:
        MissingFileError: a path names no file.
        InputError: a tar is damaged, holds no sample, or its names have dots before their suffixes.
    """

    def __init__(
        self,
        paths: storage.Paths,
        image_root: str | None = None,
        field_names: FieldNames = DEFAULT_FIELD_NAMES,
    ) -> None:
        self._paths = storage.expand(paths)
        self._root = image_root
        self._field_names = field_names
        self._indexes = [load_tar_index(path) for path in self._paths]
        self._bytes = [storage.file_state(path).bytes for path in self._paths]
        super().__init__(storage.display_name(paths), [len(index) for index in self._indexes])
        if len(self) == 0:
            raise InputError(f"{self.name} holds no sample")
        for path, index in zip(self._paths, self._indexes, strict=True):
            _check_names(path, index)

    def __getitem__(self, position: int, /) -> Record:
        shard, sample = self.locate(position)
        path, index = self._paths[shard], self._indexes[shard]
        members = index.members(sample)
        names = [sample_name(index.name(member)) for member in members]
        key = f"{path}:{names[0][0]}"
        if any(name != names[0][0] for name, _ in names):
            raise BadRecord("tar index does not fit", key, f"it also holds a member of {names[-1][0]}")
        by_suffix = dict(zip((suffix for _, suffix in names), members, strict=True))
        if _KNOWN_SUFFIXES.isdisjoint(by_suffix):
            raise BadRecord("unknown fields", key, f"found {_list_names(index, members)}; {_NAMING_RULE}")

        image_suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
        needed = [one for one in ("json", "txt", image_suffix) if one in by_suffix]
        read = read_members(path, index, [by_suffix[one] for one in needed], self._bytes[shard], key)
        data = dict(zip(needed, read, strict=True))
        fields = parse_value(data["json"], "member", key) if "json" in data else {}
        if "txt" in data and isinstance(fields, dict):
            fields.setdefault(self._field_names.caption_key, _decode_text(data["txt"], key))
        return record_from_fields(
            fields,
            key=key,
            image_root=os.path.dirname(path) if self._root is None else self._root,
            field_names=self._field_names,
            image=None if image_suffix is None else data[image_suffix],
        )

    def prefetch(self, position: int) -> None:
        """Begin to copy the shard of a record that will be read soon, if there is a cache for that."""
        shard_cache.prefetch(self._paths[self.locate(position)[0]])


def read_members(path: str, index: TarIndex, members: list[int], tar_bytes: int, key: str) -> list[bytes]:
    """Return the contents of members of a tar, by one request if they are next to each other.

    Raises BadRecord as `read_member` does.
    """
    starts = [int(index.offsets[member]) - BLOCKSIZE for member in members]
    ends = [int(index.offsets[member]) + int(index.sizes[member]) for member in members]
    start, size = min(starts), max(ends) - min(starts)
    needed = sum(ends) - sum(starts)
    are_near = max(ends) <= tar_bytes and size <= min(_SPAN * needed, MAX_MEMBER_BYTES)
    data = shard_cache.read_range(path, start, size) if len(members) > 1 and are_near else b""
    if len(data) == size:
        parts = [data[first - start : end - start] for first, end in zip(starts, ends, strict=True)]
        return [_checked(part, path, index, member, key) for part, member in zip(parts, members, strict=True)]
    return [read_member(path, index, member, tar_bytes, key) for member in members]


def read_member(path: str, index: TarIndex, member: int, tar_bytes: int, key: str) -> bytes:
    """Return the content of a member of a tar of `tar_bytes` bytes.

    Raises BadRecord if it is truncated, too large, or another one than the index says.
    """
    offset, size = int(index.offsets[member]), int(index.sizes[member])
    suffix = sample_name(index.name(member))[1]
    available = max(0, min(size, tar_bytes - offset))
    if available == size > MAX_MEMBER_BYTES:
        detail = f".{suffix} has {size:,} bytes, at most {MAX_MEMBER_BYTES:,} are allowed"
        raise BadRecord("tar member is too large", key, detail)
    data = b""
    if available == size:
        data = shard_cache.read_range(path, offset - BLOCKSIZE, BLOCKSIZE + size)
    if len(data) < BLOCKSIZE + size:
        available = min(available, max(0, len(data) - BLOCKSIZE)) if data else available
        raise BadRecord("tar member is truncated", key, f".{suffix} has {available} of {size} bytes")
    return _checked(data, path, index, member, key)


def _checked(data: bytes, path: str, index: TarIndex, member: int, key: str) -> bytes:
    """Return the content of a member without its header.  Raises BadRecord if it is another one."""
    try:
        check_header(data[:BLOCKSIZE], index, member)
    except ValueError as error:
        raise BadRecord("tar index does not fit", key, f"{error}; remove {path}.idx") from error
    return data[BLOCKSIZE:]


def _decode_text(data: bytes, key: str) -> str:
    try:
        return decode_unicode(data).strip()
    except UnicodeDecodeError as error:
        raise BadRecord(INVALID_UNICODE, key, f".txt: {error}") from error


def _check_names(path: str, index: TarIndex) -> None:
    """Raise InputError if, in each of five samples, names have dots before their suffixes."""
    members = [index.members(sample)[:1000] for sample in index.probe_samples()]
    suffixes = [sample_name(index.name(member))[1] for sample in members for member in sample]
    known_at_last_dot = any(suffix.rpartition(".")[2] in _KNOWN_SUFFIXES for suffix in suffixes)
    if known_at_last_dot and _KNOWN_SUFFIXES.isdisjoint(suffixes):
        raise InputError(
            f"{path} holds no sample that can be read: found {_list_names(index, members[0])}; "
            f"{_NAMING_RULE}, so the suffix is none of an image, json or txt; rename the members so that no "
            "dot precedes it"
        )


def _list_names(index: TarIndex, members: range) -> str:
    names = ", ".join(index.name(member)[:100] for member in members[:4])
    return names + (f" and {len(members) - 4} more" if len(members) > 4 else "")
