"""Without any extra, everything that needs none imports: a demo must not ask for a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEED_EXTRAS = {
    "xvlm.prepare.ray_engine",
    "xvlm.search.index",
    "xvlm.search.ray_engine",
    "xvlm.search.table",
    "xvlm.search.update",
    "xvlm.search.upkeep",
    "xvlm.server.app",
    "xvlm.server.errors",
    "xvlm.server.guard",
    "xvlm.server.model_thread",
    "xvlm.server.run",
    "xvlm.server.service",
}
"""Modules that import a package of an extra as soon as they are imported."""
EXTRA_OF_ROOM = {"prepare": "scale", "search": "search", "server": "app"}
"""The extra that is enough for such modules of a room, but for the engine of Ray."""
IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
from xvlm.cli.common.failures import EXTRAS

(allowed,) = sys.argv[1:]

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        extra = EXTRAS.get(name.split(".")[0], allowed)
        return super().find_spec(name, path, target) if extra == allowed else None

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
import xvlm
for module in pkgutil.walk_packages(xvlm.__path__, "xvlm."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name.split(".")[0] in EXTRAS, error
        print(module.name)
"""


@pytest.mark.parametrize("extra", ["none", "app", "search"])
def test_every_module_needs_its_own_extra_alone(extra: str) -> None:
    words = [sys.executable, "-c", IMPORT_ALL, extra]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    own = {name for name in NEED_EXTRAS if EXTRA_OF_ROOM[name.split(".")[1]] == extra}
    assert set(done.stdout.split()) == NEED_EXTRAS - own | {"xvlm.search.ray_engine"}
