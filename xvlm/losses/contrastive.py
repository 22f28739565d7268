"""Contrastive loss between concepts and texts, in-batch, both directions (X-VLM, equation 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xvlm import dist

Positives = Literal["diagonal", "image"]
"""What the published code counts as positives: each row's own text alone (pre-training), or all rows that
show the same image (retrieval and weak grounding, which pass the images' ids to both losses)."""


def same_thing(
    concept_key_N: Tensor, text_key_N: Tensor, concept_key_M: Tensor, text_key_M: Tensor
) -> Tensor:
    """(N, M) True where two rows share their concept or their cleaned text.

    Such a pair is true although it is not on the diagonal: it counts as a positive of the contrastive loss
    and is never drawn as a hard negative.  Keys are (N,) and (M,) int64 hashes.
    """
    return (concept_key_N[:, None] == concept_key_M) | (text_key_N[:, None] == text_key_M)


def contrastive_loss(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    concept_key_N: Tensor,
    text_key_N: Tensor,
    faithful: bool = False,
    published: Positives = "diagonal",
) -> Tensor:
    """Mean of the concept -> text and text -> concept cross-entropies over the global batch.

    Args:
        concept_NE, text_NE: (N, E) of unit length; row i of both belongs together.
        temperature: () what cosines are divided by.
        concept_key_N, text_key_N: (N,) see `same_thing`; several positives of a row share its label evenly.
        faithful: published behaviour: positives are the `published` ones, and each rank's gradient lacks what
            the other ranks' losses say of its rows.
    Returns:
        () this rank's part; the mean over ranks is the loss of the global batch.
    """
    counts = dist.sizes(concept_NE.shape[0], concept_NE)
    concept_ME = dist.gather(concept_NE, counts, everyones_gradient=not faithful)
    text_ME = dist.gather(text_NE, counts, everyones_gradient=not faithful)
    if faithful:
        # The published loss is over all rows on each rank, though only its own rows carry a gradient.
        key_M = dist.gather(concept_key_N, counts)
        positive_NM = published_positives(
            key_M, key_M, torch.arange(len(key_M), device=key_M.device), published
        )
        concept_NE, text_NE = concept_ME, text_ME
    else:
        positive_NM = same_thing(
            concept_key_N, text_key_N, dist.gather(concept_key_N, counts), dist.gather(text_key_N, counts)
        )
    label_NM = positive_NM.to(concept_NE.dtype)
    label_NM = label_NM / label_NM.sum(1, keepdim=True)
    to_text_N = soft_cross_entropy(similarity(concept_NE, text_ME, temperature), label_NM)
    to_concept_N = soft_cross_entropy(similarity(text_NE, concept_ME, temperature), label_NM)
    total = (to_text_N + to_concept_N).sum() / 2
    return total / sum(counts) if faithful else total * dist.world() / max(sum(counts), 1)


def published_positives(
    concept_key_N: Tensor, concept_key_M: Tensor, own_N: Tensor, published: Positives
) -> Tensor:
    """(N, M) bool: the positives of faithful mode.

    Args:
        concept_key_N, concept_key_M: (N,) and (M,) int64, in these tasks one for each image.
        own_N: (N,) int64 where each of the N rows stands among the M.
    """
    if published == "image":
        return concept_key_N[:, None] == concept_key_M
    return own_N[:, None] == torch.arange(len(concept_key_M), device=own_N.device)


def similarity(a_NE: Tensor, b_ME: Tensor, temperature: Tensor | float) -> Tensor:
    """(N, M) cosines over the temperature.

    Never in half precision, in which autocast would multiply: an error of 0.004 at temperature 0.01 is 0.4.
    """
    with torch.autocast(a_NE.device.type, enabled=False):
        return a_NE @ b_ME.T / temperature


def soft_cross_entropy(logits_NM: Tensor, label_NM: Tensor) -> Tensor:
    """(N, M) logits and label distributions -> (N,)."""
    return -(logits_NM.log_softmax(1) * label_NM).sum(1)
