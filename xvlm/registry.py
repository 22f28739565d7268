"""Registry: tasks, recipes, sources, encoders, benchmarks and commands by name, each of which is one file.

A name is looked up among the files of a room (`tasks/vqa.py` is "vqa", `recipes/photos/align.py` is
"photos/align"), then among the entry points of installed packages (group `xvlm.tasks`, `xvlm.recipes`, ...).
A name that ends in `.py` is the path of a user's own file.

Code is only loaded from what a user typed or installed.  Whoever reads names from a file that somebody else
may have written (`run.json`, `config.json`) calls `check_is_loaded` first.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from xvlm.common.errors import InputError, MissingFileError, XVLMError

PACKAGES = {"sources": "xvlm.data.sources"}
"""Packages of the rooms that are not called `xvlm.ROOM`."""
SHARED = "common"
"""Name of the folder in a room that holds what its files share; its files have no names."""

_loaded: dict[str, ModuleType] = {}
"""The user's own files that were loaded, by absolute path."""


class UnknownNameError(XVLMError, LookupError):
    """The name does not exist; the message lists those that do and suggests the nearest."""


def names(room: str) -> list[str]:
    """Return the names in a room (`tasks`, `recipes`, `bench`), sorted.

    Raises UnknownNameError if there is no such room.
    """
    return sorted({*_own_names(room), *installed(room)})


def _own_names(room: str) -> set[str]:
    package = PACKAGES.get(room, f"xvlm.{room}")
    try:
        folders = list(getattr(importlib.import_module(package), "__path__", []))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise  # the room exists; a package that it imports does not
        raise UnknownNameError(f"xvlm has no room {room!r}") from None
    return set(_files(folders))


def _files(folders: list[str], prefix: str = "") -> Iterator[str]:
    for item in pkgutil.iter_modules(folders):
        if item.name.startswith("_") or item.name == SHARED:
            continue
        if item.ispkg:
            yield from _files([str(Path(folder) / item.name) for folder in folders], f"{prefix}{item.name}/")
        else:
            yield prefix + item.name


def installed(room: str) -> dict[str, EntryPoint]:
    """Return the entry points that installed packages add to a room, by name."""
    return {one.name: one for one in entry_points(group=f"xvlm.{room}")}


def find(room: str, name: str) -> ModuleType:
    """Import the module that a name stands for; a `-` in the name is read as `_`.

    An error inside the module itself (a missing extra, say) comes through as it is.

    Raises:
        UnknownNameError: there is no such room, or no such name in it.
        MissingFileError: the name is a path, and there is no such file.
        InputError: an entry point is not a module.
    """
    if name.endswith(".py"):
        return load_file(name)
    known = names(room)
    wanted = name if name in known else name.replace("-", "_")
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"no {name!r} in {room}: there is {', '.join(known) or 'nothing'}{hint}")
    if wanted in _own_names(room):
        return importlib.import_module(f"{PACKAGES.get(room, f'xvlm.{room}')}.{wanted.replace('/', '.')}")
    found = installed(room)[wanted].load()
    if not isinstance(found, ModuleType):
        raise InputError(f"entry point {wanted!r} of xvlm.{room} is {found!r}; it must name a module")
    return found


def load_file(path: str | Path) -> ModuleType:
    """Load a Python file that a user typed, once.  Raises MissingFileError if there is none."""
    absolute = str(Path(path).absolute())
    if absolute not in _loaded:
        if not Path(absolute).is_file():
            raise MissingFileError(f"{path} does not exist; it must be a Python file")
        name = f"xvlm_user_{Path(path).stem}_{zlib.crc32(absolute.encode()):08x}"
        spec = importlib.util.spec_from_file_location(name, absolute)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses resolve their annotations in it
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        _loaded[absolute] = module
    return _loaded[absolute]


def is_loaded(path: str | Path) -> bool:
    """Whether a file of the user's own was loaded in this process."""
    return str(Path(path).absolute()) in _loaded


def python_files(value: Any) -> Iterator[str]:
    """Yield the Python files that plain JSON values name: `my_task.py`, `my_source.py:NAME`."""
    if isinstance(value, str):
        path = value.partition(":")[0]
        if path.endswith(".py"):
            yield path
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from python_files(inner)


def check_is_loaded(value: Any, origin: Path) -> None:
    """Raise InputError if plain JSON values name a Python file that the user did not load.

    Args:
        value: the content of the JSON file `origin`.
    """
    for path in python_files(value):
        if not is_loaded(path):
            raise InputError(
                f"{origin} names the Python file {path}, which is loaded only if you name it yourself, "
                f"as in `xvlm train --from run.json task={path}` or xvlm.registry.load_file({path!r})"
            )


def task_heads() -> dict[str, object]:
    """Return the heads that tasks add to the model, by name: of all known tasks, and of loaded files."""
    modules = [*(find("tasks", name) for name in names("tasks")), *_loaded.values()]
    tasks = [getattr(module, "TASK", None) for module in modules]
    return {name: spec for task in tasks for name, spec in getattr(task, "heads", {}).items()}
