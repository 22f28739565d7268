"""How well the phrases of a caption fit the patches of an image, each phrase its own patch.

Contrastive training on regions aligns phrases with the patches that show them.  One vector of an image cannot
hold all of them: how similar a phrase is to its best patch says what the vector of the whole image does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from xvlm import distributed
from xvlm.data.text.phrases import split_phrases
from xvlm.evaluation.common.queries import chunks
from xvlm.evaluation.common.ranks import gather_rows, rank_slice
from xvlm.inference.model import InferenceModel
from xvlm.losses.phrases import best_patch_similarity
from xvlm.models.text.attention import ConceptTokens

SAMPLED_IMAGES = 1024
"""Images that say of a phrase whether it fits any image, or few."""
PHRASES_AT_ONCE = 2048
TEXTS_AT_ONCE = 256


class PhraseScorer:
    """Scores N captions with images by their phrases.

    The score is the sum over the phrases of log p(image | phrase) / p(image): a softmax over images of the
    phrase's similarity to its best patch, over temperature, relative to a uniform choice.  So a phrase that
    fits any image says nothing.  Call `add_images` for the images, `finish` once, then `score`.

    Args:
        texts: the N captions, the same on all ranks.
    """

    @torch.no_grad()
    def __init__(self, predictor: InferenceModel, texts: Sequence[str]) -> None:
        model, device = predictor.model, predictor.device
        self.contrastive = model.contrastive
        split_N = [split_phrases(text) for text in texts]
        phrases = [one for one in sorted({one for own in split_N for one in own}) if predictor.is_known(one)]
        index = {phrase: u for u, phrase in enumerate(phrases)}
        phrases_N = [[phrase for phrase in own if phrase in index] for own in split_N]
        self.count_N = torch.tensor([len(own) for own in phrases_N], dtype=torch.int64, device=device)
        starts = [0, *accumulate(map(len, phrases_N))][:-1]
        self.start_N = torch.tensor(starts, dtype=torch.int64, device=device)
        flat = [index[phrase] for own in phrases_N for phrase in own]
        self.phrase_Z = torch.tensor(flat, dtype=torch.int64, device=device)
        parts = [self.contrastive.temperature.new_empty(0, model.config.embed_dim)]
        for some in chunks(phrases[rank_slice(len(phrases))], TEXTS_AT_ONCE):
            parts.append(model.contrastive.embed_texts(predictor.encode_texts(some).cls_ND))
        self.embedding_UE = gather_rows(torch.cat(parts))
        self.sampled: list[Tensor] = []
        self.normalizer_U = self.embedding_UE.new_zeros(len(phrases))

    def patches(self, concepts: ConceptTokens) -> Tensor:
        """Return the (S, P, E) embeddings of the patches of S whole images."""
        return self.contrastive.embed_concepts(concepts.patches_SPD)

    def add_images(self, concepts: ConceptTokens) -> bool:
        """Add S of this rank's images to those that judge phrases; return whether more are needed."""
        self.sampled.append(self.patches(concepts))
        limit = SAMPLED_IMAGES // distributed.world_size()
        return sum(len(patch_SPE) for patch_SPE in self.sampled) < limit

    @torch.no_grad()
    def finish(self) -> None:
        """Judge every phrase by the sampled images of all ranks, and forget these."""
        total = sum(distributed.gather_objects(sum(len(patch_SPE) for patch_SPE in self.sampled)))
        parts = [self.similarity(patch_SPE) for patch_SPE in self.sampled]
        own_IU = torch.cat([self.embedding_UE.new_empty(0, len(self.normalizer_U)), *parts])
        rank_RU = gather_rows(own_IU.logsumexp(0, keepdim=True))
        self.normalizer_U = rank_RU.logsumexp(0) - torch.tensor(float(total)).log().to(rank_RU)
        self.sampled = []

    @torch.no_grad()
    def score(self, concepts: ConceptTokens, image_R: Tensor, text_R: Tensor) -> Tensor:
        """Return the (R,) scores of caption `text_R[r]` with image `image_R[r]` among some images.

        A caption without a phrase that the model knows has the score 0 with all images.
        """
        patch_SPE = self.patches(concepts)
        text_N, row_R = text_R.unique(return_inverse=True)
        count_N = self.count_N[text_N]
        owner_Z = torch.arange(len(text_N), device=text_R.device).repeat_interleave(count_N)
        first_N = count_N.cumsum(0) - count_N
        position_Z = torch.arange(len(owner_Z), device=text_R.device) - first_N[owner_Z]
        phrase_Z = self.phrase_Z[self.start_N[text_N][owner_Z] + position_Z]
        used_U, column_Z = phrase_Z.unique(return_inverse=True)
        ratio_SU = self.similarity(patch_SPE, used_U) - self.normalizer_U[used_U]
        score_SN = ratio_SU.new_zeros(len(patch_SPE), len(text_N))
        score_SN.index_add_(1, owner_Z, ratio_SU[:, column_Z])
        return score_SN[image_R, row_R]

    def similarity(self, patch_SPE: Tensor, phrase_U: Tensor | None = None) -> Tensor:
        """Return the (S, U) similarities of phrases to their best patches in S images, over temperature."""
        embedding_UE = self.embedding_UE if phrase_U is None else self.embedding_UE[phrase_U]
        temperature = self.contrastive.temperature
        return torch.cat(
            [
                best_patch_similarity(patch_SPE, some_UE, temperature)
                for some_UE in embedding_UE.split(PHRASES_AT_ONCE)
            ],
            1,
        )
