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
from xvlm.records import BadRecord
from xvlm.tasks import self_critical
from xvlm.tasks.self_critical import SelfCritical, references


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
