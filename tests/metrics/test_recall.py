"""Recall against all orders of tied candidates, with several true ones, and scores that are not numbers."""

from __future__ import annotations

from itertools import pairwise, permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xvlm.metrics.recall import CUTS, NEVER, expected_rank, rank_of_first_true, recall_at, recall_metrics


def recall(score_IT: Tensor, image_T: Tensor, suffix: str = "") -> dict[str, float]:
    """Of a whole matrix of scores."""
    true_IT = torch.arange(len(score_IT))[:, None] == image_T
    ranks = (rank_of_first_true(score_IT, true_IT), rank_of_first_true(score_IT.T, true_IT.T))
    return recall_metrics(*ranks, suffix)


def ranks_of_all_orders(score: list[float], true: list[bool]) -> list[int]:
    """The rank from 1 of the first true candidate in every order in which no better one stands behind."""
    ranks = []
    for order in permutations(range(len(score))):
        if all(score[a] >= score[b] for a, b in pairwise(order)):
            ranks.append(next(place for place, c in enumerate(order, start=1) if true[c]))
    return ranks


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_recall_is_its_mean_over_all_orders_of_tied_candidates(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    values = st.sampled_from([0.0, 0.5, 0.5, 2.0])  # few, so that many tie
    score = data.draw(st.lists(values, min_size=count, max_size=count))
    true = data.draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    ranks = ranks_of_all_orders(score, true)
    rank_13 = rank_of_first_true(torch.tensor([score]), torch.tensor([true]))
    for k in range(1, 8):
        found = sum(rank <= k for rank in ranks) / len(ranks)
        assert recall_at(rank_13, k).item() == pytest.approx(found, abs=1e-12)
    assert expected_rank(rank_13).item() == pytest.approx(sum(ranks) / len(ranks))


@pytest.mark.parametrize("images", [1, 7, 40])
@pytest.mark.parametrize("texts_each", [1, 3])
def test_a_constant_model_has_the_recall_of_chance(images: int, texts_each: int) -> None:
    found = recall(
        torch.zeros(images, images * texts_each), torch.arange(images).repeat_interleave(texts_each)
    )
    for k in CUTS:
        assert found[f"t2i_r{k}"] == pytest.approx(min(1.0, k / images), abs=1e-12)
    assert found["i2t_r1"] == pytest.approx(1 / images, abs=1e-12)


def test_copies_of_a_candidate_neither_help_nor_harm_on_average() -> None:
    """Two equal pairs: whichever of the two comes first, one of two queries is right, on average one."""
    found = recall(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.arange(3))
    assert found["i2t_r1"] == pytest.approx((0.5 + 0.5 + 1) / 3) and found["i2t_r5"] == 1.0


def test_without_ties_recall_is_a_share_of_queries() -> None:
    score_QC = torch.tensor(list(product([0.1, 0.7], [0.2, 0.6], [0.3, 0.5])))
    true_QC = torch.tensor([False, True, True]).expand(8, 3)
    rank_Q3 = rank_of_first_true(score_QC, true_QC)
    hits = [float(max(row[1], row[2]) > row[0]) for row in score_QC.tolist()]
    assert recall_at(rank_Q3, 1).tolist() == hits and 0 < sum(hits) < 8
    perfect = recall(torch.eye(20), torch.arange(20), suffix="_x")
    assert set(perfect.values()) == {1.0}
    assert {"t2i_r10_x", "i2t_r_mean_x", "t2i_r_mean_x", "r_mean_x"} <= perfect.keys()


@pytest.mark.parametrize("images", [1, 12])
def test_scores_that_are_not_numbers_are_never_right(images: int) -> None:
    """A model that broke must not have recall 1, nor that of chance."""
    score = torch.full((images, images), torch.nan)
    assert set(recall(score, torch.arange(images)).values()) == {0.0}
    score = torch.eye(images)
    score[0, 0] = torch.nan
    assert recall(score, torch.arange(images))["i2t_r10"] == pytest.approx(1 - 1 / images)


def test_a_false_score_that_is_no_number_stands_before_the_true_one() -> None:
    rank_Q3 = rank_of_first_true(torch.tensor([[torch.nan, 1.0, 1.0]]), torch.tensor([[False, True, False]]))
    assert rank_Q3.tolist() == [[1, 1, 1]]


def test_without_a_true_candidate_nothing_is_found() -> None:
    true_QC = torch.tensor([[False, False], [False, True]])
    rank_Q3 = rank_of_first_true(torch.zeros(2, 2), true_QC)
    assert rank_Q3[0, 0] == NEVER and rank_Q3[1].tolist() == [0, 1, 1]
    assert recall_at(rank_Q3, 10).tolist() == [0.0, 1.0]
    assert expected_rank(rank_Q3).tolist() == [torch.inf, 1.5]
