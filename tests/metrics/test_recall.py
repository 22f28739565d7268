"""Recall against a plain ranking, with ties, several texts an image, and scores that are not numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xvlm.metrics.recall import CUTS, recall_metrics


def plain(score: list[list[float]], image_of_text: list[int]) -> dict[str, float]:
    """Candidates sorted by score, wrong ones before right ones where they tie."""
    images, texts = range(len(score)), range(len(image_of_text))
    ranks: dict[str, list[int]] = {"i2t": [], "t2i": []}
    for i in images:
        order = sorted(texts, key=lambda t: (-score[i][t], image_of_text[t] == i))
        ranks["i2t"].append(next(n for n, t in enumerate(order) if image_of_text[t] == i))
    for t in texts:
        order = sorted(images, key=lambda i: (-score[i][t], image_of_text[t] == i))
        ranks["t2i"].append(order.index(image_of_text[t]))
    found = {f"{d}_r{k}": sum(r < k for r in ranks[d]) / len(ranks[d]) for d in ranks for k in CUTS}
    return {**found, "r_mean": sum(found.values()) / len(found)}


@given(st.data())
def test_equals_a_plain_ranking(data: st.DataObject) -> None:
    images = data.draw(st.integers(1, 14))
    more = data.draw(st.lists(st.integers(0, images - 1), max_size=14))
    image_of_text = data.draw(st.permutations([*range(images), *more]))
    values = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0])  # few, so that many tie
    row = st.lists(values, min_size=len(image_of_text), max_size=len(image_of_text))
    score = data.draw(st.lists(row, min_size=images, max_size=images))
    found = recall_metrics(torch.tensor(score), torch.tensor(image_of_text))
    assert found == pytest.approx(plain(score, list(image_of_text)))


def test_perfect_and_constant_scores() -> None:
    image_T = torch.arange(20)
    perfect = recall_metrics(torch.eye(20), image_T, suffix="_x")
    assert set(perfect.values()) == {1.0} and "t2i_r10_x" in perfect and "r_mean_x" in perfect
    assert set(recall_metrics(torch.zeros(20, 20), image_T).values()) == {0.0}


def test_scores_that_are_not_numbers_are_never_right() -> None:
    """A model that broke must not have recall 1."""
    score = torch.full((12, 12), torch.nan)
    assert set(recall_metrics(score, torch.arange(12)).values()) == {0.0}
    score = torch.eye(12)
    score[0, 0] = torch.nan
    assert recall_metrics(score, torch.arange(12))["i2t_r10"] == pytest.approx(11 / 12)


def test_an_image_without_text_is_named() -> None:
    with pytest.raises(ValueError, match="image 1 has no text"):
        recall_metrics(torch.zeros(3, 2), torch.tensor([0, 2]))
