"""Samples of tar shards in the WebDataset layout, with random access through an index beside each.

Members that share a name up to the first dot of its last part are one sample: `dir/0001.jpg` with
`dir/0001.json` (fields in the published shapes), `dir/0001.txt` (a caption), or both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from xvlm.data import files
from xvlm.data.json_text import INVALID_UNICODE, decoded, parse_json
from xvlm.data.published import USUAL_KEYS, Keys, record_from_fields
from xvlm.data.tar_index import TarIndex, check_header, load_tar_index, sample_name
from xvlm.errors import InputError
from xvlm.records import BadRecord, Record

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MAX_MEMBER_BYTES = 1 << 29
_KNOWN = {*IMAGE_SUFFIXES, "json", "txt"}
_RULE = (
    "a sample's key ends at the first dot of the file's name, and its suffix begins there (WebDataset's rule)"
)
_BLOCK = 512


class TarSource:
    """Samples of tar shards, local or remote; only the bytes of the wanted members are read.

    Args:
        paths: tars, globs, folders, or a list of them.
        image_root: where image paths start, for samples whose JSON names an image outside the tar.
    Raises:
        MissingFileError: a path names no file.
        InputError: a tar is damaged, holds no sample, or its names have dots before their suffixes.
    """

    def __init__(self, paths: files.Paths, image_root: str | None = None, keys: Keys = USUAL_KEYS) -> None:
        self._paths = files.expand(paths)
        self.name = files.name_of(paths)
        self._root = image_root
        self._keys = keys
        self._indexes = [load_tar_index(path) for path in self._paths]
        self._bytes = [files.state(path).bytes for path in self._paths]
        self.shards: Sequence[int] = [len(index) for index in self._indexes]
        self._ends = np.cumsum(self.shards)
        if len(self) == 0:
            raise InputError(f"{self.name} holds no sample")
        for path, index in zip(self._paths, self._indexes, strict=True):
            _check_names(path, index)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, position: int) -> Record:
        shard, sample = files.locate(self._ends, position)
        path, index = self._paths[shard], self._indexes[shard]
        members = range(int(index.first[sample]), int(index.first[sample + 1]))
        names = [sample_name(index.name(member)) for member in members]
        key = f"{path}:{names[0][0]}"
        if any(name != names[0][0] for name, _ in names):
            raise BadRecord("tar index does not fit", key, f"it holds a member of {names[-1][0]} too")
        by_suffix = dict(zip((suffix for _, suffix in names), members, strict=True))
        if _KNOWN.isdisjoint(by_suffix):
            raise BadRecord("unknown fields", key, f"found {_shown(index, members)}; {_RULE}")

        def read(suffix: str) -> bytes:
            return self._member(shard, by_suffix[suffix], suffix, key)

        fields = parse_json(read("json"), "member", key) if "json" in by_suffix else {}
        if "txt" in by_suffix and isinstance(fields, dict):
            fields.setdefault(self._keys.caption_key, _text(read("txt"), key))
        image = next((suffix for suffix in IMAGE_SUFFIXES if suffix in by_suffix), None)
        return record_from_fields(
            fields,
            key=key,
            image_root=os.path.dirname(path) if self._root is None else self._root,
            keys=self._keys,
            image=None if image is None else read(image),
        )

    def _member(self, shard: int, member: int, suffix: str, key: str) -> bytes:
        """The content of a member.  Raises BadRecord if it is cut off, too large, or another one."""
        index, path = self._indexes[shard], self._paths[shard]
        offset, size = int(index.offsets[member]), int(index.sizes[member])
        found = max(0, min(size, self._bytes[shard] - offset))
        if found == size > MAX_MEMBER_BYTES:
            detail = f".{suffix} has {size:,} bytes, at most {MAX_MEMBER_BYTES:,} are allowed"
            raise BadRecord("tar member is too large", key, detail)
        data = files.read_range(path, offset - _BLOCK, _BLOCK + found) if found == size else b""
        if len(data) < _BLOCK + size:
            found = min(found, max(0, len(data) - _BLOCK)) if data else found
            raise BadRecord("tar member is truncated", key, f".{suffix} has {found} of {size} bytes")
        try:
            check_header(data[:_BLOCK], index, member)
        except ValueError as error:
            raise BadRecord("tar index does not fit", key, f"{error}; remove {path}.idx") from error
        return data[_BLOCK:]


def _text(data: bytes, key: str) -> str:
    try:
        return decoded(data).strip()
    except UnicodeDecodeError as error:
        raise BadRecord(INVALID_UNICODE, key, f".txt: {error}") from error


def _check_names(path: str, index: TarIndex) -> None:
    """Raises InputError where names have dots before their suffixes, so that samples are thrown together.

    Some samples are looked at; one that can be read is enough.
    """
    some = (
        sorted({round(share * (len(index) - 1)) for share in (0, 0.25, 0.5, 0.75, 1)}) if len(index) else []
    )
    members = [range(int(index.first[i]), int(index.first[i + 1]))[:1000] for i in some]
    names = [sample_name(index.name(member)) for several in members for member in several]
    known_at_last_dot = any(suffix.rpartition(".")[2] in _KNOWN for _, suffix in names)
    if known_at_last_dot and _KNOWN.isdisjoint(suffix for _, suffix in names):
        raise InputError(
            f"{path} holds no sample that can be read: found {_shown(index, members[0])}; {_RULE}, so the "
            "suffix is none of an image, json or txt; rename the members so that no dot stands before it"
        )


def _shown(index: TarIndex, members: range) -> str:
    names = ", ".join(index.name(member)[:100] for member in members[:4])
    return names + (f" and {len(members) - 4} more" if len(members) > 4 else "")
