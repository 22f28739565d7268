"""Contrastive loss of captions with images by their phrases, each with its best patch.

X-VLM aligns the texts of regions with the patches in their boxes.  The phrases of a caption have no boxes:
here each finds its own patch, as tokens do in FILIP (Yao et al., ICLR 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xvlm.losses.contrastive import all_pairs_loss

PHRASE_WEIGHT = 0.3
"""Scale of the scores in the loss: phrases of a caption overlap, so that their sum is too confident.  On
images that were not trained on, weights from 0.2 to 0.4 of an untrained score are best."""


def best_patch_similarity(patch_SPE: Tensor, phrase_UE: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the (S, U) similarities of U phrases to their best patches in S images, over temperature.

    Args:
        patch_SPE: (S, P, E) embeddings of unit length.
        phrase_UE: (U, E) embeddings of unit length.
    """
    with torch.autocast(patch_SPE.device.type, enabled=False):
        return (patch_SPE @ phrase_UE.T).amax(1) / temperature


def phrase_loss(
    patch_NPE: Tensor, phrase_QE: Tensor, caption_Q: Tensor, positive_NN: Tensor, temperature: Tensor
) -> Tensor:
    """Return the cross-entropy of finding each image's caption and each caption's image by phrases.

    The score of a caption is that of `PhraseScorer`, among the images of this rank's part of the batch.

    Args:
        patch_NPE: (N, P, E) embeddings of the patches of each caption's image.
        phrase_QE: (Q, E) embeddings of the phrases.
        caption_Q: (Q,) int64 caption of each phrase.
        positive_NN: (N, N) bool, True where image i matches caption j.
        temperature: () divisor of the cosine similarities; no gradient flows to it.
    Returns:
        () this rank's part of the global mean.
    """
    similarity_NQ = best_patch_similarity(patch_NPE, phrase_QE, temperature.detach())
    count = len(patch_NPE)
    ratio_NQ = similarity_NQ.log_softmax(0) + math.log(count)
    score_NN = ratio_NQ.new_zeros(count, count).index_add(1, caption_Q, ratio_NQ)
    return all_pairs_loss(PHRASE_WEIGHT * score_NN, positive_NN)
