"""Listing of photos: folders, lists, shards, remote; what cannot be listed is told, never lost."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import fsspec
import pytest

from tests.search.collection import NAMES, write_collection
from tests.tiny import photo
from xvlm.common.errors import InputError, MissingFileError
from xvlm.records import BadRecord
from xvlm.search.photos import PhotoFile, list_photos, read_photo


def listed(*roots: object) -> list[str]:
    return [one.path for one in list_photos([str(root) for root in roots]) if isinstance(one, PhotoFile)]


def bad(*roots: object) -> list[BadRecord]:
    return [one for one in list_photos([str(root) for root in roots]) if isinstance(one, BadRecord)]


def test_a_folder_is_searched_with_those_below_it(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "deep" / ".hidden").mkdir()
    photo(20, 20, 0).save(tmp_path / "deep" / ".hidden" / "x.jpg")
    photo(20, 20, 0).save(tmp_path / ".x.jpg")
    (tmp_path / "UPPER.JPG").write_bytes((tmp_path / "a.jpg").read_bytes())
    found = listed(tmp_path)
    assert sorted(found) == sorted(str(tmp_path / name) for name in (*NAMES, "UPPER.JPG"))
    assert listed(tmp_path) == found, "the order is that of the names"
    assert bad(tmp_path) == []


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    assert len(listed(tmp_path)) == len(NAMES) + 1
    assert [(one.reason, Path(one.key).name) for one in bad(tmp_path)] == [
        ("image file unreadable", "dangling.jpg")
    ]


def test_paths_are_absolute_and_keep_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_collection(tmp_path / "photos")
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    assert listed("link")[0] == str(tmp_path / "link" / "a.jpg")


def test_a_name_that_is_not_unicode_is_told(tmp_path: Path) -> None:
    write_collection(tmp_path)
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(name, "wb") as file:
        file.write((tmp_path / "a.jpg").read_bytes())
    assert [one.reason for one in bad(tmp_path)] == ["file name is not valid Unicode"]
    assert len(listed(tmp_path)) == len(NAMES)


def test_an_unreadable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chmod` does not stop root, who runs tests in containers."""
    write_collection(tmp_path)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("er"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("xvlm.search.photos.os.scandir", refuse)
    assert [(one.reason, Path(one.key).name) for one in bad(tmp_path)] == [("folder unreadable", "er")]
    assert len(listed(tmp_path)) == len(NAMES) - 1


@pytest.mark.parametrize("root", ["gone", "gone.jpg", "gone.txt", "gone.tar", "memory://gone/x.jpg"])
def test_a_root_that_does_not_exist_is_an_error(tmp_path: Path, root: str) -> None:
    path = root if "://" in root else str(tmp_path / root)
    with pytest.raises(MissingFileError, match="gone"):
        list(list_photos([path]))


def test_a_list_names_photos_relative_to_itself(tmp_path: Path) -> None:
    write_collection(tmp_path / "photos")
    lines = ["photos/a.jpg", "", str(tmp_path / "photos" / "b.png"), "photos/gone.jpg", "photos/a.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert listed(tmp_path / "list.txt") == [
        str(tmp_path / "photos" / name) for name in ("a.jpg", "b.png", "a.jpg")
    ]
    assert [one.reason for one in bad(tmp_path / "list.txt")] == ["image file missing"]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg")
    with pytest.raises(InputError, match="UTF-8"):
        list(list_photos([str(tmp_path / "latin.txt")]))


def write_tar(path: Path, names: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_photos_of_a_tar(tmp_path: Path) -> None:
    write_collection(tmp_path / "photos")
    data = {name: (tmp_path / "photos" / name).read_bytes() for name in NAMES}
    tar = write_tar(tmp_path / "photos" / "000.tar", {**data, "a.json": b"{}", "a.txt": b"a dog"})
    assert listed(tar) == [f"{tar}/{name}" for name in NAMES]
    assert [read_photo(f"{tar}/{name}") for name in NAMES] == list(data.values())
    assert len(listed(tmp_path / "photos")) == 2 * len(NAMES), "and of a tar in a folder"
    with pytest.raises(BadRecord, match=r"no member gone\.jpg"):
        read_photo(f"{tar}/gone.jpg")
    (tmp_path / "list.txt").write_text(f"photos/000.tar/a.jpg\n{tar}/gone.jpg")
    assert listed(tmp_path / "list.txt") == [f"{tar}/a.jpg"]
    assert len(bad(tmp_path / "list.txt")) == 1


def test_a_damaged_tar_in_a_folder_is_told(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "000.tar").write_bytes(b"no tar" * 1000)
    assert [one.reason for one in bad(tmp_path)] == ["tar unreadable"]
    with pytest.raises(InputError, match=r"000\.tar"):
        list(list_photos([str(tmp_path / "000.tar")]))


def test_a_folder_called_tar_is_a_folder(tmp_path: Path) -> None:
    write_collection(tmp_path / "x.tar")
    assert len(listed(tmp_path)) == len(NAMES)
    assert read_photo(listed(tmp_path)[0])


def test_remote_photos(tmp_path: Path) -> None:
    write_collection(tmp_path)
    files = fsspec.filesystem("memory")
    files.store.clear()
    for name in NAMES:
        files.pipe(f"/photos/{name}", (tmp_path / name).read_bytes())
    found = listed("memory://photos")
    assert found == [f"memory:///photos/{name}" for name in sorted(NAMES)]
    assert read_photo(found[0]) == (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(BadRecord, match="missing"):
        read_photo("memory:///photos/gone.jpg")
