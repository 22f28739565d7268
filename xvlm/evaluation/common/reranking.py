"""Scores of retrieval candidates for reranking; each pair of an image and a text is scored once."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from xvlm import distributed
from xvlm.common.progress import progress_bar
from xvlm.evaluation.common.feature_cache import ImageFeatureCache, TextFeatureCache, empty_rows
from xvlm.evaluation.common.phrase_scores import PhraseScorer
from xvlm.evaluation.common.ranks import gather_rows
from xvlm.inference.grounding import match_logits
from xvlm.models.text.attention import ConceptTokens

PAIRS_AT_ONCE = 512


def match_candidates(
    images: ImageFeatureCache,
    texts: TextFeatureCache,
    text_Ik: Tensor,
    image_Nk: Tensor,
    published: bool = False,
    phrases: PhraseScorer | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scores (C, I, k) of each image's candidates and (C, N, k) of each text's candidates.

    The C scores are that of matching and, with `phrases`, that of the captions' phrases.  A pair that is a
    candidate in both directions is scored once, by the rank that encoded the image.

    Args:
        images: this rank's images.
        text_Ik, image_Nk: (I, k) and (N, k) indices of the candidates.
        published: see `match_logits`.
        phrases: scorer of the captions' phrases, finished.
    """
    num_texts = image_Nk.shape[0]
    image_I1 = torch.arange(text_Ik.shape[0], device=text_Ik.device)[:, None]
    text_N1 = torch.arange(num_texts, device=text_Ik.device)[:, None]
    codes = torch.cat(
        ((image_I1 * num_texts + text_Ik).flatten(), (image_Nk * num_texts + text_N1).flatten())
    )
    code_Z, position = codes.unique(return_inverse=True)  # in the order of images, and so of ranks
    lengths = [len(chunk) for chunk in images.chunks]
    offset = sum(distributed.gather_objects(sum(lengths))[: distributed.rank()])
    starts = list(accumulate(lengths, initial=offset))
    ends = torch.searchsorted(code_Z, torch.tensor(starts, device=code_Z.device) * num_texts).tolist()
    title = f"reranking ({texts.description}, {images.description})"
    parts = [empty_rows(texts.model, 1 if phrases is None else 2)]
    for chunk, concepts in enumerate(progress_bar(images, title, len(lengths))):
        code_R = code_Z[ends[chunk] : ends[chunk + 1]]
        image_R, text_R = code_R // num_texts - starts[chunk], code_R % num_texts
        scores = [match_pairs(texts, concepts, image_R, text_R, published)]
        if phrases is not None:
            scores.append(phrases.score(concepts, image_R, text_R))
        parts.append(torch.stack(scores, 1))
    score_ZC = gather_rows(torch.cat(parts))
    i2t_RC, t2i_RC = score_ZC[position].split((text_Ik.numel(), image_Nk.numel()))
    return i2t_RC.T.reshape(-1, *text_Ik.shape), t2i_RC.T.reshape(-1, *image_Nk.shape)


def match_pairs(
    texts: TextFeatureCache,
    concepts: ConceptTokens,
    concept_R: Tensor,
    text_R: Tensor,
    published: bool = False,
) -> Tensor:
    """Return the (R,) matching scores of text `text_R[r]` with concept `concept_R[r]`; see `match_logits`.

    Pairs are scored text by text, so that only few texts need their features at a time.

    Args:
        concept_R, text_R: (R,) int64 indices.
    """
    keys_values = texts.model.fusion.keys_values(concepts)
    order_R = text_R.argsort(stable=True)
    parts = []
    for rows in order_R.split(PAIRS_AT_ONCE):
        text_U, row_R = text_R[rows].unique(return_inverse=True)
        parts.append(
            match_logits(texts.model, concepts, texts(text_U), concept_R[rows], row_R, keys_values, published)
        )
    logit_R = torch.cat(parts)
    return torch.empty_like(logit_R).index_copy_(0, order_R, logit_R)
