"""Records from tar shards in the WebDataset layout, with random access through an index beside each shard.

Members whose names agree up to the first dot of the file name form one sample: `dir/0001.jpg` with
`dir/0001.json` (fields in the published forms), `dir/0001.txt` (a caption), or both.
"""

from __future__ import annotations

import os
from tarfile import BLOCKSIZE

from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.data.files.json_parser import INVALID_UNICODE, decode_unicode, parse_value
from xvlm.data.sources.record_fields import DEFAULT_FIELD_NAMES, FieldNames, record_from_fields
from xvlm.data.sources.source import IndexedSource
from xvlm.data.sources.tar_index import TarIndex, check_header, load_tar_index, sample_name
from xvlm.records import BadRecord, Record

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MAX_MEMBER_BYTES = 1 << 29
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

        def read(suffix: str) -> bytes:
            return read_member(path, index, by_suffix[suffix], self._bytes[shard], key)

        fields = parse_value(read("json"), "member", key) if "json" in by_suffix else {}
        if "txt" in by_suffix and isinstance(fields, dict):
            fields.setdefault(self._field_names.caption_key, _decode_text(read("txt"), key))
        image_suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
        return record_from_fields(
            fields,
            key=key,
            image_root=os.path.dirname(path) if self._root is None else self._root,
            field_names=self._field_names,
            image=None if image_suffix is None else read(image_suffix),
        )


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
        data = storage.read_range(path, offset - BLOCKSIZE, BLOCKSIZE + size)
    if len(data) < BLOCKSIZE + size:
        available = min(available, max(0, len(data) - BLOCKSIZE)) if data else available
        raise BadRecord("tar member is truncated", key, f".{suffix} has {available} of {size} bytes")
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
