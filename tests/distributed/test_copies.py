"""What ranks take over from the main one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.distributed.ranks import on_two_ranks
from xvlm import dist
from xvlm.train.loop import evaluated


def measured_statistics(folder: Path) -> dict[str, float]:
    """What an evaluation in training sees of BatchNorm's statistics, which every rank has of its own."""
    model = nn.BatchNorm1d(2)
    with torch.no_grad():
        model.running_mean += 3.0 + dist.rank()
        model.num_batches_tracked += 5 * dist.rank()

    def evaluate(seen: nn.Module, step: int) -> dict[str, float]:
        mean, tracked = seen.get_buffer("running_mean"), seen.get_buffer("num_batches_tracked")
        return {"mean": float(mean.sum()), "tracked": float(tracked)}

    return evaluated(evaluate, model, None, 1)


def made_by_main(folder: Path) -> list[int]:
    return dist.of_main(lambda: [dist.rank(), 7])


def test_ranks_measure_with_the_main_ones_statistics(tmp_path: Path) -> None:
    assert on_two_ranks(measured_statistics, tmp_path) == [{"mean": 6.0, "tracked": 0.0}] * 2


def test_what_the_main_one_makes_all_have(tmp_path: Path) -> None:
    assert on_two_ranks(made_by_main, tmp_path) == [[0, 7]] * 2
