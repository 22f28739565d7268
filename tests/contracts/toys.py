"""A toy run for every task: a tiny model on a few procedural scenes.

A new file in `xvlm/tasks` is tested as soon as it has an entry here, and fails until it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from tests import published_data
from tests.tiny import photo, tiny_config, tiny_run
from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import MissingHead
from xvlm.predict import Photo, Predictor
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task

NO_AUGMENTATION = {"random_crop": False, "random_flip": False, "rand_augment": False}


def scenes(kind: str = "scenes", count: int = 4) -> tuple[SourceConfig, ...]:
    return (SourceConfig(f"{kind}:train:{count}?image_size=64"),)


FILES = TemporaryDirectory()
"""Folder of the data files, which is removed when the process ends."""


@cache
def hypotheses() -> tuple[SourceConfig, ...]:
    """Return a source of four lines of SNLI-VE about two images."""
    folder = Path(FILES.name)
    for number in range(2):
        photo(70, 60, number).save(folder / f"{number}.jpg")
    lines = published_data.snli_ve(["0.jpg", "1.jpg"], np.random.default_rng(0))
    published_data.write_lines(folder / "snli_ve_train.jsonl", lines[:4])
    return (SourceConfig(str(folder / "snli_ve_train.jsonl")),)


@cache
def labelled_images() -> tuple[SourceConfig, ...]:
    """Return a source of four images with a caption and labels each."""
    folder = Path(FILES.name)
    labels = [["no"], ["yes"], ["no", "yes"], []]
    for number in range(4):
        photo(70, 60, number).save(folder / f"labelled{number}.jpg")
    lines = [
        {"image": f"labelled{number}.jpg", "caption": f"picture {number}", "labels": found}
        for number, found in enumerate(labels)
    ]
    published_data.write_lines(folder / "labels.jsonl", lines)
    return (SourceConfig(str(folder / "labels.jsonl")),)


def pretrain(task: str = "pretrain") -> Any:
    """Return a run on four images with a caption each and four with up to three regions each, without
    augmentation; a task that shares the run type of pre-training uses the streams that its losses need."""
    run = tiny_run("cnn", steps=3)
    kind = find_task(task).run
    plain = kind()
    uses = {"pairs": bool(plain.losses.itc), "regions": bool(plain.losses.giou)}
    data = replace(
        plain.data,
        pairs=scenes() if uses["pairs"] else (),
        regions=scenes() if uses["regions"] else (),
        pairs_batch_size=4,
        regions_batch_size=4,
        max_regions=3 if uses["regions"] else plain.data.max_regions,
        **NO_AUGMENTATION,
    )
    common = {name: getattr(run, name) for name in ("init", "optim", "workers", "save_every")}
    return replace(plain, model=replace(run.model, heads=plain.model.heads), data=data, **common)


def finetuned(task: str, train: tuple[SourceConfig, ...]) -> Any:
    """Return a run of a task on four samples, without augmentation."""
    run = find_task(task).run()
    return replace(
        run,
        model=replace(
            tiny_config("cnn", (64, 64), vocab_size=TextConfig.vocab_size),
            heads=run.model.heads,
            labels=run.model.labels,
        ),
        init=InitConfig(vocab_size=150),
        data=FinetuneData(train=train, batch_size=4, max_tokens=20, **NO_AUGMENTATION),
        optim=OptimConfig(steps=3, lr=3e-3, warmup_steps=2),
        workers=0,
        save_every=0,
    )


RUNS: dict[str, Callable[[], Any]] = {
    "pretrain": pretrain,
    "retrieval": lambda: pretrain("retrieval"),
    "grounding": lambda: pretrain("grounding"),
    "detection": lambda: pretrain("detection"),
    "weak_grounding": lambda: pretrain("weak_grounding"),
    "vqa": lambda: finetuned("vqa", scenes("scene-questions")),
    "nlvr2": lambda: finetuned("nlvr2", scenes("scene-pairs")),
    "text_assignment": lambda: finetuned("text_assignment", scenes()),
    "captioning": lambda: finetuned("captioning", scenes()),
    "self_critical": lambda: replace(finetuned("self_critical", scenes()), max_tokens=12),
    "entailment": lambda: finetuned("entailment", hypotheses()),
    "multilabel": lambda: finetuned("multilabel", labelled_images()),
}


def grounds(predictor: Predictor, seen: Photo) -> None:
    box, score = seen.ground("the red circle")
    assert 0 <= box[0] <= box[2] <= 50 and 0 <= box[1] <= box[3] <= 70
    assert score is None or 0 <= score <= 1  # None: no matching head


def finds(predictor: Predictor, seen: Photo) -> None:
    grounds(predictor, seen)
    everything = seen.find("the red circle", threshold=0.0)
    assert everything and seen.find("the red circle", threshold=1.0) == []
    for (x0, y0, x1, y1), score, _ in everything:
        assert 0 <= x0 <= x1 <= 50 and 0 <= y0 <= y1 <= 70 and 0 <= score <= 1
    assert all(0 <= presence <= 1 for presence in seen.presence(["the red circle", "a moon"]))


def matches(predictor: Predictor, seen: Photo) -> None:
    assert 0 <= seen.match(["a picture"])[0] <= 1
    assert predictor.model.contrastive.temperature.item() > 0


def both(predictor: Predictor, seen: Photo) -> None:
    grounds(predictor, seen)
    matches(predictor, seen)


def answers(predictor: Predictor, seen: Photo) -> None:
    text, score = seen.ask("what colour is the circle?", ["red", "light blue"])
    assert text in ("red", "light blue") and 0.5 <= score <= 1
    free = seen.ask("what colour is the circle?")
    assert isinstance(free.text, str) and 0 < free.score <= 1


def judges(predictor: Predictor, seen: Photo) -> None:
    left, right = photo(50, 70, 0), photo(60, 40, 1)
    truth = predictor.compare(left, right, "both show a circle")
    assert 0 <= truth <= 1 and truth != predictor.compare(right, left, "both show a circle")


def assigns(predictor: Predictor, seen: Photo) -> None:
    with pytest.raises(MissingHead, match=r"'pair_classifier'.*it has text_assignment"):
        predictor.compare(photo(50, 70, 0), photo(60, 40, 1), "both show a circle")


def entails(predictor: Predictor, seen: Photo) -> None:
    label, probabilities = seen.entails("a dog")
    assert probabilities[label] == max(probabilities.values()) and sum(probabilities.values()) > 0.999
    assert set(probabilities) == {"contradiction", "neutral", "entailment"}


def labels(predictor: Predictor, seen: Photo) -> None:
    found = predictor.predict("multilabel", photo(50, 70, 0), "picture 1")
    assert set(found) == {"no", "yes"} and all(0 < p < 1 for p in found.values())


def describes(predictor: Predictor, seen: Photo) -> None:
    assert isinstance(seen.caption(), str) and predictor.prompt


ANSWERS: dict[str, Callable[[Predictor, Photo], None]] = {
    "pretrain": both,
    "retrieval": matches,
    "grounding": grounds,
    "detection": finds,
    "weak_grounding": matches,
    "vqa": answers,
    "nlvr2": judges,
    "text_assignment": assigns,
    "captioning": describes,
    "self_critical": describes,
    "entailment": entails,
    "multilabel": labels,
}
"""Checks of what a model of each task predicts, and of what it cannot."""


LEARNING_STEPS = 60
"""Steps in which a task must learn one batch."""


def halves(seen: list[dict[str, float]]) -> bool:
    """Return whether the weighted sum of losses has fallen by half."""
    return seen[-1]["total"] < seen[0]["total"] / 2


def earns(seen: list[dict[str, float]]) -> bool:
    """Return whether the reward of sampled captions rose in all these steps, for no loss falls."""
    rewards = [losses["cider"] for losses in seen]
    return len(seen) == LEARNING_STEPS and sum(rewards[-10:]) > 2 * sum(rewards[:10])


def falls(seen: list[dict[str, float]]) -> bool:
    """Return whether the losses fell slowly in all these steps, for each step samples other negatives."""
    totals = [losses["total"] for losses in seen]
    return len(seen) == LEARNING_STEPS and sum(totals[-10:]) < 0.85 * sum(totals[:10])


LEARNING_CHECKS: dict[str, Callable[[list[dict[str, float]]], bool]] = {
    "text_assignment": falls,
    "self_critical": earns,
}
"""Checks that a task has learnt a batch, for tasks other than those of `halves`."""
