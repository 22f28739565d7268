"""docs/architecture.md: what it names exists, and its worked examples run in their order."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.tiny import photo

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python file=(?P<file>\S+)|bash (?P<run>run))\n(?P<code>.*?)^```$", re.M | re.S)


def test_names_exist() -> None:
    """`path.py`: `Name` in a table is a name that the file defines."""
    found = re.findall(r"`(xvlm/[\w/]+\.py)`: `(\w+)`", TEXT)
    assert len(found) >= 15
    for path, name in found:
        defined = {getattr(node, "name", "") for node in ast.parse((ROOT / path).read_text()).body}
        assert name in defined, f"{path} defines no {name}"


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:xvlm|docs|tests)/[\w/.]+)`", TEXT)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_worked_examples_run(tmp_path: Path) -> None:
    """One process a command line, as a user would type it."""
    photo(64, 48, seed=1).save(tmp_path / "street.jpg")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = 0
    for block in BLOCK.finditer(TEXT):
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["code"])
            continue
        for line in block["code"].splitlines():
            words = shlex.split(line)
            assert words[0] == "xvlm"
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            ran += 1
    assert ran >= 5
    assert (tmp_path / "runs" / "rating" / "test" / "report.html").exists()
