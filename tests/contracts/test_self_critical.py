"""Self-critical training in particular: whose captions are compared with whose, what is learnt from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contracts import toys
from tests.tiny import photo
from xvlm.data.sources import JsonSource
from xvlm.data.views import image_key
from xvlm.errors import InputError
from xvlm.records import BadRecord
from xvlm.tasks import self_critical
from xvlm.tasks.self_critical import END, SelfCritical, references


@pytest.fixture
def source(tmp_path: Path) -> JsonSource:
    """Two images in five records, one of them without a caption."""
    for number in range(2):
        photo(60, 50, number).save(tmp_path / f"{number}.png")
    items: list[dict[str, Any]] = [
        {"image": "0.png", "caption": "A red dog."},
        {"image": "1.png", "caption": ["Two cats", "a CAT on the left"]},
        {"image": "0.png", "caption": "the round dog"},
        {"image": "0.png", "text": "the ear", "bbox": [1, 2, 30, 20]},
        {"image": "1.png", "caption": "..."},
    ]
    (tmp_path / "items.json").write_text(json.dumps(items))
    return JsonSource(tmp_path / "items.json")


def test_references_are_all_that_was_said_of_an_image(source: JsonSource) -> None:
    said = references([source], max_words=3)
    assert said[image_key(source[0])] == ["a red dog", "the round dog"]
    assert said[image_key(source[1])] == ["two cats", "a cat on"]


def test_references_are_mirrored_with_the_image(source: JsonSource, tmp_path: Path) -> None:
    run = toys.RUNS["self_critical"]()
    run = replace(run, data=replace(run.data, flip=True))
    task = self_critical.build(run, tmp_path / "out")
    view = replace(task.feed._readers[0].part.view, said=references([source], max_words=30))
    seen = {view(source[1], np.random.default_rng(seed)).references for seed in range(12)}
    assert seen == {("two cats", "a cat on the left"), ("two cats", "a cat on the right")}
    with pytest.raises(BadRecord, match="no caption"):
        view(source[3], np.random.default_rng(0))


@pytest.fixture
def task(tmp_path: Path) -> SelfCritical:
    task = self_critical.build(toys.RUNS["self_critical"](), tmp_path).task
    assert isinstance(task, SelfCritical)
    return task


def test_a_caption_that_does_not_end_earns_less(task: SelfCritical) -> None:
    said = ["the red circle is small", "a scene"]
    ids = [*task.prompt, *task.tokenizer.encode("the red circle is small", 40)[1:]]
    task.limits = replace(task.limits, max_length=len(ids) + 1)
    complete = task.score(ids, said)
    task.limits = replace(task.limits, max_length=len(ids))
    assert 0 < task.score(ids, said) < complete
    assert task.score(task.prompt, said) == 0.0, "nothing was written"


def test_better_captions_become_likelier(
    task: SelfCritical, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two captions of every image, one better and one worse than the greedy one by as much."""
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).feed[0].batches[0]
    count = len(batch.references)
    good = [*task.prompt, 20, 21, 22]
    bad = [*task.prompt, 30, 31]
    task.samples = 2
    monkeypatch.setattr(task, "captions", lambda images: ([[good, bad]] * count, [[1]] * count))
    monkeypatch.setattr(
        task, "score", lambda ids, said: {3: 1.5, 2: 0.5, 1: 1.0}[len(ids[len(task.prompt) :]) or 1]
    )
    task.eval()
    rows = [good, bad] * count
    before = task.log_probability(rows, batch.images).detach()
    losses = task(batch)
    expected = -(before[0::2].mean() - before[1::2].mean()) / 4
    assert losses["self_critical"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses["cider"].item() == pytest.approx(1.0)
    losses["self_critical"].backward()
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    after = task.log_probability(rows, batch.images)
    assert (after[0::2] > before[0::2]).all() and (after[1::2] < before[1::2]).all()


def test_log_probability_is_that_of_every_own_token(task: SelfCritical, tmp_path: Path) -> None:
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).feed[0].batches[0]
    task.eval()
    task.samples = 1
    start = len(task.prompt)
    captions = [[*task.prompt, *range(10, 10 + length)] for length in (1, 2, 3, 2)]
    found = task.log_probability(captions, batch.images)
    decoder = task.model.captions
    looked_at, image_B = task.whole_images(batch.images)
    for number, ids in enumerate(captions):
        whole = [*ids, task.limits.end]
        writer = self_critical.Writer(decoder, looked_at, image_B[number : number + 1])
        total = 0.0
        for place in range(start, len(whole)):
            given = whole[:place] if place == start else whole[place - 1 : place]
            logits = writer.step(torch.tensor([given]))
            total += logits.log_softmax(-1)[0, whole[place]].item()
        assert found[number].item() == pytest.approx(total / (len(whole) - start), rel=1e-4)


@pytest.fixture
def published(tmp_path: Path) -> SelfCritical:
    """In faithful mode, with dropout in the model."""
    run = toys.RUNS["self_critical"]()
    text = replace(run.model.text, dropout=0.3)
    run = replace(run, faithful=True, model=replace(run.model, text=text), samples=3)
    task = self_critical.build(run, tmp_path).task
    assert isinstance(task, SelfCritical)
    return task


def test_faithful_captions_are_scored_as_they_are_written(published: SelfCritical) -> None:
    """An end stands after each, and nothing is cleaned: "circle ." holds a word more."""
    said = ["the red circle", "a scene"]
    ids = published.tokenizer.encode("the red circle", 40)[1:]
    unfinished = [*published.prompt, *ids]
    published.limits = replace(published.limits, max_length=len(unfinished))
    expected = published.cider.score(f"the red circle {END}", [f"{one} {END}" for one in said])
    assert published.score(unfinished, said) == pytest.approx(expected) and expected > 0
    published.tokenizer.decode = lambda _: "the red circle ."  # type: ignore[method-assign]
    expected = published.cider.score(f"the red circle . {END}", [f"{one} {END}" for one in said])
    assert published.score(unfinished, said) == pytest.approx(expected)


def test_faithful_samples_are_drawn_and_scored_in_the_same_passes(
    published: SelfCritical, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout the log-probabilities are those of one pass; with it they have a gradient and vary."""
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).feed[0].batches[0]
    published.eval()  # nothing is hidden: what is drawn can be scored again
    drawn, log_R = published.drawn_in_training(batch.images)
    assert [len(several) for several in drawn] == [3] * len(batch.references)
    rows = [ids for several in drawn for ids in several]
    assert all(ids[: len(published.prompt)] == list(published.prompt) for ids in rows)
    torch.testing.assert_close(log_R, published.log_probability(rows, batch.images), rtol=1e-4, atol=1e-5)
    assert len({tuple(ids) for ids in rows}) > len(batch.references)

    published.train()
    modes: list[bool] = []
    forward = published.model.captions.forward

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        modes.append(published.model.captions.training)
        return forward(*arguments, **options)

    monkeypatch.setattr(published.model.captions, "forward", watched)
    losses = published(batch)
    assert modes and all(modes), "every pass that draws is a training pass"
    assert len(modes) <= published.limits.max_length, "none is scored again"
    losses["self_critical"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in published.model.captions.parameters())


def test_a_prompt_that_fills_the_caption_is_an_error(tmp_path: Path) -> None:
    """Nothing would be drawn, and the loss would be 0 / 0."""
    run = replace(
        toys.RUNS["self_critical"](), prompt="a picture of the red circle of the scene", max_tokens=6
    )
    with pytest.raises(InputError, match=r"max_tokens is 6; the prompt, .* leaves none for a caption"):
        self_critical.build(run, tmp_path)
