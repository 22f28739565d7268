"""The documents become a site without a warning, and the tutorials run as they are written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prepare.releases import RELEASES
from tests.tiny import tiny_loaded
from xvlm.cli import main
from xvlm.models.checkpoints.convert import convert_back
from xvlm.models.checkpoints.folder import save_model

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs/tutorials"
BLOCK = re.compile(
    r"^```(?P<kind>python|bash)(?: file=(?P<file>\S+))?\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    """Every link leads somewhere, and every name of the reference exists."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site/reference/index.html").read_text()
    assert "ground_many" in page and "Raises" in page
    home = (tmp_path / "site/index.html").read_text()
    assert 'name="viewport"' in home and "fonts.googleapis" not in home
    assert "```" not in (tmp_path / "site/architecture/index.html").read_text().replace("<code>```", "")


def own_photos(folder: Path) -> None:
    """The tutorial makes its own data."""


def published_checkpoint(folder: Path) -> None:
    """A small checkpoint in the published form, and a miniature RefCOCO+."""
    model = save_model(tiny_loaded("swin"), folder / "tiny")
    convert_back(model, folder / "4m_base.th")
    (folder / "bert-base-uncased").mkdir()
    (folder / "bert-base-uncased/tokenizer.json").write_text((model / "tokenizer.json").read_text())
    RELEASES["refcoco_plus"](folder / "data")
    (folder / "data/coco").mkdir()
    (folder / "data/images/train2014").rename(folder / "data/coco/train2014")


def new_task(folder: Path) -> None:
    """The file that the tutorial takes from the architecture."""
    text = (ROOT / "docs/architecture.md").read_text()
    found = re.search(r"^```python file=my_task.py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    (folder / "my_task.py").write_text(found[1])


PREPARE: dict[str, Callable[[Path], None]] = {
    "own-photos": own_photos,
    "published-checkpoint": published_checkpoint,
    "new-task": new_task,
}
OPTIONS = {
    "train published/refcoco_boxes": (
        "--optim.epochs 0 --optim.steps 1 --eval-every 0 --best-metric '' --init.image-size 0"
    ),
    "convert 4m_base.th": "--text-heads 4",
}
"""Options that shorten a training here, and that a checkpoint of unpublished size needs, by beginning."""


def test_every_tutorial_is_run() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} == PREPARE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", PREPARE)
def test_the_tutorial(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    PREPARE[name](tmp_path)
    names: dict[str, object] = {}
    count = 0
    for block in BLOCK.finditer((TUTORIALS / f"{name}.md").read_text(encoding="utf-8")):
        if block["file"]:
            Path(block["file"]).write_text(block["code"])
            continue
        if block["kind"] == "python":
            exec(compile(block["code"], name, "exec"), names)
            continue
        for line in block["code"].splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "xvlm", line
            for beginning, more in OPTIONS.items():
                words += shlex.split(more) if line.startswith(f"xvlm {beginning}") else []
            assert main(words[1:]) == 0, line
            count += 1
    assert count >= 3
