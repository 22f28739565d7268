"""Recall against a plain ranking, with ties, several texts an image, and scores that are not numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xvlm.metrics.recall import CUTS, NEVER, rank_of_first_true, recall_metrics


def recall(score_IT: Tensor, image_T: Tensor, suffix: str = "") -> dict[str, float]:
    """Of a whole matrix of scores."""
    true_IT = torch.arange(len(score_IT))[:, None] == image_T
    ranks = (rank_of_first_true(score_IT, true_IT), rank_of_first_true(score_IT.T, true_IT.T))
    return recall_metrics(*ranks, suffix)


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
    means = {f"{d}_r_mean": sum(found[f"{d}_r{k}"] for k in CUTS) / 3 for d in ranks}
    return {**found, **means, "r_mean": sum(found.values()) / len(found)}


@settings(max_examples=300)
@given(st.data())
def test_equals_a_plain_ranking(data: st.DataObject) -> None:
    images = data.draw(st.integers(1, 14))
    more = data.draw(st.lists(st.integers(0, images - 1), max_size=14))
    image_of_text = data.draw(st.permutations([*range(images), *more]))
    values = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0])  # few, so that many tie
    row = st.lists(values, min_size=len(image_of_text), max_size=len(image_of_text))
    score = data.draw(st.lists(row, min_size=images, max_size=images))
    found = recall(torch.tensor(score), torch.tensor(image_of_text))
    assert found == pytest.approx(plain(score, list(image_of_text)))


def test_perfect_and_constant_scores() -> None:
    image_T = torch.arange(20)
    perfect = recall(torch.eye(20), image_T, suffix="_x")
    assert set(perfect.values()) == {1.0}
    assert {"t2i_r10_x", "i2t_r_mean_x", "t2i_r_mean_x", "r_mean_x"} <= perfect.keys()
    assert set(recall(torch.zeros(20, 20), image_T).values()) == {0.0}


@pytest.mark.parametrize("images", [1, 12])
def test_scores_that_are_not_numbers_are_never_right(images: int) -> None:
    """A model that broke must not have recall 1."""
    score = torch.full((images, images), torch.nan)
    assert set(recall(score, torch.arange(images)).values()) == {0.0}
    score = torch.eye(images)
    score[0, 0] = torch.nan
    assert recall(score, torch.arange(images))["i2t_r10"] == pytest.approx(1 - 1 / images)


def test_without_a_true_candidate_nothing_is_found() -> None:
    true_QC = torch.tensor([[False, False], [False, True]])
    assert rank_of_first_true(torch.zeros(2, 2), true_QC).tolist() == [NEVER, 1]
