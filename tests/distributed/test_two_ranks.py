"""Two processes compute the losses and gradients of one on the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import cases
from tests.distributed.ranks import on_two_ranks
from tests.tiny import tiny_run
from xvlm.common.json_file import write_json
from xvlm.models.checkpoints.folder import load_model
from xvlm.tasks.common.detection_losses import DETECTION_WEIGHTS
from xvlm.training.train import train


@pytest.fixture(scope="module")
def of_losses(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, cases.Values]]:
    return on_two_ranks(cases.losses, tmp_path_factory.mktemp("losses"))


@pytest.mark.parametrize("split", cases.SPLITS)
@pytest.mark.parametrize("loss", cases.LOSSES)
def test_losses_and_gradients_equal_one_process(
    loss: str, split: str, of_losses: list[dict[str, cases.Values]]
) -> None:
    one = cases.LOSSES[loss](cases.SPLITS[split])
    two = [rank[f"{loss}, {split}"] for rank in of_losses]
    for rank in two:
        torch.testing.assert_close(rank["loss"], one["loss"], rtol=1e-6, atol=1e-9)
        assert rank.keys() == one.keys()
    assert one["grad0"].abs().max() > 1e-3
    for name in [name for name in one if name.startswith("grad")]:
        if one[name].ndim:
            both = torch.cat([rank[name] for rank in two])
        else:  # a parameter, whose gradients DDP sums
            both = two[0][name] + two[1][name]
        torch.testing.assert_close(both, one[name], rtol=1e-6, atol=1e-9)


def test_faithful_contrastive_gradient_is_divided_by_the_world_size(
    of_losses: list[dict[str, cases.Values]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is right, its gradient is halved on two ranks, and only the diagonal is positive."""
    one = cases.contrastive((8, 0), faithful=True)
    two = [rank["faithful"] for rank in of_losses]
    for name in ("grad0", "grad1"):
        both = torch.cat([rank[name] for rank in two])
        torch.testing.assert_close(both, one[name] / 2, rtol=1e-6, atol=1e-9)
    for rank in two:
        torch.testing.assert_close(rank["loss"], one["loss"], rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(cases, "TEXT_KEY", torch.arange(8))
    monkeypatch.setattr(cases, "CONCEPT_KEY", torch.arange(8))
    torch.testing.assert_close(cases.contrastive((8, 0))["loss"], one["loss"])


def test_faithful_positives_of_one_image_may_be_on_several_ranks(
    of_losses: list[dict[str, cases.Values]],
) -> None:
    """Rows 0, 2 and 7 show one image, the last of them on the other rank."""
    one = cases.contrastive((8, 0), True, "image")
    for rank in of_losses:
        torch.testing.assert_close(rank["faithful by image"]["loss"], one["loss"], rtol=1e-6, atol=1e-9)
    assert abs(one["loss"] - cases.contrastive((8, 0), True)["loss"]) > 1e-3


@pytest.fixture(scope="module")
def of_norms(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, cases.Values]]:
    return on_two_ranks(cases.norms, tmp_path_factory.mktemp("norms"))


@pytest.mark.parametrize("rows", [(4, 4), (3, 5)])
@pytest.mark.parametrize("name", cases.NORMS)
def test_batch_norm_has_the_statistics_of_all_ranks(
    name: str, rows: tuple[int, int], of_norms: list[dict[str, cases.Values]]
) -> None:
    """Outputs, gradients and running statistics are those of PyTorch's BatchNorm on one process."""
    one = cases.norm_of(name, rows)
    two = [rank[f"{name}, {rows}"] for rank in of_norms]
    exact = {"rtol": 1e-4, "atol": 1e-5} if name == "float32" else {"rtol": 1e-9, "atol": 1e-10}
    for key, value in one.items():
        if key.startswith(("rows", "gradient")):
            torch.testing.assert_close(torch.cat([rank[key] for rank in two]), value, **exact, msg=key)
        else:
            for rank in two:
                torch.testing.assert_close(rank[key], value, **exact, msg=key)
    assert one["buffer num_batches_tracked"] == 2


@pytest.fixture(scope="module")
def of_tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, cases.Values]]]:
    return on_two_ranks(cases.tasks, tmp_path_factory.mktemp("tasks"))


@pytest.mark.parametrize("part", ["pairs", "regions"])
@pytest.mark.parametrize("negatives", ["local", "global"])
@pytest.mark.parametrize("kind", ["swin", "vit", "cnn"])
def test_the_whole_task_equals_one_process(
    kind: str, negatives: str, part: str, of_tasks: list[dict[str, dict[str, cases.Values]]]
) -> None:
    """All losses and gradients are the same; one rank has no box, and the numbers of rows differ.

    Local negatives are rows of the same rank; some of the global ones are rows of the other rank.
    """
    one = cases.whole_task(kind, negatives == "global", [part])[part]
    for rank in of_tasks:
        two = rank[f"{kind}, {negatives}"][part]
        assert two.keys() == one.keys()
        for name, value in one.items():
            difference = (two[name] - value).norm() / value.norm().clamp(min=1e-2)
            assert difference < 1e-6, name


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert on_two_ranks(cases.runs, folder) == [dict.fromkeys(cases.RUNS, 3.0)] * 2
    return folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", cases.RUNS)
def test_a_run_on_two_ranks_begins_as_on_one(name: str, of_runs: Path, tmp_path: Path) -> None:
    """DDP neither hangs nor raises without a data stream or loss; the first losses are those of one process.

    Excepted are the matching loss, whose negatives are sampled within a rank, and the losses with dropout.
    """
    two = log_of(of_runs / name.replace(" ", "_"))
    assert [row["step"] for row in two] == [1, 2, 3]
    train(cases.run_of(name), tmp_path, minutes=0.0)  # one step
    one = log_of(tmp_path)
    assert len(one) == 1
    exact_losses = {"itc", "region_itc", "mlm", "region_mlm", "bbox", "giou", *DETECTION_WEIGHTS}
    compared = [k for k in one[0] if k in exact_losses]
    assert compared
    # Each micro-batch has its own mean, and which images share one depends on the number of ranks.
    exact = 0.05 if name == "accumulated" else 1e-5
    for key in compared:
        assert two[0][key] == pytest.approx(one[0][key], rel=exact, abs=1e-7), key


def test_one_process_resumes_a_run_of_two_ranks(of_runs: Path) -> None:
    run = cases.run_of("everything")
    run = replace(run, optim=replace(run.optim, steps=5))
    train(run, of_runs / "everything", resume=True)
    assert [row["step"] for row in log_of(of_runs / "everything")] == [1, 2, 3, 4, 5]


def test_ranks_stop_together(tmp_path: Path) -> None:
    assert on_two_ranks(cases.stop_early, tmp_path) == [[20.0, 0.0, 0.0, 1.0, 0.0]] * 2


def test_torchrun_trains(tmp_path: Path) -> None:
    """From the command line: both processes join, and one of them writes."""
    run = replace(tiny_run("vit", steps=2), recipe="tiny")
    write_json(tmp_path / "run.json", run)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "xvlm", "train", "--from", str(tmp_path / "run.json"), "--out", str(tmp_path / "out")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **ENV})
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in log_of(tmp_path / "out")] == [1, 2]
    assert done.stdout.count("model: ") == 1
    assert load_model(tmp_path / "out" / "model").tokenizer.vocab_size > 5


ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
