"""A toy run for every task: a tiny model on a few drawn scenes.

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
from xvlm.lookup import find
from xvlm.model.xvlm import MissingPart
from xvlm.predict import Photo, Predictor
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._finetune import FinetuneData

AS_THEY_ARE = {"crop": False, "flip": False, "rand_augment": False}


def scenes(kind: str = "scenes", count: int = 4) -> tuple[SourceConfig, ...]:
    return (SourceConfig(f"{kind}:train:{count}?image_size=64"),)


FILES = TemporaryDirectory()
"""What is read from files; gone with the process."""


@cache
def hypotheses() -> tuple[SourceConfig, ...]:
    """Four lines of SNLI-VE, about two images."""
    folder = Path(FILES.name)
    for number in range(2):
        photo(70, 60, number).save(folder / f"{number}.jpg")
    lines = published_data.snli_ve(["0.jpg", "1.jpg"], np.random.default_rng(0))
    published_data.write_lines(folder / "snli_ve_train.jsonl", lines[:4])
    return (SourceConfig(str(folder / "snli_ve_train.jsonl")),)


def pretrain(task: str = "pretrain") -> Any:
    """Four pictures with a caption each and four with up to three regions each, as they are; a task that
    shares pre-training's run takes what it needs of both."""
    run = tiny_run("cnn", steps=3)
    kind = find("tasks", task).RUN
    plain = kind()
    uses = {"pairs": bool(plain.losses.itc), "regions": bool(plain.losses.giou)}
    data = replace(
        plain.data,
        pairs=scenes() if uses["pairs"] else (),
        regions=scenes() if uses["regions"] else (),
        pairs_batch=4,
        regions_batch=4,
        max_regions=3,
        **AS_THEY_ARE,
    )
    common = {name: getattr(run, name) for name in ("init", "optim", "workers", "save_every")}
    return replace(plain, model=replace(run.model, parts=plain.model.parts), data=data, **common)


def finetuned(task: str, train: tuple[SourceConfig, ...]) -> Any:
    """Four samples of a task, as they are."""
    run = find("tasks", task).RUN()
    return replace(
        run,
        model=replace(tiny_config("cnn", (64, 64)), parts=run.model.parts, labels=run.model.labels),
        init=Init(vocab_size=150),
        data=FinetuneData(train=train, batch=4, max_tokens=20, **AS_THEY_ARE),
        optim=OptimConfig(steps=3, lr=3e-3, warmup=2),
        workers=0,
        save_every=0,
    )


RUNS: dict[str, Callable[[], Any]] = {
    "pretrain": pretrain,
    "retrieval": lambda: pretrain("retrieval"),
    "grounding": lambda: pretrain("grounding"),
    "weak_grounding": lambda: pretrain("weak_grounding"),
    "vqa": lambda: finetuned("vqa", scenes("scene-questions")),
    "nlvr2": lambda: finetuned("nlvr2", scenes("scene-pairs")),
    "assignment": lambda: finetuned("assignment", scenes()),
    "captioning": lambda: finetuned("captioning", scenes()),
    "self_critical": lambda: replace(finetuned("self_critical", scenes()), max_tokens=12),
    "entailment": lambda: finetuned("entailment", hypotheses()),
}


def grounds(predictor: Predictor, seen: Photo) -> None:
    box, score = seen.ground("the red circle")
    assert 0 <= box[0] <= box[2] <= 50 and 0 <= box[1] <= box[3] <= 70
    assert 0 <= score <= 1 or score != score  # NaN: no matching head


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
    with pytest.raises(MissingPart, match=r"'pairs'.*it has assignment"):
        predictor.compare(photo(50, 70, 0), photo(60, 40, 1), "both show a circle")


def entails(predictor: Predictor, seen: Photo) -> None:
    label, probabilities = seen.entails("a dog")
    assert probabilities[label] == max(probabilities.values()) and sum(probabilities.values()) > 0.999
    assert set(probabilities) == {"contradiction", "neutral", "entailment"}


def describes(predictor: Predictor, seen: Photo) -> None:
    assert isinstance(seen.caption(), str) and predictor.prompt


ASKED: dict[str, Callable[[Predictor, Photo], None]] = {
    "pretrain": both,
    "retrieval": matches,
    "grounding": grounds,
    "weak_grounding": matches,
    "vqa": answers,
    "nlvr2": judges,
    "assignment": assigns,
    "captioning": describes,
    "self_critical": describes,
    "entailment": entails,
}
"""What a model of each task is asked, and what it must not answer."""


def halves(seen: list[dict[str, float]]) -> None:
    """The weighted sum of losses, step by step."""
    totals = [losses["total"] for losses in seen]
    assert totals[-1] < totals[0] / 2, totals[::10]


def earns(seen: list[dict[str, float]]) -> None:
    """A reward has no loss that falls: what is drawn becomes better."""
    rewards = [losses["cider"] for losses in seen]
    assert sum(rewards[-10:]) > 2 * sum(rewards[:10]), rewards[::5]


def falls(seen: list[dict[str, float]]) -> None:
    """Where every step draws other negatives, which are learnt one after another."""
    totals = [losses["total"] for losses in seen]
    assert sum(totals[-10:]) < 0.85 * sum(totals[:10]), totals[::5]


LEARNT: dict[str, Callable[[list[dict[str, float]]], None]] = {"assignment": falls, "self_critical": earns}
"""How it shows that a task has learnt a batch, where it is not `halves`."""
