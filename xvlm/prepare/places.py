"""Find the files of annotations, and the images that annotations name by paths of another machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from xvlm.data.files import storage
from xvlm.data.files.json_parser import is_unicode
from xvlm.records import BadRecord


def json_files(folder: str) -> list[str]:
    """Return the JSON files in a folder and the folders below, sorted; none if it is no folder."""
    return list(files_below(folder, (".json",)))


def files_below(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files with one of these suffixes in a folder and the folders below, sorted."""
    if storage.is_remote(folder):
        if storage.is_folder(folder):
            yield from (path for path, _ in storage.find_remote(folder) if path.lower().endswith(suffixes))
        return
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (f"{parent}/{name}" for name in sorted(names) if name.lower().endswith(suffixes))


def checked_names(paths: Iterable[str]) -> Iterator[str | BadRecord]:
    """Yield paths, and a `BadRecord` for each whose bytes are no text, since shards name them as such."""
    for path in paths:
        if is_unicode(path):
            yield path
        else:
            readable = path.encode("utf-8", "backslashreplace").decode()
            yield BadRecord("file name is not UTF-8", readable)


def find_image(key: str, name: str, images: str | None, *folders: str) -> str:
    """Return the path of an image that annotations name, see `ImageFinder`.  Raises BadRecord."""
    return ImageFinder((), images, *folders).find(key, name)


class ImageFinder:
    """Finds images that annotations name, maybe by paths of another machine.

    A name is looked for as it is written, in each folder; then by ever shorter ends of it, so that the
    longest end that is in any folder decides.  Backslashes of Windows separate folders, too.

    Args:
        names: all names that the annotations have.
        images: folder that the user named, or `None`; then absolute names are taken as they are first.
        folders: further folders to look in.
        shorten: returns the name that a file may have in place of the one that annotations have, or `None`.
    """

    def __init__(
        self,
        names: Iterable[str],
        images: str | None,
        *folders: str,
        shorten: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self._images, self._shorten = images, shorten
        self._folders = list(dict.fromkeys(filter(None, (images, *folders))))
        self._shares: dict[str, set[str]] = {}
        for name in names:
            if not storage.is_remote(name) and (path := self._path(name)[0]) is not None:
                self._shares.setdefault(path, set()).add("/".join(_parts(name)))

    def find(self, key: str, name: str) -> str:
        """Return the path of an image.

        Raises:
            BadRecord: it is in no folder, or the file was found by the end of its name alone and another name
                has it too, so that one of both is another image.
        """
        if storage.is_remote(name):
            return storage.check_data_path(name)
        path, is_certain = self._path(name)
        if path is None:
            places = " and ".join(self._folders)
            raise BadRecord(
                "image file missing", key, f"{name} is not in {places}; --images names its folder"
            )
        others = self._shares.get(path, set()) - {"/".join(_parts(name))}
        if others and not is_certain:
            detail = f"{name} and {min(others)} are both found as {path}; --images must name the folder above"
            raise BadRecord("one file for several images", key, detail)
        return path

    def _path(self, name: str) -> tuple[str | None, bool]:
        """Return the path of an image, and whether all of its name decides and not a part of it."""
        path, is_certain = self._search(name)
        short = self._shorten(name) if path is None else None
        return (path, is_certain) if short is None else (self._search(short)[0], False)

    def _search(self, name: str) -> tuple[str | None, bool]:
        is_absolute = os.path.isabs(name)
        if is_absolute and self._images is None and _is_file(name):
            return name, True
        spellings = [name, name.replace("\\", "/")] if not is_absolute else []
        for folder in self._folders:
            for path in (f"{folder.rstrip('/')}/{one.removeprefix('./')}" for one in spellings):
                plain = os.path.normpath(path) if "/.." in path and not storage.is_remote(path) else path
                if _is_file(plain):
                    return plain, True
        parts = _parts(name)
        for start in range(len(parts)):
            for folder in self._folders:
                path = "/".join([folder.rstrip("/"), *parts[start:]])
                if _is_file(path):
                    above = os.path.basename(os.path.abspath(folder))
                    return path, start == 0 or parts[start - 1] == above
        web = [one for one in self._folders if one.startswith(("http://", "https://"))]
        if web and not is_absolute:  # whose folders cannot be listed
            return f"{web[0].rstrip('/')}/{name}", True
        return (name, True) if is_absolute and _is_file(name) else (None, False)


def _parts(name: str) -> list[str]:
    """Return folders and file of a path, without the drive of Windows."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return parts[1:] if len(parts) > 1 and parts[0].endswith(":") else parts


def _is_file(path: str) -> bool:
    if not storage.is_remote(path):
        return os.path.isfile(path.removeprefix("file://"))
    folder, _, last = path.rpartition("/")
    return last in _names(folder)


@lru_cache(maxsize=4096)
def _names(folder: str) -> frozenset[str]:
    return frozenset(storage.list_names(folder))
