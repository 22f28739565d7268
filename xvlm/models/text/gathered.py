"""Texts and concepts of all ranks, when matching negatives are sampled from the global batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xvlm.distributed import RankLayout, count_per_rank
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.text.packing import Packing


@dataclass(frozen=True)
class GatheredFeatures:
    """Encoded texts and concepts of all ranks, or of this rank alone; local ones first.

    Attributes:
        text_layout, concept_layout: number of texts and of concepts of each rank.
    """

    texts: TextFeatures
    concepts: ConceptTokens
    text_layout: RankLayout
    concept_layout: RankLayout


def gather_features(
    texts: TextFeatures, concepts: ConceptTokens, local_only: bool = False
) -> GatheredFeatures:
    """Gather the features of all ranks, with gradient; every rank must call this.

    Args:
        texts: packed states (T, D) of this rank's texts.
        concepts: token sets (S, P, D) of this rank's concepts.
        local_only: keep this rank's features, as on one process.
    """
    lengths_N, tokens_SPD = texts.packing.lengths_S, concepts.tokens_SPD
    text_layout = RankLayout.for_count(lengths_N.shape[0], lengths_N, local_only)
    concept_layout = RankLayout.for_count(concepts.set_C.shape[0], lengths_N, local_only)
    if len(text_layout.counts) == 1:
        return GatheredFeatures(texts, concepts, text_layout, concept_layout)
    token_layout = RankLayout.for_count(texts.states_TD.shape[0], lengths_N)
    set_layout = RankLayout.for_count(tokens_SPD.shape[0], lengths_N)
    assert texts.packing.longest is not None  # the lengths of texts are known
    longest = max(count_per_rank(texts.packing.longest, lengths_N))
    all_texts = TextFeatures(
        token_layout.gather(texts.states_TD),
        Packing.from_lengths(text_layout.gather(lengths_N), sum(token_layout.counts), longest),
        text_layout.gather(texts.cls_ND),
        texts.token_VD,
    )
    all_concepts = replace(
        concepts,
        tokens_SPD=set_layout.gather(tokens_SPD),
        set_C=set_layout.local_to_global(concepts.set_C, concept_layout),
        mask_CP=concept_layout.gather(concepts.mask_CP),
    )
    return GatheredFeatures(all_texts, all_concepts, text_layout, concept_layout)
