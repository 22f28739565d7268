"""The launch recipes of docs/distributed.md: torchrun and xvlm understand their commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from tests.tiny import write_photos
from xvlm.cli import parse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
BASH = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SCRIPT = next(block for block in BASH if block.startswith("#!"))
COMMANDS = [shlex.split(block) for block in BASH if block != SCRIPT]

STANDINS = {
    "scontrol": 'echo "node1\nnode2"',
    "srun": 'for node in 1 2; do "$@" & done; wait',
    "torchrun": 'for word; do printf "%s\\0" "$word"; done >> "$CALLS/$$"',
}


def check(words: list[str], folder: Path) -> None:
    """Parse the words after torchrun as torchrun and as xvlm do; `folder` holds data."""
    options = parse_args(words)
    assert (options.nproc_per_node, options.max_restarts) == ("8", 10)
    assert options.standalone or (options.nnodes, options.rdzv_backend) == ("2", "c10d")
    assert options.standalone or (options.rdzv_id and options.rdzv_endpoint.endswith(":29500"))
    assert options.module and options.training_script == "xvlm"
    arguments = [word.replace("MY_FOLDER", str(folder)) for word in options.training_script_args]
    assert callable(parse(arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photos(tmp_path, 2).rename(tmp_path / "train.jsonl")
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=["one machine", "several machines"])
def test_commands(words: list[str], folder: Path) -> None:
    assert words[0] == "torchrun"
    check(words[1:], folder)


def test_the_script_for_slurm(folder: Path) -> None:
    """It runs, with stand-ins for the commands that this machine may not have."""
    for name, body in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.mkdir()
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77"}
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-eu", "-c", SCRIPT],
        env={**os.environ, **slurm, "PATH": path, "CALLS": str(calls)},
        check=True,
    )
    one, two = (file.read_text().split("\0")[:-1] for file in calls.iterdir())
    assert one == two and "node1:29500" in one and "77" in one
    check(one, folder)


def test_the_job_for_kubernetes(folder: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    service, job = yaml.safe_load_all(text)
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    first, *words = container["command"]
    assert first == "torchrun" and f"{job['metadata']['name']}-0.xvlm:29500" in words
    check(words, folder)
