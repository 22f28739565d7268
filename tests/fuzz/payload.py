"""Input that makes a file if anything executes it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

from tests.fuzz.case import Box

PACKAGE = "evil_package"


class _System:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def evil(box: Box) -> Any:
    """A value whose pickle runs a command."""
    return _System(f"touch {box.marker}")


def pickled(box: Box, protocol: int = 2) -> bytes:
    """A pickle that runs a command."""
    return pickle.dumps({"model": evil(box), "config": {}}, protocol)


def write_package(box: Box, name: str = PACKAGE) -> str:
    """A package in the working folder, which is on `sys.path`; importing it leaves the mark."""
    folder = box.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(f"open({str(box.marker)!r}, 'w').close()\nVALUE = 1\n")
    return name


def template(box: Box) -> Path:
    """A file of references for fsspec whose templates are rendered with Jinja."""
    expression = f"{{{{ cycler.__init__.__globals__.os.system('touch {box.marker}') }}}}"
    path = box.folder / "references.json"
    tree = {"version": 1, "templates": {"a": expression.replace('"', "'")}, "refs": {"x": ["{{a}}"]}}
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path
