"""Which paths are read, and by whom they may be named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.data import make
from xvlm.data import files
from xvlm.data.images import open_image
from xvlm.data.limits import current, limited
from xvlm.data.sources import HuggingFaceSource, JsonSource, open_source
from xvlm.errors import InputError, MissingFileError, MissingPackageError
from xvlm.records import BadRecord

PNG = make.encoded(make.photo(30, 20), "PNG")


def _reading(path: str) -> list[Any]:
    """Every way to read a path."""
    return [
        lambda: files.open_binary(path),
        lambda: files.read_range(path, 0, 1),
        lambda: files.read_all(path),
        lambda: files.read_image(path),
        lambda: files.state(path),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "reference://x::file:///etc/hostname",
        "simplecache::memory://a.jpg",
        "zip://a.jpg::https://example.org/a.zip",
        "filecache::s3://bucket/a.jpg",
    ],
)
def test_chains_are_refused_before_fsspec_sees_them(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "filesystem"):
        monkeypatch.setattr(fsspec, name, None)
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)
    for read in [*_reading(url), lambda: files.expand(url), lambda: open_source(url)]:
        with pytest.raises(InputError, match="chains protocols by '::', which is not read"):
            read()


@pytest.mark.parametrize(
    "protocol", ["reference", "github", "ftp", "sftp", "ssh", "smb", "local", "git", "x"]
)
def test_protocols_stand_in_a_list(protocol: str) -> None:
    for read in [*_reading(f"{protocol}://a/b.jpg"), lambda: files.expand(f"{protocol}://a/b.jpg")]:
        with pytest.raises(InputError, match=f"is of protocol '{protocol}'; those read are http, https, s3"):
            read()


def test_a_reference_template_is_not_rendered(tmp_path: Path) -> None:
    """Old fsspec renders such a file by jinja2, which may call anything."""
    template = {"version": 1, "templates": {"u": "{{ 1 }}"}, "gen": [], "refs": {"a.jpg": ["{{u}}", 0, 1]}}
    (tmp_path / "r.json").write_text(json.dumps(template))
    url = f"reference://a.jpg::file://{tmp_path}/r.json"
    line = make.write_lines(tmp_path / "a.jsonl", [{"caption": "a", "image": url}])
    with limited(allow_remote=True):
        record = JsonSource(line)[0]
        with pytest.raises(BadRecord, match="chains protocols") as caught:
            open_image(record.image, key=record.key)
    assert caught.value.reason == "image file unreadable"


@pytest.mark.parametrize(
    "field", [{"image": "URL"}, {"images": ["URL", "b.jpg"]}, {"images": ["b.jpg", "URL"]}]
)
@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "s3://bucket/a.jpg", "memory://a.jpg"])
def test_urls_in_data_files_need_permission(field: dict, url: str, tmp_path: Path) -> None:
    line = json.loads(json.dumps({"sentence": "a", "label": "True", **field}).replace("URL", url))
    source = JsonSource(make.write_lines(tmp_path / "a.jsonl", [line]))
    with pytest.raises(BadRecord, match="--allow-remote allows URLs in data files") as caught:
        source[0]
    assert caught.value.reason == "remote image is not allowed"
    with limited(allow_remote=True):
        record = source[0]
    assert url in (record.image, record.extra.get("right"))


def test_paths_of_a_loaded_dataset_need_permission_too() -> None:
    source = HuggingFaceSource([{"image": "memory://a.jpg", "caption": "a"}])
    with pytest.raises(BadRecord, match="--allow-remote"):
        source[0]


def test_what_a_person_names_may_be_remote(tmp_path: Path) -> None:
    with fsspec.open("memory://named/a.png", "wb") as file:
        file.write(PNG)
    with fsspec.open("memory://named/a.jsonl", "wb") as file:
        file.write(b'{"caption": "a", "image": "a.png"}\n')
    line = make.write_lines(tmp_path / "a.jsonl", [{"caption": "a", "image": "a.png"}])
    for source in (open_source("memory://named/a.jsonl"), open_source(line, "memory://named")):
        assert open_image(source[0].image, key="k").width == 30
    assert not current().allow_remote


def test_the_size_of_a_remote_image_is_limited() -> None:
    with fsspec.open("memory://large/a.png", "wb") as file:
        file.write(PNG)
    with limited(max_file_bytes=len(PNG)):
        assert files.read_image("memory://large/a.png") == PNG
    with (
        limited(max_file_bytes=len(PNG) - 1),
        pytest.raises(InputError, match="bytes that are read of an image"),
    ):
        files.read_image("memory://large/a.png")


def test_local_paths_are_read_wherever_they_are(tmp_path: Path) -> None:
    (tmp_path / "a::b.png").write_bytes(PNG)
    (tmp_path / "folder").mkdir()
    paths = [str(tmp_path / "a::b.png"), f"{tmp_path}/folder/../a::b.png", f"file://{tmp_path}/a::b.png"]
    source = JsonSource(make.write_lines(tmp_path / "folder" / "a.jsonl", [
        {"caption": "a", "image": path} for path in [*paths, "../a::b.png"]
    ]))  # fmt: skip
    assert [open_image(source[i].image, key="k").width for i in range(4)] == [30] * 4
    assert files.expand(f"file://{tmp_path}/*.png") == [paths[0]]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would hang, a device would never end."""
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (str(tmp_path / "pipe"), "a pipe"),
        (str(tmp_path), "a folder"),
        ("/dev/zero", "a device"),
    ):
        for read in _reading(path):
            with pytest.raises(InputError, match=f"is {kind}, not a file"):
                read()
    for read in _reading(str(tmp_path / "none")):
        with pytest.raises(MissingFileError, match=r"No such file: .*none"):
            read()
    for read in _reading("null\0byte"):
        with pytest.raises(InputError, match="cannot be read"):
            read()


def test_files_without_a_stated_size_are_read() -> None:
    assert files.read_image("/proc/self/status").startswith(b"Name:")


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for read in _reading("s3://bucket/a.jpg"):
        with pytest.raises(
            MissingPackageError, match=r"reading 's3://bucket/a.jpg' needs .*'xvlm\[remote\]'"
        ):
            read()
    with pytest.raises(BadRecord) as caught:
        open_image("s3://bucket/a.jpg", key="k")
    assert caught.value.reason == "image needs a package that is not installed"


def test_whatever_a_client_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        pass

    def fails(*arguments: Any, **options: Any) -> Any:
        raise ClientError("no credentials")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fails)
    for read in _reading("gs://bucket/a.jpg"):
        with pytest.raises(InputError, match="cannot be read: ClientError: no credentials"):
            read()
