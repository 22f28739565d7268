"""Without any extra, everything that needs none imports: a demo must not ask for a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
IMPORT_ALL = """
import importlib, pkgutil, sys
from importlib.machinery import PathFinder
from xvlm.cli.common.failures import EXTRAS

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in EXTRAS else super().find_spec(name, path, target)

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


def test_what_needs_no_extra_imports_without_any() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == NEED_EXTRAS
