"""Matching loss: does this text belong to this concept?  With hard negatives (X-VLM, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import dist
from xvlm.losses.contrastive import similarity


@dataclass(frozen=True)
class Negatives:
    """A hard negative concept for each text and a hard negative text for each concept.

    Attributes:
        row_N: (N,) rows for which there is any; a row whose whole batch is the same thing has none.
        concept_N: (N,) for text `row_N[i]`, the row of the concept drawn.
        text_N: (N,) for concept `row_N[i]`, the row of the text drawn.
    """

    row_N: Tensor
    concept_N: Tensor
    text_N: Tensor


@torch.no_grad()
def draw_negatives(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    same_QN: Tensor,
    asked_Q: Tensor,
    easy: float = 0.0,
) -> Negatives:
    """One negative each way for the rows asked for, drawn in proportion to the contrastive similarity.

    Args:
        concept_NE, text_NE: (N, E) of unit length.
        same_QN: (Q, N) True where an asked row and row j are the same thing (`same_thing`): never drawn.
        asked_Q: (Q,) int64 the rows that need negatives; any of the N rows may be drawn for them.
        easy: share of negatives that are drawn from all alike instead.
    """
    has_any_Q = ~same_QN.all(1)
    row_R, allowed_RN = asked_Q[has_any_Q], ~same_QN[has_any_Q]
    if row_R.shape[0] == 0:
        return Negatives(row_R, row_R, row_R)
    of_text = _drawn(similarity(text_NE[row_R], concept_NE, temperature), allowed_RN, easy)
    of_concept = _drawn(similarity(concept_NE[row_R], text_NE, temperature), allowed_RN, easy)
    return Negatives(row_R, of_text, of_concept)


def _drawn(similarity_RN: Tensor, allowed_RN: Tensor, easy: float) -> Tensor:
    """(R, N) -> (R,): one of those allowed."""
    hard_RN = _chances(similarity_RN, allowed_RN)
    alike_RN = allowed_RN / allowed_RN.sum(1, keepdim=True)
    return torch.multinomial(torch.lerp(hard_RN, alike_RN.to(hard_RN.dtype), easy), 1)[:, 0]


def _chances(similarity_RN: Tensor, allowed_RN: Tensor) -> Tensor:
    """(R, N) chances of being drawn, of those allowed; 1e-5 lets any of them be drawn (published)."""
    # Where the model has gone to NaN, let the loss say so: a draw from NaN would only fail.
    hard_RN = (similarity_RN.softmax(1).nan_to_num() + 1e-5) * allowed_RN
    return hard_RN / hard_RN.sum(1, keepdim=True)


@dataclass(frozen=True)
class Assigned:
    """Pairs of images for captions, of which one or none is the caption's own.

    Attributes:
        row_Q: (Q,) the captions for which there are two other images.
        left_Q, right_Q: (Q,) images.
        label_Q: (Q,) 0: the left one is its own, 1: the right one, 2: neither.
    """

    row_Q: Tensor
    left_Q: Tensor
    right_Q: Tensor
    label_Q: Tensor


@torch.no_grad()
def draw_assigned(image_BE: Tensor, same_BB: Tensor, temperature: float) -> Assigned:
    """Each of the three cases as often; other images in proportion to how like the own one they are.

    Args:
        image_BE: (B, E) of unit length, image b that of caption b.
        same_BB: (B, B) True where image j is as right for caption i as its own: never drawn.
    """
    row_Q = ((~same_BB).sum(1) >= 2).nonzero()[:, 0]
    if row_Q.shape[0] == 0:
        return Assigned(row_Q, row_Q, row_Q, row_Q)
    similarity_QB = similarity(image_BE[row_Q], image_BE, temperature)
    other_Q2 = torch.multinomial(_chances(similarity_QB, ~same_BB[row_Q]), 2)
    label_Q = torch.randint(3, row_Q.shape, device=row_Q.device)
    left_Q = torch.where(label_Q == 0, row_Q, other_Q2[:, 0])
    right_Q = torch.where(label_Q == 1, row_Q, torch.where(label_Q == 2, other_Q2[:, 1], other_Q2[:, 0]))
    return Assigned(row_Q, left_Q, right_Q, label_Q)


def matching_loss(logits_R2: Tensor, is_match_R: Tensor) -> Tensor:
    """Two-way cross-entropy over N positives and 2N negatives of the global batch.

    Args:
        logits_R2: (R, 2) no match, match.
        is_match_R: (R,) bool.
    Returns:
        () this rank's part of the global mean.
    """
    total = F.cross_entropy(logits_R2, is_match_R.long(), reduction="sum")
    return dist.global_mean(total, logits_R2.shape[0])
