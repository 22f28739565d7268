"""Time, memory and number of parameters of converting the published base model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.models.test_vocabulary import bert_vocabulary
from xvlm.models.checkpoints.published_names import to_published
from xvlm.models.xvlm import build_model
from xvlm.registry import find

CONVERT = """
import json, sys
from xvlm.cli import main
code = main(["convert", sys.argv[1], sys.argv[2], "--tokenizer", sys.argv[3]])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"code": code, "kib": int(peak)}))
"""
"""The peak of this process alone: `ru_maxrss` begins with that of the process that started it."""


def test_a_full_size_checkpoint_converts_in_a_minute_and_4_gb(tmp_path: Path) -> None:
    """The weights are random, in the published layout."""
    model = build_model(find("recipes", "published/base_4m").recipe().model)
    torch.save({"model": to_published(model)}, tmp_path / "base.th")
    del model
    bert_vocabulary(tmp_path / "tokenizer")
    paths = [str(tmp_path / name) for name in ("base.th", "ours", "tokenizer")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, *paths], capture_output=True, text=True, env=environment
    )
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.strip().splitlines()
    result = json.loads(last)
    assert result["code"] == 0
    assert any("215.6 M parameters" in line for line in lines), lines
    assert seconds < 60, f"{seconds:.0f} s"
    assert result["kib"] < 4 * 2**20, f"{result['kib'] / 2**20:.1f} GiB"
    for path in (tmp_path / "base.th", tmp_path / "ours" / "model.safetensors"):
        path.unlink()  # 0.9 GB each, which pytest would keep
