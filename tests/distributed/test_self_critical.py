"""Self-critical training on two processes: each draws its own captions, all learn from all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts import toys
from tests.distributed.ranks import on_two_ranks
from tests.tiny import VISION
from xvlm.batch import Images
from xvlm.data.sources import open_source
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.model.folder import Loaded, load_model
from xvlm.predict import Predictor
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init
from xvlm.tasks.self_critical import SelfCritical
from xvlm.train.start import train

STEPS = 40


def taught(folder: Path) -> None:
    """A captioner that has seen four scenes for a while, into `folder/taught`."""
    run = toys.RUNS["captioning"]()
    # No BatchNorm: its running means are each rank's own.
    model = replace(run.model, vision=replace(VISION["convnext"], image_hw=(64, 64)))
    run = replace(run, model=model, optim=OptimConfig(steps=100, lr=5e-3, warmup=2))
    train(run, folder / "taught")


def run_of(folder: Path, steps: int) -> Any:
    return replace(
        toys.RUNS["self_critical"](),
        init=Init(model=str(folder / "taught" / "model")),
        samples=10,
        baseline="others",
        max_tokens=20,
        optim=OptimConfig(steps=steps, lr=1e-3, warmup=2, clip=1.0),
    )


def measured(loaded: Loaded, **options: int) -> dict[str, float]:
    source = open_source(toys.scenes(count=5)[0].path)
    return evaluate_captions(Predictor(loaded), source, **options, java=False, batch=2)[0]  # type: ignore[arg-type]


def learnt(folder: Path) -> dict[str, Any]:
    """The parameters that this rank ends with, what it measures, and what it draws about black pictures."""
    loaded, _ = train(run_of(folder, STEPS), folder / "run")
    drawn: list[list[list[int]]] = []
    real = SelfCritical.captions

    def of_black_pictures(task: SelfCritical, images: Images) -> Any:
        found = real(task, Images(torch.zeros_like(images.pixels_BCHW)))
        drawn.extend(found[0])
        return found

    SelfCritical.captions = of_black_pictures  # type: ignore[method-assign]
    train(run_of(folder, 1), folder / "black")
    return {
        "parameters": torch.cat([p.detach().flatten() for p in loaded.model.parameters()]),
        "searched": measured(loaded, beams=2),
        "drawn": measured(loaded, samples=2, seed=5),
        "of black pictures": drawn,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learnt")
    taught(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return on_two_ranks(learnt, folder)


def test_parameters_are_the_same_on_both_ranks(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["parameters"] for rank in ranks)
    assert torch.equal(one, other)


def test_captions_become_better(ranks: list[dict[str, Any]], folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    rewards = [row["cider"] for row in rows]
    assert len(rewards) == STEPS
    before, after = sum(rewards[:8]) / 8, sum(rewards[-8:]) / 8
    assert before > 0.3 and after > 1.3 * before, rewards[::4]


def test_ranks_draw_different_captions(ranks: list[dict[str, Any]]) -> None:
    texts = [{tuple(ids) for several in rank["of black pictures"] for ids in several} for rank in ranks]
    assert all(len(rank) > 15 for rank in texts), "two pictures with ten captions each"
    assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("name", "options"), [("searched", {"beams": 2}), ("drawn", {"samples": 2, "seed": 5})]
)
def test_both_ranks_measure_what_one_process_does(
    name: str, options: dict[str, int], ranks: list[dict[str, Any]], folder: Path
) -> None:
    """Of five pictures one rank has two, the other three; scores are computed on one, for both."""
    one = measured(load_model(folder / "run" / "model"), **options)
    assert one["caption_images"] == 5 and one["caption_cider"] > 0
    assert ranks[0][name] == ranks[1][name] == pytest.approx(one)
