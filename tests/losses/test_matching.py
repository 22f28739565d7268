"""Hard negatives are what they should be; matching and masked-language losses are plain cross-entropies."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.losses.contrastive import same_thing
from xvlm.losses.matching import draw_assigned, draw_negatives, matching_loss
from xvlm.losses.mlm import masked_language_loss

keys = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


def vectors(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=-1)


@given(keys, st.data())
def test_never_the_same_thing(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """And a negative for every row that was asked for and has one, in the order asked."""
    key = torch.tensor(pairs)
    same_NN = same_thing(key[:, 0], key[:, 1], key[:, 0], key[:, 1])
    asked = data.draw(st.lists(st.integers(0, len(pairs) - 1), unique=True))
    drawn = draw_negatives(
        vectors(len(pairs), 1),
        vectors(len(pairs), 2),
        torch.tensor(0.01),
        same_NN[asked],
        torch.tensor(asked).long(),
    )
    assert drawn.row_N.tolist() == [i for i in asked if not same_NN[i].all()]
    assert not same_NN[drawn.row_N, drawn.concept_N].any()
    assert not same_NN[drawn.text_N, drawn.row_N].any()


@pytest.mark.parametrize("easy", [0.0, 0.3, 1.0])
def test_drawn_in_proportion_to_similarity(easy: float) -> None:
    """20000 draws a row; the share of each candidate is its softmax weight among those allowed, but for the
    share of easy ones, which are drawn from all that are allowed alike."""
    rows, draws, temperature = 5, 20_000, torch.tensor(0.5)
    concept, text = vectors(rows, 1), vectors(rows, 2)
    same_NN = torch.eye(rows, dtype=torch.bool)
    same_NN[0, 3] = same_NN[3, 0] = True
    torch.manual_seed(0)
    asked = torch.arange(rows).repeat(draws)
    drawn = draw_negatives(concept, text, temperature, same_NN[asked], asked, easy)
    similarity = text @ concept.T / temperature
    for negative, scores in ((drawn.concept_N, similarity), (drawn.text_N, similarity.T)):
        weight = scores.softmax(1).masked_fill(same_NN, 0)
        alike = (~same_NN).double()
        expected = (1 - easy) * weight / weight.sum(1, keepdim=True) + easy * alike / alike.sum(
            1, keepdim=True
        )
        found = torch.stack([torch.bincount(negative[drawn.row_N == i], minlength=rows) for i in range(rows)])
        spread = 5 * (expected * (1 - expected) / draws).sqrt().max()
        assert (found / draws - expected).abs().max() < spread


def test_a_candidate_without_hope_is_still_drawn() -> None:
    """The floor of 1e-5 keeps the draw possible where the softmax is 0 for all that is allowed."""
    concept = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    drawn = draw_negatives(
        concept, concept, torch.tensor(0.001), torch.eye(2, dtype=torch.bool), torch.arange(2)
    )
    assert drawn.concept_N.tolist() == drawn.text_N.tolist() == [1, 0]


def test_one_row_has_no_negative() -> None:
    drawn = draw_negatives(
        vectors(1, 1), vectors(1, 2), torch.tensor(0.1), torch.ones(1, 1, dtype=torch.bool), torch.arange(1)
    )
    assert drawn.row_N.shape == drawn.concept_N.shape == drawn.text_N.shape == (0,)


def test_a_broken_model_is_left_to_the_loss() -> None:
    """The loop stops at a loss that is NaN and keeps the batch's keys; a failing draw would come before."""
    broken = torch.full((4, 3), torch.nan)
    same_NN = torch.eye(4, dtype=torch.bool)
    drawn = draw_negatives(broken, broken, torch.tensor(0.1), same_NN, torch.arange(4))
    assert not same_NN[drawn.row_N, drawn.concept_N].any() and len(drawn.row_N) == 4


def test_no_gradient_flows_through_the_draw() -> None:
    concept = vectors(3, 1).requires_grad_()
    drawn = draw_negatives(
        concept, vectors(3, 2), torch.tensor(0.1), torch.eye(3, dtype=torch.bool), torch.arange(3)
    )
    assert not any(t.requires_grad for t in (drawn.row_N, drawn.concept_N, drawn.text_N))


def test_matching_loss_is_the_mean_of_all_rows() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 1.0]], dtype=torch.float64)
    is_match = torch.tensor([True, False, True])
    expected = 0.0
    for (no, yes), match in zip(logits.tolist(), is_match.tolist(), strict=True):
        expected += math.log(math.exp(no) + math.exp(yes)) - (yes if match else no)
    assert matching_loss(logits, is_match).item() == pytest.approx(expected / 3)


def test_masked_language_loss_is_the_mean_of_hidden_tokens() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]], dtype=torch.float64)
    expected = sum(
        math.log(sum(map(math.exp, row))) - row[target]
        for row, target in zip(logits.tolist(), [1, 0], strict=True)
    )
    assert masked_language_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected / 2)


def test_losses_of_nothing_are_zero_with_a_gradient() -> None:
    """A rank may have no hidden token, or nothing to match: its parameters still take part."""
    logits = torch.zeros(0, 3, requires_grad=True)
    for loss in (
        masked_language_loss(logits, torch.zeros(0, dtype=torch.int64)),
        matching_loss(logits[:, :2], torch.zeros(0, dtype=torch.bool)),
    ):
        assert loss.item() == 0
        loss.backward()
        assert logits.grad is not None


def test_masked_language_loss_of_half_precision_is_float32() -> None:
    logits = torch.randn(3, 5, dtype=torch.bfloat16)
    assert masked_language_loss(logits, torch.tensor([0, 1, 2])).dtype == torch.float32


def test_assigned_images_are_what_their_label_says() -> None:
    """Each case a third of the time; the own image on its side or nowhere; never what is as right."""
    torch.manual_seed(0)
    image_BE = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    same_BB = torch.eye(6, dtype=torch.bool)
    same_BB[1, 4] = same_BB[4, 1] = True
    counts = torch.zeros(3)
    for _ in range(500):
        drawn = draw_assigned(image_BE, same_BB, 0.07)
        assert drawn.row_Q.tolist() == list(range(6))
        for row, left, right, label in zip(*map(Tensor.tolist, vars(drawn).values()), strict=True):
            counts[label] += 1
            own = [left, right][label] if label < 2 else row
            others = {0: [right], 1: [left], 2: [left, right]}[label]
            assert own == row and not any(same_BB[row, other] for other in others) and left != right
    assert torch.allclose(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.03)


def test_other_images_are_those_that_look_alike() -> None:
    torch.manual_seed(0)
    image_BE = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), dim=1)
    drawn = [draw_assigned(image_BE, torch.eye(4, dtype=torch.bool), 0.07) for _ in range(50)]
    others = [int(one.right_Q[0]) for one in drawn if one.label_Q[0] == 0]
    assert others and others.count(1) > 0.9 * len(others)


def test_a_caption_without_two_other_images_is_left_out() -> None:
    same_BB = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    drawn = draw_assigned(torch.eye(3), same_BB, 0.07)
    assert drawn.row_Q.tolist() == [2]
    assert draw_assigned(torch.eye(2), torch.eye(2, dtype=torch.bool), 0.07).row_Q.shape == (0,)
