"""Only allowed paths are read; URLs in data files need permission."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from tests.data import make
from xvlm.common.errors import InputError, MissingFileError, MissingPackageError
from xvlm.data.files import storage
from xvlm.data.files.limits import current_limits, temporary_limits
from xvlm.data.images.decode import open_image
from xvlm.data.sources.huggingface import HuggingFaceSource
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source

PNG = make.encoded(make.photo(30, 20), "PNG")


def _reading(path: str) -> list[Any]:
    """Return every way to read a path."""
    readers = [storage.open_binary, storage.read_all, storage.read_image, storage.file_state]
    return [*(partial(read, path) for read in readers), partial(storage.read_range, path, 0, 1)]


CHAINS = ["reference://x::file:///etc/hostname", "simplecache::memory://a.jpg"]
CHAINS += ["zip://a.jpg::https://example.org/a.zip", "filecache::s3://bucket/a.jpg"]


@pytest.mark.parametrize("url", CHAINS)
def test_chains_are_refused_before_fsspec_is_called(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "filesystem"):
        monkeypatch.setattr(fsspec, name, None)
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)
    for read in [*_reading(url), lambda: storage.expand(url), lambda: open_source(url)]:
        with pytest.raises(InputError, match="chains protocols by '::', which is not allowed"):
            read()


@pytest.mark.parametrize(
    "protocol", ["reference", "github", "ftp", "sftp", "ssh", "smb", "local", "git", "x"]
)
def test_only_protocols_of_a_fixed_list_are_read(protocol: str) -> None:
    for read in [*_reading(f"{protocol}://a/b.jpg"), lambda: storage.expand(f"{protocol}://a/b.jpg")]:
        with pytest.raises(InputError, match=f"has the protocol '{protocol}'; allowed are http, https, s3"):
            read()


def test_a_reference_template_is_not_rendered(tmp_path: Path) -> None:
    """Old versions of fsspec render such a file by jinja2, which may call any function."""
    template = {"version": 1, "templates": {"u": "{{ 1 }}"}, "gen": [], "refs": {"a.jpg": ["{{u}}", 0, 1]}}
    (tmp_path / "r.json").write_text(json.dumps(template))
    url = f"reference://a.jpg::file://{tmp_path}/r.json"
    line = make.write_lines(tmp_path / "a.jsonl", [{"caption": "a", "image": url}])
    with temporary_limits(allow_remote=True):
        record = JsonSource(line)[0]
        error = make.bad_record(open_image, record.image, key=record.key)
    assert error.reason == "image file unreadable" and "chains protocols" in error.detail


@pytest.mark.parametrize(
    "field", [{"image": "URL"}, {"images": ["URL", "b.jpg"]}, {"images": ["b.jpg", "URL"]}]
)
@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://bucket/a.jpg", "memory://a.jpg"])
def test_urls_in_data_files_need_permission(field: dict, url: str, tmp_path: Path) -> None:
    line = json.loads(json.dumps({"sentence": "a", "label": "True", **field}).replace("URL", url))
    source = JsonSource(make.write_lines(tmp_path / "a.jsonl", [line]))
    error = make.bad_record(source.__getitem__, 0)
    assert error.reason == "remote image is not allowed"
    assert "--allow-remote allows URLs in data files" in error.detail
    with temporary_limits(allow_remote=True):
        record = source[0]
    assert url in (record.image, record.extra.get("right"))


def test_paths_of_a_loaded_dataset_need_permission_too() -> None:
    source = HuggingFaceSource([{"image": "memory://a.jpg", "caption": "a"}])
    assert "--allow-remote" in make.bad_record(source.__getitem__, 0).detail


def test_paths_of_the_user_may_be_remote(tmp_path: Path) -> None:
    with fsspec.open("memory://named/a.png", "wb") as file:
        file.write(PNG)
    with fsspec.open("memory://named/a.jsonl", "wb") as file:
        file.write(b'{"caption": "a", "image": "a.png"}\n')
    line = make.write_lines(tmp_path / "a.jsonl", [{"caption": "a", "image": "a.png"}])
    for source in (open_source("memory://named/a.jsonl"), open_source(line, "memory://named")):
        assert open_image(source[0].image, key="k").width == 30
    assert not current_limits().allow_remote


def test_the_size_of_a_remote_image_is_limited() -> None:
    with fsspec.open("memory://large/a.png", "wb") as file:
        file.write(PNG)
    with temporary_limits(max_file_bytes=len(PNG)):
        assert storage.read_image("memory://large/a.png") == PNG
    limits = temporary_limits(max_file_bytes=len(PNG) - 1)
    with limits, pytest.raises(InputError, match="bytes allowed for an image"):
        storage.read_image("memory://large/a.png")


def test_local_paths_are_read_from_every_folder(tmp_path: Path) -> None:
    (tmp_path / "a::b.png").write_bytes(PNG)
    (tmp_path / "folder").mkdir()
    paths = [str(tmp_path / "a::b.png"), f"{tmp_path}/folder/../a::b.png", f"file://{tmp_path}/a::b.png"]
    lines = [{"caption": "a", "image": path} for path in [*paths, "../a::b.png"]]
    source = JsonSource(make.write_lines(tmp_path / "folder" / "a.jsonl", lines))
    assert [open_image(source[i].image, key="k").width for i in range(4)] == [30] * 4
    assert storage.expand(f"file://{tmp_path}/*.png") == [paths[0]]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe without a writer would hang, a device would never end."""
    os.mkfifo(tmp_path / "pipe")
    kinds = {str(tmp_path / "pipe"): "a pipe", str(tmp_path): "a folder", "/dev/zero": "a device"}
    for path, kind in kinds.items():
        for read in _reading(path):
            with pytest.raises(InputError, match=f"is {kind}, not a file"):
                read()
    for read in _reading(str(tmp_path / "none")):
        with pytest.raises(MissingFileError, match=r"No such file: .*none"):
            read()
    for read in _reading("null\0byte"):
        with pytest.raises(InputError, match="cannot be read"):
            read()


