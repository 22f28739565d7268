"""Self-critical training on two processes: each samples its own captions, and all share the gradients."""

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
from xvlm.config import OptimConfig
from xvlm.data.sources.open import open_source
from xvlm.evaluation.captioning import evaluate_captioning
from xvlm.models.checkpoints.folder import ModelBundle, load_model
from xvlm.predict import Predictor
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.self_critical import SelfCritical
from xvlm.training.train import train

STEPS = 40


def pretrain(folder: Path) -> None:
    """Train a captioner on four scenes, and write it to `folder/pretrained`."""
    run = toys.RUNS["captioning"]()
    # No BatchNorm, whose running statistics are local to each rank.
    model = replace(run.model, vision=replace(VISION["convnext"], image_hw=(64, 64)))
    run = replace(run, model=model, optim=OptimConfig(steps=100, lr=5e-3, warmup_steps=2))
    train(run, folder / "pretrained")


def run_of(folder: Path, steps: int) -> Any:
    run = toys.RUNS["self_critical"]()
    return replace(
        run,
        model=type(run)().model,  # the sizes are those of the initial model
        init=InitConfig(model=str(folder / "pretrained" / "model")),
        num_samples=10,
        baseline="others",
        max_tokens=20,
        optim=OptimConfig(steps=steps, lr=1e-3, warmup_steps=2, max_grad_norm=1.0),
    )


def evaluated(bundle: ModelBundle, **options: int) -> dict[str, float]:
    source = open_source(toys.scenes(count=5)[0].path)
    return evaluate_captioning(Predictor(bundle), source, **options, java=False, batch_size=2)[0]  # type: ignore[arg-type]


def trained(folder: Path) -> dict[str, Any]:
    """Train; return this rank's final parameters, its metrics, and its samples for black images."""
    bundle, _ = train(run_of(folder, STEPS), folder / "run")
    sampled: list[list[list[int]]] = []
    sample_captions = SelfCritical.sample_captions

    def sample_for_black_images(task: SelfCritical, images: Images) -> Any:
        result = sample_captions(task, Images(torch.zeros_like(images.pixels_BCHW)))
        sampled.extend(result[0])
        return result

    SelfCritical.sample_captions = sample_for_black_images  # type: ignore[method-assign]
    train(run_of(folder, 1), folder / "black")
    return {
        "parameters": torch.cat([p.detach().flatten() for p in bundle.model.parameters()]),
        "searched": evaluated(bundle, num_beams=2),
        "sampled": evaluated(bundle, num_samples=2, seed=5),
        "black images": sampled,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    pretrain(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return on_two_ranks(trained, folder)


def test_parameters_are_the_same_on_both_ranks(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["parameters"] for rank in ranks)
    assert torch.equal(one, other)


def test_captions_become_better(ranks: list[dict[str, Any]], folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    rewards = [row["cider"] for row in rows]
    assert len(rewards) == STEPS
    before, after = sum(rewards[:8]) / 8, sum(rewards[-8:]) / 8
    assert before > 0.3 and after > 1.3 * before, rewards[::4]


def test_ranks_sample_different_captions(ranks: list[dict[str, Any]]) -> None:
    texts = [{tuple(ids) for several in rank["black images"] for ids in several} for rank in ranks]
    assert all(len(rank) > 15 for rank in texts), "each rank has two images with ten captions each"
    assert not texts[0] & texts[1]


@pytest.mark.parametrize(
    ("name", "options"), [("searched", {"num_beams": 2}), ("sampled", {"num_samples": 2, "seed": 5})]
)
def test_both_ranks_have_the_metrics_of_one_process(
    name: str, options: dict[str, int], ranks: list[dict[str, Any]], folder: Path
) -> None:
    """One rank has two of five images, the other three; the main rank computes the scores for both."""
    one = evaluated(load_model(folder / "run" / "model"), **options)
    assert one["caption_images"] == 5 and one["caption_cider"] > 0
    assert ranks[0][name] == ranks[1][name] == pytest.approx(one)
