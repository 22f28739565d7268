"""Image-text contrastive loss over the global batch, in both directions (X-VLM, equation 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xvlm import distributed

Positives = Literal["diagonal", "image"]
"""Positives of the published code: each row's own text only ("diagonal": pre-training), or all rows of the
same image ("image": retrieval and weak grounding)."""


def same_concept_or_text(
    concept_key_N: Tensor, text_key_N: Tensor, concept_key_G: Tensor, text_key_G: Tensor
) -> Tensor:
    """Return an (N, G) mask of the rows that share their concept or their cleaned text.

    Such a pair is true although it is off the diagonal: it is a positive of the contrastive loss and is never
    sampled as a hard negative.  Keys are (N,) and (G,) int64 hashes.
    """
    return (concept_key_N[:, None] == concept_key_G) | (text_key_N[:, None] == text_key_G)


def contrastive_loss(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    concept_key_N: Tensor,
    text_key_N: Tensor,
    faithful: bool = False,
    published: Positives = "diagonal",
) -> Tensor:
    """Return the mean of the concept-to-text and text-to-concept cross-entropies over the global batch.

    Args:
        concept_NE, text_NE: (N, E) of unit length; row i of both is a true pair.
        temperature: () divisor of the cosine similarities.
        concept_key_N, text_key_N: (N,) hashes, see `same_concept_or_text`; the label of a row is spread
            evenly over its positives.
        faithful: published behaviour: the positives are those of `published`, and no gradient flows to a
            rank's embeddings from the losses of other ranks.
        published: positives in faithful mode.
    Returns:
        () this rank's part; the mean over ranks is the loss of the global batch.
    """
    counts = distributed.count_per_rank(concept_NE.shape[0], concept_NE)
    concept_GE = distributed.all_gather(concept_NE, counts, full_gradient=not faithful)
    text_GE = distributed.all_gather(text_NE, counts, full_gradient=not faithful)
    if faithful:
        # The published code computes the loss of all rows on each rank; only local rows carry a gradient.
        key_G = distributed.all_gather(concept_key_N, counts)
        index_G = torch.arange(len(key_G), device=key_G.device)
        positive_NG = published_positives(key_G, key_G, index_G, published)
        concept_NE, text_NE = concept_GE, text_GE
    else:
        positive_NG = same_concept_or_text(
            concept_key_N,
            text_key_N,
            distributed.all_gather(concept_key_N, counts),
            distributed.all_gather(text_key_N, counts),
        )
    label_NG = positive_NG.to(concept_NE.dtype)
    label_NG = label_NG / label_NG.sum(1, keepdim=True)
    to_text_N = soft_cross_entropy(similarity(concept_NE, text_GE, temperature), label_NG)
    to_concept_N = soft_cross_entropy(similarity(text_NE, concept_GE, temperature), label_NG)
    total = (to_text_N + to_concept_N).sum() / 2
    return total / sum(counts) if faithful else total * distributed.world_size() / max(sum(counts), 1)


def published_positives(
    concept_key_N: Tensor, concept_key_G: Tensor, index_N: Tensor, published: Positives
) -> Tensor:
    """Return the (N, G) mask of positives in faithful mode.

    Args:
        concept_key_N, concept_key_G: (N,) and (G,) int64; in the published tasks one key for each image.
        index_N: (N,) int64 index of each of the N rows among the G.
        published: see `Positives`.
    """
    if published == "image":
        return concept_key_N[:, None] == concept_key_G
    return index_N[:, None] == torch.arange(len(concept_key_G), device=index_N.device)


def similarity(a_NE: Tensor, b_GE: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the (N, G) cosine similarities of unit vectors, divided by the temperature.

    Autocast is disabled: a bfloat16 rounding error of 0.004 is an error of 0.4 at temperature 0.01.
    """
    with torch.autocast(a_NE.device.type, enabled=False):
        return a_NE @ b_GE.T / temperature


def soft_cross_entropy(logits_NG: Tensor, label_NG: Tensor) -> Tensor:
    """Return the (N,) cross-entropies of (N, G) logits against label distributions."""
    return -(logits_NG.log_softmax(1) * label_NG).sum(1)


def all_pairs_loss(score_BB: Tensor, positive_BB: Tensor) -> Tensor:
    """Return the cross-entropy of finding each image's text and each text's image by any score.

    This is the contrastive loss with another similarity, among the pairs of this rank alone.

    Args:
        score_BB: (B, B) scores of image i with text j, such as log-odds of a match.
        positive_BB: (B, B) bool, True for the pairs that match; several share the label.
    Returns:
        () this rank's part of the global mean.
    """
    label_BB = positive_BB.to(score_BB.dtype)
    to_text_B = soft_cross_entropy(score_BB, label_BB / label_BB.sum(1, keepdim=True))
    to_image_B = soft_cross_entropy(score_BB.T, (label_BB / label_BB.sum(0)).T)
    return distributed.global_mean((to_text_B + to_image_B).sum() / 2, score_BB.shape[0])
