"""Write the samples of a shard: the same samples give the same bytes, whoever writes them and when."""

from __future__ import annotations

import io
import os
import tarfile
from typing import IO, Any

from xvlm.common.json_file import json_text
from xvlm.data.files import storage
from xvlm.prepare.clean import CleanSample
from xvlm.prepare.sample import Sample


class TarOutput:
    """Writes a tar in WebDataset's form: an image and its fields with the same name.

    Args:
        file: file to write to.
        prefix: begins the names of the samples.
    """

    def __init__(self, file: IO[bytes], prefix: str) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._prefix, self._count = prefix, 0

    def add(self, sample: Sample, one: CleanSample) -> None:
        """Add a sample."""
        name = f"{self._prefix}-{self._count:05}"
        self._add(f"{name}.{one.suffix}", one.data)
        self._add(f"{name}.json", json_text(one.fields).encode())
        self._count += 1

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # its times and owners are 0
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members = []  # type: ignore[attr-defined]  # tarfile would hold all members in memory

    def finish(self) -> None:
        """Write the end of the tar."""
        self._tar.close()


class LinesOutput:
    """Writes JSON lines that name the images by their paths, relative to the folder of the lines.

    Args:
        file: file to write to.
        out: folder that the file will be in.
    """

    def __init__(self, file: IO[bytes], out: str) -> None:
        self._file, self._out = file, out

    def add(self, sample: Sample, one: CleanSample) -> None:
        """Add a sample."""
        fields: dict[str, Any] = {"image": self._path(str(sample.image)), **one.fields}
        if isinstance(right := fields.pop("right", None), str):
            fields["images"] = [fields.pop("image"), self._path(right)]
        self._file.write(json_text(fields).encode() + b"\n")

    def _path(self, image: str) -> str:
        both_local = not storage.is_remote(image) and not storage.is_remote(self._out)
        return os.path.relpath(image, self._out) if both_local else image

    def finish(self) -> None:
        """Nothing is left to write."""
