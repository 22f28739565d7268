"""Sampled negatives are never true pairs, and are sampled in proportion to similarity."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.losses.contrastive import same_concept_or_text
from xvlm.losses.negatives import sample_image_assignment, sample_negatives

keys = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


def vectors(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(keys, st.data())
def test_a_true_pair_is_never_a_negative(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """Every requested row that has a negative gets one, in the order of the request."""
    key = torch.tensor(pairs)
    positive_NN = same_concept_or_text(key[:, 0], key[:, 1], key[:, 0], key[:, 1])
    rows = data.draw(st.lists(st.integers(0, len(pairs) - 1), unique=True))
    negatives = sample_negatives(
        vectors(len(pairs), 1),
        vectors(len(pairs), 2),
        torch.tensor(0.01),
        positive_NN[rows],
        torch.tensor(rows).long(),
    )
    assert negatives.row_Q.tolist() == [i for i in rows if not positive_NN[i].all()]
    assert not positive_NN[negatives.row_Q, negatives.concept_Q].any()
    assert not positive_NN[negatives.text_Q, negatives.row_Q].any()


@pytest.mark.parametrize("uniform_ratio", [0.0, 0.3, 1.0])
def test_negatives_are_sampled_in_proportion_to_similarity(uniform_ratio: float) -> None:
    """In 20,000 samples of each row, the frequency of a candidate is its softmax weight among the allowed
    candidates, mixed with the uniform distribution."""
    rows, samples, temperature = 5, 20_000, torch.tensor(0.5)
    concept, text = vectors(rows, 1), vectors(rows, 2)
    positive_NN = torch.eye(rows, dtype=torch.bool)
    positive_NN[0, 3] = positive_NN[3, 0] = True
    torch.manual_seed(0)
    row_F = torch.arange(rows).repeat(samples)
    negatives = sample_negatives(concept, text, temperature, positive_NN[row_F], row_F, uniform_ratio)
    similarity = text @ concept.T / temperature
    for negative_Q, scores in ((negatives.concept_Q, similarity), (negatives.text_Q, similarity.T)):
        hard = scores.softmax(1).masked_fill(positive_NN, 0)
        uniform = (~positive_NN).double()
        expected = (1 - uniform_ratio) * hard / hard.sum(1, keepdim=True)
        expected = expected + uniform_ratio * uniform / uniform.sum(1, keepdim=True)
        counts = torch.stack(
            [torch.bincount(negative_Q[negatives.row_Q == i], minlength=rows) for i in range(rows)]
        )
        tolerance = 5 * (expected * (1 - expected) / samples).sqrt().max()
        assert (counts / samples - expected).abs().max() < tolerance


def test_a_candidate_of_probability_zero_can_be_sampled() -> None:
    """The floor of 1e-5 makes sampling possible where the softmax is 0 for all allowed candidates."""
    concept = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    negatives = sample_negatives(
        concept, concept, torch.tensor(0.001), torch.eye(2, dtype=torch.bool), torch.arange(2)
    )
    assert negatives.concept_Q.tolist() == negatives.text_Q.tolist() == [1, 0]


def test_one_row_has_no_negative() -> None:
    negatives = sample_negatives(
        vectors(1, 1), vectors(1, 2), torch.tensor(0.1), torch.ones(1, 1, dtype=torch.bool), torch.arange(1)
    )
    assert negatives.row_Q.shape == negatives.concept_Q.shape == negatives.text_Q.shape == (0,)


def test_sampling_from_nan_does_not_fail() -> None:
    """The training loop reports a NaN loss with the keys of the batch; sampling must not raise before it."""
    nan_NE = torch.full((4, 3), torch.nan)
    positive_NN = torch.eye(4, dtype=torch.bool)
    negatives = sample_negatives(nan_NE, nan_NE, torch.tensor(0.1), positive_NN, torch.arange(4))
    assert not positive_NN[negatives.row_Q, negatives.concept_Q].any() and len(negatives.row_Q) == 4


def test_no_gradient_flows_through_sampling() -> None:
    concept = vectors(3, 1).requires_grad_()
    negatives = sample_negatives(
        concept, vectors(3, 2), torch.tensor(0.1), torch.eye(3, dtype=torch.bool), torch.arange(3)
    )
    assert not any(t.requires_grad for t in (negatives.row_Q, negatives.concept_Q, negatives.text_Q))


def test_assigned_images_agree_with_their_label() -> None:
    """Each label has a third of the samples; the caption's own image is on its side or absent; no other image
    matches the caption."""
    torch.manual_seed(0)
    image_BE = F.normalize(torch.randn(6, 8), dim=1)
    positive_BB = torch.eye(6, dtype=torch.bool)
    positive_BB[1, 4] = positive_BB[4, 1] = True
    counts = torch.zeros(3)
    for _ in range(500):
        assignment = sample_image_assignment(image_BE, positive_BB, 0.07)
        assert assignment.row_Q.tolist() == list(range(6))
        for row, left, right, label in zip(*map(Tensor.tolist, vars(assignment).values()), strict=True):
            counts[label] += 1
            own = [left, right][label] if label < 2 else row
            others = {0: [right], 1: [left], 2: [left, right]}[label]
            assert own == row and not any(positive_BB[row, other] for other in others) and left != right
    assert torch.allclose(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.03)


def test_negative_images_are_similar_to_the_own_image() -> None:
    torch.manual_seed(0)
    image_BE = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), dim=1)
    samples = [sample_image_assignment(image_BE, torch.eye(4, dtype=torch.bool), 0.07) for _ in range(50)]
    others = [int(sample.right_Q[0]) for sample in samples if sample.label_Q[0] == 0]
    assert others and others.count(1) > 0.9 * len(others)


def test_a_caption_without_two_negative_images_is_left_out() -> None:
    positive_BB = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert sample_image_assignment(torch.eye(3), positive_BB, 0.07).row_Q.tolist() == [2]
    assert sample_image_assignment(torch.eye(2), torch.eye(2, dtype=torch.bool), 0.07).row_Q.shape == (0,)
