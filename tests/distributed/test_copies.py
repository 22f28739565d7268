"""State that ranks copy from the main rank."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.distributed.ranks import on_two_ranks
from xvlm import distributed
from xvlm.training.trainer import evaluate_average


def evaluated_statistics(folder: Path) -> dict[str, float]:
    """Return the BatchNorm statistics during an evaluation in training; each rank has its own before."""
    model = nn.BatchNorm1d(2)
    with torch.no_grad():
        model.running_mean += 3.0 + distributed.rank()
        model.num_batches_tracked += 5 * distributed.rank()

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        mean, tracked = model.get_buffer("running_mean"), model.get_buffer("num_batches_tracked")
        return {"mean": float(mean.sum()), "tracked": float(tracked)}

    return evaluate_average(evaluate, model, None, 1)


def result_of_main(folder: Path) -> list[int]:
    return distributed.broadcast_result(lambda: [distributed.rank(), 7])


def test_ranks_evaluate_with_the_statistics_of_the_main_rank(tmp_path: Path) -> None:
    assert on_two_ranks(evaluated_statistics, tmp_path) == [{"mean": 6.0, "tracked": 0.0}] * 2


def test_all_ranks_have_the_result_of_the_main_rank(tmp_path: Path) -> None:
    assert on_two_ranks(result_of_main, tmp_path) == [[0, 7]] * 2