def test_files_that_claim_no_size_are_read() -> None:
    assert storage.read_image("/proc/self/status").startswith(b"Name:")


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    expected = r"reading 's3://bucket/a.jpg' needs .*'xvlm\[remote\]'"
    for read in _reading("s3://bucket/a.jpg"):
        with pytest.raises(MissingPackageError, match=expected):
            read()
    error = make.bad_record(open_image, "s3://bucket/a.jpg", key="k")
    assert error.reason == "image needs a package that is not installed"


def test_every_error_of_a_client_becomes_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        pass

    def fails(*arguments: Any, **options: Any) -> Any:
        raise ClientError("no credentials")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fails)
    for read in _reading("gs://bucket/a.jpg"):
        with pytest.raises(InputError, match="cannot be read: ClientError: no credentials"):
            read()


class _BlockFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file as those of s3fs and gcsfs: read by blocks, with fsspec's own `readline`."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        return LINES[start:end]


LINES = b"".join(b'{"caption": "number %d", "image": "%d.png"}\n' % (n, n) for n in range(3000))


def test_lines_of_a_file_that_fsspec_reads_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class FileSystem(AbstractFileSystem):  # type: ignore[misc]
        def open(self, path: str, mode: str = "rb", **options: Any) -> _BlockFile:
            return _BlockFile(self, path, mode)

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            return {"name": path, "size": len(LINES), "type": "file"}

        def cat_file(self, path: str, start: int = 0, end: int | None = None, **options: Any) -> bytes:
            return LINES[start:end]

    monkeypatch.setattr(storage, "_filesystem", lambda path: (FileSystem(), path))
    source = JsonSource("s3://bucket/a.jsonl")
    assert len(source) == 3000
    assert source[2999].concepts[0].texts == ("number 2999",)
    assert storage.read_all("s3://bucket/a.jsonl") == LINES
