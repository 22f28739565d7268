"""Hard negatives, sampled in proportion to the contrastive similarity (X-VLM, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.losses.contrastive import similarity


@dataclass(frozen=True)
class Negatives:
    """One negative concept and one negative text for each of Q rows.

    Attributes:
        row_Q: (Q,) rows that have a negative; a row whose candidates all match it has none.
        concept_Q: (Q,) row of the negative concept for text `row_Q[i]`.
        text_Q: (Q,) row of the negative text for concept `row_Q[i]`.
    """

    row_Q: Tensor
    concept_Q: Tensor
    text_Q: Tensor


@torch.no_grad()
def sample_negatives(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    positive_FN: Tensor,
    row_F: Tensor,
    uniform_ratio: float = 0.0,
    all_have_negatives: bool = False,
) -> Negatives:
    """Sample one negative concept and one negative text for each row that takes part in matching.

    Args:
        concept_NE, text_NE: (N, E) candidates of unit length.
        temperature: () temperature of the contrastive loss.
        positive_FN: (F, N) True where candidate j matches row i, see `same_concept_or_text`; never sampled.
        row_F: (F,) int64 rows that need negatives.
        uniform_ratio: weight of the uniform distribution in the mixture that negatives are sampled from.
        all_have_negatives: whether no row matches all candidates; looking for one waits for the device.
    """
    row_Q, allowed_QN = row_F, ~positive_FN
    if not all_have_negatives:
        has_negative_F = allowed_QN.any(1)
        row_Q, allowed_QN = row_F[has_negative_F], allowed_QN[has_negative_F]
    if row_Q.shape[0] == 0:
        return Negatives(row_Q, row_Q, row_Q)
    concept_Q = _sample_one(similarity(text_NE[row_Q], concept_NE, temperature), allowed_QN, uniform_ratio)
    text_Q = _sample_one(similarity(concept_NE[row_Q], text_NE, temperature), allowed_QN, uniform_ratio)
    return Negatives(row_Q, concept_Q, text_Q)


def _sample_one(similarity_QN: Tensor, allowed_QN: Tensor, uniform_ratio: float) -> Tensor:
    """Return the (Q,) index of one allowed candidate for each row."""
    hard_QN = _hard_probabilities(similarity_QN, allowed_QN)
    uniform_QN = allowed_QN / allowed_QN.sum(1, keepdim=True)
    weight_QN = torch.lerp(hard_QN, uniform_QN.to(hard_QN.dtype), uniform_ratio)
    # This is `torch.multinomial`, without its checks, which wait for the device.
    return (weight_QN / torch.empty_like(weight_QN).exponential_()).argmax(1)


def _hard_probabilities(similarity_QN: Tensor, allowed_QN: Tensor) -> Tensor:
    """Return (Q, N) probabilities over the allowed candidates, with a floor of 1e-5 (published)."""
    # Sampling from NaN would raise; `nan_to_num` leaves it to the loss to report a diverged model.
    weight_QN = (similarity_QN.softmax(1).nan_to_num() + 1e-5) * allowed_QN
    return weight_QN / weight_QN.sum(1, keepdim=True)


@dataclass(frozen=True)
class ImageAssignment:
    """Q captions, each with two images of which at most one is its own: a three-way classification.

    Attributes:
        row_Q: (Q,) captions; those with fewer than two negative images are left out.
        left_Q, right_Q: (Q,) images.
        label_Q: (Q,) 0 if the left image is the caption's own, 1 if the right one is, 2 if neither is.
    """

    row_Q: Tensor
    left_Q: Tensor
    right_Q: Tensor
    label_Q: Tensor


@torch.no_grad()
def sample_image_assignment(image_BE: Tensor, positive_BB: Tensor, temperature: float) -> ImageAssignment:
    """Sample a label for each caption uniformly, and its negative images by similarity to its own image.

    Args:
        image_BE: (B, E) of unit length; image b belongs to caption b.
        positive_BB: (B, B) True where image j matches caption i; such an image is no negative.
        temperature: divisor of the cosine similarities.
    """
    row_Q = ((~positive_BB).sum(1) >= 2).nonzero()[:, 0]
    if row_Q.shape[0] == 0:
        return ImageAssignment(row_Q, row_Q, row_Q, row_Q)
    similarity_QB = similarity(image_BE[row_Q], image_BE, temperature)
    negative_Q2 = torch.multinomial(_hard_probabilities(similarity_QB, ~positive_BB[row_Q]), 2)
    label_Q = torch.randint(3, row_Q.shape, device=row_Q.device)
    left_Q = torch.where(label_Q == 0, row_Q, negative_Q2[:, 0])
    right_Q = torch.where(label_Q == 2, negative_Q2[:, 1], negative_Q2[:, 0])
    right_Q = torch.where(label_Q == 1, row_Q, right_Q)
    return ImageAssignment(row_Q, left_Q, right_Q, label_Q)
