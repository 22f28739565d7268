"""The commands of docs/data.md lead from downloads to the first step, as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.prepare.releases import RELEASES
from xvlm.cli import main

TEXT = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
SMALL = (
    "--init.vision '' --init.text '' --init.vocab-size 100 --model.vision.name resnet10t "
    "--model.vision.image-hw 64 64 --model.text.width 32 --model.text.heads 4 --model.text.mlp-width 48 "
    "--model.text.text-layers 1 --model.text.cross-layers 1 --optim.steps 1 --optim.warmup-steps 1 "
    "--data.pairs-batch-size 2 --data.regions-batch-size 2 --workers 0 --precision fp32"
)
"""Sizes of a model that takes its first step in a second."""


def block(kind: str, holding: str) -> str:
    """The block of a kind that holds a text."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (text,) = (one for one in found if holding in one)
    return text


@pytest.mark.slow
def test_from_the_downloads_to_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RELEASES["coco"](tmp_path / "downloads/coco")
    RELEASES["visual_genome"](tmp_path / "downloads/vg")
    RELEASES["refcoco_plus"](tmp_path / "downloads/refer")
    (tmp_path / "mix.toml").write_text(block("toml", "[[pairs]]"))
    ran = 0
    for line in block("bash", "downloads/coco").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        expected = (0, 2) if words[1:3] == ["prepare", "leaks"] else (0,)
        words += shlex.split(SMALL) if words[1] == "train" else []
        assert main(words[1:]) in expected, line
        ran += 1
    assert ran == 9 and (tmp_path / "runs/base/model/model.safetensors").exists()
    assert (tmp_path / "vg.html").exists()
