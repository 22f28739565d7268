"""Recall equals its mean over all orders of tied candidates; NaN scores are never right."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xvlm.metrics.recall import (
    CUTOFFS,
    NOT_FOUND,
    expected_rank,
    rank_of_first_true,
    recall_at,
    recall_metrics,
)


def recall(score_IU: Tensor, image_U: Tensor, suffix: str = "") -> dict[str, float]:
    """Return the recall metrics of a full score matrix."""
    true_IU = torch.arange(len(score_IU))[:, None] == image_U
    ranks = (rank_of_first_true(score_IU, true_IU), rank_of_first_true(score_IU.T, true_IU.T))
    return recall_metrics(*ranks, suffix)


def ranks_of_all_orders(score: list[float], true: list[bool]) -> list[int]:
    """Return the rank from 1 of the first true candidate, for every order of falling scores."""
    ranks = []
    for order in permutations(range(len(score))):
        if all(score[a] >= score[b] for a, b in pairwise(order)):
            ranks.append(next(rank for rank, c in enumerate(order, start=1) if true[c]))
    return ranks


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_recall_is_its_mean_over_all_orders_of_tied_candidates(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    values = st.sampled_from([0.0, 0.5, 0.5, 2.0])  # repeated values, so that ties are common
    score = data.draw(st.lists(values, min_size=count, max_size=count))
    true = data.draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    ranks = ranks_of_all_orders(score, true)
    rank_13 = rank_of_first_true(torch.tensor([score]), torch.tensor([true]))
    for k in range(1, 8):
        expected = sum(rank <= k for rank in ranks) / len(ranks)
        assert recall_at(rank_13, k).item() == pytest.approx(expected, abs=1e-12)
    assert expected_rank(rank_13).item() == pytest.approx(sum(ranks) / len(ranks))


@pytest.mark.parametrize("images", [1, 7, 40])
@pytest.mark.parametrize("texts_each", [1, 3])
def test_a_constant_model_has_the_recall_of_chance(images: int, texts_each: int) -> None:
    metrics = recall(
        torch.zeros(images, images * texts_each), torch.arange(images).repeat_interleave(texts_each)
    )
    for k in CUTOFFS:
        assert metrics[f"t2i_r{k}"] == pytest.approx(min(1.0, k / images), abs=1e-12)
    assert metrics["i2t_r1"] == pytest.approx(1 / images, abs=1e-12)


def test_duplicate_candidates_neither_help_nor_harm_on_average() -> None:
    """Of two equal pairs, one of the two queries is right in expectation."""
    metrics = recall(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.arange(3))
    assert metrics["i2t_r1"] == pytest.approx((0.5 + 0.5 + 1) / 3) and metrics["i2t_r5"] == 1.0


def test_without_ties_recall_is_a_share_of_queries() -> None:
    score_QN = torch.tensor(list(product([0.1, 0.7], [0.2, 0.6], [0.3, 0.5])))
    true_QN = torch.tensor([False, True, True]).expand(8, 3)
    rank_Q3 = rank_of_first_true(score_QN, true_QN)
    hits = [float(max(row[1], row[2]) > row[0]) for row in score_QN.tolist()]
    assert recall_at(rank_Q3, 1).tolist() == hits and 0 < sum(hits) < 8
    perfect = recall(torch.eye(20), torch.arange(20), suffix="_x")
    assert set(perfect.values()) == {1.0}
    assert {"t2i_r10_x", "i2t_r_mean_x", "t2i_r_mean_x", "r_mean_x"} <= perfect.keys()


@pytest.mark.parametrize("images", [1, 12])
def test_nan_scores_are_never_right(images: int) -> None:
    """A diverged model must not have recall 1, nor that of chance."""
    score = torch.full((images, images), torch.nan)
    assert set(recall(score, torch.arange(images)).values()) == {0.0}
    score = torch.eye(images)
    score[0, 0] = torch.nan
    assert recall(score, torch.arange(images))["i2t_r10"] == pytest.approx(1 - 1 / images)


def test_a_false_candidate_with_nan_ranks_before_the_true_one() -> None:
    rank_Q3 = rank_of_first_true(torch.tensor([[torch.nan, 1.0, 1.0]]), torch.tensor([[False, True, False]]))
    assert rank_Q3.tolist() == [[1, 1, 1]]


def test_without_a_true_candidate_the_recall_is_zero() -> None:
    true_QN = torch.tensor([[False, False], [False, True]])
    rank_Q3 = rank_of_first_true(torch.zeros(2, 2), true_QN)
    assert rank_Q3[0, 0] == NOT_FOUND and rank_Q3[1].tolist() == [0, 1, 1]
    assert recall_at(rank_Q3, 10).tolist() == [0.0, 1.0]
    assert expected_rank(rank_Q3).tolist() == [torch.inf, 1.5]
