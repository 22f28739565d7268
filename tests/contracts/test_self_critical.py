"""Self-critical training: references, rewards and gradients."""

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
from xvlm.common.errors import InputError
from xvlm.data.samples.text_rows import hash_image
from xvlm.data.sources.json import JsonSource
from xvlm.records import BadRecord
from xvlm.tasks import self_critical
from xvlm.tasks.self_critical import END, SelfCritical, collect_references


@pytest.fixture
def source(tmp_path: Path) -> JsonSource:
    """Return a source of two images in five records, one of them without a caption."""
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


def test_references_are_all_captions_of_an_image(source: JsonSource) -> None:
    references = collect_references([source], max_words=3)
    assert references[hash_image(source[0])] == ["a red dog", "the round dog"]
    assert references[hash_image(source[1])] == ["two cats", "a cat on"]


def test_references_are_flipped_with_the_image(source: JsonSource, tmp_path: Path) -> None:
    run = toys.RUNS["self_critical"]()
    run = replace(run, data=replace(run.data, random_flip=True))
    task = self_critical.build(run, tmp_path / "out")
    build_sample = task.steps.streams[0].build_sample
    build_sample = replace(build_sample, references=collect_references([source], max_words=30))
    sampled = {build_sample(source[1], np.random.default_rng(seed)).references for seed in range(12)}
    assert sampled == {("two cats", "a cat on the left"), ("two cats", "a cat on the right")}
    with pytest.raises(BadRecord, match="no caption"):
        build_sample(source[3], np.random.default_rng(0))


@pytest.fixture
def task(tmp_path: Path) -> SelfCritical:
    task = self_critical.build(toys.RUNS["self_critical"](), tmp_path).loss_module
    assert isinstance(task, SelfCritical)
    return task


def test_an_incomplete_caption_has_a_lower_reward(task: SelfCritical) -> None:
    references = ["the red circle is small", "a scene"]
    ids = [*task.prompt, *task.tokenizer.encode("the red circle is small", 40)[1:]]
    task.limits = replace(task.limits, max_length=len(ids) + 1)
    complete = task.reward(ids, references)
    task.limits = replace(task.limits, max_length=len(ids))
    assert 0 < task.reward(ids, references) < complete
    assert task.reward(task.prompt, references) == 0.0, "the caption is empty"


def test_better_captions_become_more_probable(
    task: SelfCritical, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image has one caption that is better than the greedy one, and one that is as much worse."""
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).steps[0].batches[0]
    count = len(batch.references)
    good = [*task.prompt, 20, 21, 22]
    bad = [*task.prompt, 30, 31]
    task.num_samples = 2
    monkeypatch.setattr(task, "sample_captions", lambda images: ([[good, bad]] * count, [[1]] * count))
    monkeypatch.setattr(
        task, "reward", lambda ids, _: {3: 1.5, 2: 0.5, 1: 1.0}[len(ids[len(task.prompt) :]) or 1]
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


def test_log_probability_is_the_mean_over_own_tokens(task: SelfCritical, tmp_path: Path) -> None:
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).steps[0].batches[0]
    task.eval()
    task.num_samples = 1
    start = len(task.prompt)
    captions = [[*task.prompt, *range(10, 10 + length)] for length in (1, 2, 3, 2)]
    found = task.log_probability(captions, batch.images)
    decoder = task.model.caption_decoder
    context, image_B = task.encode_images(batch.images)
    for number, ids in enumerate(captions):
        complete = [*ids, task.limits.end]
        rows = self_critical.IncrementalDecoder(decoder, context, image_B[number : number + 1])
        total = 0.0
        for position in range(start, len(complete)):
            tokens = complete[:position] if position == start else complete[position - 1 : position]
            logits = rows.step(torch.tensor([tokens]))
            total += logits.log_softmax(-1)[0, complete[position]].item()
        assert found[number].item() == pytest.approx(total / (len(complete) - start), rel=1e-4)


@pytest.fixture
def published(tmp_path: Path) -> SelfCritical:
    """Return the losses of faithful mode, of a model with dropout."""
    run = toys.RUNS["self_critical"]()
    text = replace(run.model.text, dropout=0.3)
    run = replace(run, faithful=True, model=replace(run.model, text=text), num_samples=3)
    task = self_critical.build(run, tmp_path).loss_module
    assert isinstance(task, SelfCritical)
    return task


def test_faithful_rewards_neither_clean_captions_nor_check_their_end(published: SelfCritical) -> None:
    """Every caption gets an end token, and the full stop of "circle ." counts as a word."""
    references = ["the red circle", "a scene"]
    ids = published.tokenizer.encode("the red circle", 40)[1:]
    unfinished = [*published.prompt, *ids]
    published.limits = replace(published.limits, max_length=len(unfinished))
    expected = published.cider.score(f"the red circle {END}", [f"{one} {END}" for one in references])
    assert published.reward(unfinished, references) == pytest.approx(expected) and expected > 0
    published.tokenizer.decode = lambda _: "the red circle ."  # type: ignore[method-assign]
    expected = published.cider.score(f"the red circle . {END}", [f"{one} {END}" for one in references])
    assert published.reward(unfinished, references) == pytest.approx(expected)


def test_faithful_samples_are_differentiated_in_the_passes_that_sample_them(
    published: SelfCritical, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout the log-probabilities are those of a second pass; with dropout there is none."""
    batch = self_critical.build(toys.RUNS["self_critical"](), tmp_path).steps[0].batches[0]
    published.eval()
    sampled, log_R = published.sample_with_gradient(batch.images)
    assert [len(several) for several in sampled] == [3] * len(batch.references)
    rows = [ids for several in sampled for ids in several]
    assert all(ids[: len(published.prompt)] == list(published.prompt) for ids in rows)
    torch.testing.assert_close(log_R, published.log_probability(rows, batch.images), rtol=1e-4, atol=1e-5)
    assert len({tuple(ids) for ids in rows}) > len(batch.references)

    published.train()
    modes: list[bool] = []
    forward = published.model.caption_decoder.forward

    def recorded(*arguments: Any, **options: Any) -> torch.Tensor:
        modes.append(published.model.caption_decoder.training)
        return forward(*arguments, **options)

    monkeypatch.setattr(published.model.caption_decoder, "forward", recorded)
    losses = published(batch)
    assert modes and all(modes), "captions are sampled with dropout"
    assert len(modes) <= published.limits.max_length, "no caption is scored in a second pass"
    losses["self_critical"].backward()
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in published.model.caption_decoder.parameters()
    )


def test_a_prompt_that_fills_the_caption_is_an_error(tmp_path: Path) -> None:
    """No token would be sampled, and the loss would be 0 / 0."""
    run = replace(
        toys.RUNS["self_critical"](), prompt="a picture of the red circle of the scene", max_tokens=6
    )
    with pytest.raises(InputError, match=r"max_tokens is 6; the prompt, .* leaves none for a caption"):
        self_critical.build(run, tmp_path)
