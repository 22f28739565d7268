"""Modules by name: the file system is the registry.

A task, a data set or a recipe is one file, and the file's name is its name on the command line.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from xvlm.errors import XVLMError


class UnknownName(XVLMError, LookupError):
    """No such file in the room; the message lists what exists and suggests the nearest."""


def names(room: str) -> list[str]:
    """The room's files (`tasks`, `recipes`, `data.prepare`), sorted; names that start with `_` are private.

    Raises:
        UnknownName: xvlm has no such room.
    """
    folder = f"xvlm.{room}"
    try:
        package = importlib.import_module(folder)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{folder}.".startswith(f"{error.name}."):
            raise  # the room exists; something that it imports does not
        raise UnknownName(f"xvlm has no room {room!r}") from None
    found = pkgutil.iter_modules(getattr(package, "__path__", []))
    return sorted(item.name for item in found if not item.name.startswith("_"))


def find(room: str, name: str) -> ModuleType:
    """The module `xvlm.<room>.<name>`; a `-` in the name is read as `_`.

    An error inside the module itself (a missing extra, say) comes through as it is.

    Raises:
        UnknownName: no such room, or no such file in it.
    """
    wanted = name.replace("-", "_")
    known = names(room)
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"no {name!r} in {room}: there is {', '.join(known) or 'nothing'}{hint}")
    return importlib.import_module(f"xvlm.{room}.{wanted}")
