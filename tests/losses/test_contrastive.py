"""The contrastive loss against a plain loop; labels, symmetry, precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xvlm.losses.contrastive import contrastive_loss, same_concept_or_text

keys = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7)


def vectors(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)


def plain(
    concept: Tensor, text: Tensor, temperature: float, concept_key: list[int], text_key: list[int]
) -> float:
    rows, total = len(concept_key), 0.0
    for direction in ((concept, text), (text, concept)):
        for i in range(rows):
            scores = [float(direction[0][i] @ direction[1][j]) / temperature for j in range(rows)]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            same = [j for j in range(rows) if concept_key[i] == concept_key[j] or text_key[i] == text_key[j]]
            total += sum(log_sum - scores[j] for j in same) / len(same) / 2
    return total / rows


@given(keys, st.sampled_from([0.05, 0.5]))
def test_equals_a_plain_loop(pairs: list[tuple[int, int]], temperature: float) -> None:
    concept_key, text_key = [c for c, _ in pairs], [t for _, t in pairs]
    concept, text = vectors(len(pairs), 1), vectors(len(pairs), 2)
    exact = torch.tensor(temperature, dtype=torch.float64)
    loss = contrastive_loss(concept, text, exact, torch.tensor(concept_key), torch.tensor(text_key))
    assert loss.item() == pytest.approx(plain(concept, text, temperature, concept_key, text_key), rel=1e-9)


@given(keys, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[int, int]], random: object) -> None:
    concept, text, key = vectors(len(pairs), 1), vectors(len(pairs), 2), torch.tensor(pairs)
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    losses = [
        contrastive_loss(concept[o], text[o], torch.tensor(0.1), key[o, 0], key[o, 1])
        for o in (torch.arange(len(pairs)), torch.tensor(order))
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)


def test_faithful_positives_are_the_diagonal() -> None:
    concept, text, one = vectors(4, 1), vectors(4, 2), torch.tensor(0.1)
    same, distinct = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    published = contrastive_loss(concept, text, one, same, same, faithful=True)
    assert published.item() == pytest.approx(contrastive_loss(concept, text, one, distinct, distinct).item())
    logits = concept @ text.T / one
    cross_entropy = (F.cross_entropy(logits, distinct) + F.cross_entropy(logits.T, distinct)) / 2
    assert published.item() == pytest.approx(cross_entropy.item())


def test_faithful_positives_by_image() -> None:
    """Rows 1 and 2 share an image; rows 0 and 3 share a text, which the published code ignores."""
    concept, text = vectors(4, 1), vectors(4, 2)
    image, text_key = torch.tensor([5, 7, 7, 9]), torch.tensor([1, 2, 3, 1])
    label = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]).double()
    logits = concept @ text.T / 0.1
    expected = sum(-(side.log_softmax(1) * label).sum(1).mean() / 2 for side in (logits, logits.T))
    arguments = (concept, text, torch.tensor(0.1), image, text_key)
    by_image = contrastive_loss(*arguments, faithful=True, published="image")
    assert by_image.item() == pytest.approx(expected.item())
    diagonal = contrastive_loss(*arguments, faithful=True)
    assert diagonal.item() == pytest.approx(
        sum(F.cross_entropy(side, torch.arange(4)) / 2 for side in (logits, logits.T)).item()
    )
    assert abs(by_image - diagonal) > 0.005


def test_equal_vectors_of_one_concept_have_the_entropy_of_the_label() -> None:
    same = torch.zeros(3, dtype=torch.int64)
    one = vectors(1, 1).expand(3, -1)
    assert contrastive_loss(one, one, torch.tensor(0.07), same, same).item() == pytest.approx(math.log(3))


def test_rows_match_by_concept_or_by_text() -> None:
    mask = same_concept_or_text(
        torch.tensor([1, 2]), torch.tensor([7, 8]), torch.tensor([1, 5]), torch.tensor([9, 8])
    )
    assert mask.tolist() == [[True, False], [False, True]]


def test_autocast_does_not_round_the_similarities() -> None:
    """Neighbouring bfloat16 numbers are 0.98 and 0.984: at temperature 0.01 the logits differ by 0.4."""
    concept, text, key = vectors(6, 1).float(), vectors(6, 2).float(), torch.arange(6)
    arguments = (concept, text, torch.tensor(0.01), key, key)
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(*arguments)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(contrastive_loss(*arguments).item(), rel=1e-6)
