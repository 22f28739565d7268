"""What the wheel holds is all that an installation needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
def test_the_wheel_works_away_from_the_repository(tmp_path: Path) -> None:
    pytest.importorskip("build")
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of the repository")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path), str(clone)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    source = subprocess.run(
        ["git", "ls-files", "xvlm"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    missing = [name for name in source if not (tmp_path / "installed" / name).exists()]
    committed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "xvlm"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert [name for name in missing if name in committed] == []
    assert not (tmp_path / "installed/tests").exists()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import xvlm; from xvlm.cli import main\n"
    code += "assert xvlm.__file__.startswith(sys.argv[1]); main(['recipes'])"
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "installed")],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_the_changes_have_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(PROJECT['version'])}", text, re.MULTILINE)


def test_the_release_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts/release.sh")], check=True)
