"""Texts and concepts of all ranks, where matching negatives are drawn from the global batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xvlm.dist import Ring, sizes
from xvlm.model.attention import ConceptTokens
from xvlm.model.packing import Packing
from xvlm.model.text import TextFeatures


@dataclass(frozen=True)
class Everyone:
    """What the cross-modal encoder may be given on this rank; the rank's own come first.

    Attributes:
        texts, concepts: of all ranks, or of this one alone.
        text_ring, concept_ring: whose they are.
    """

    texts: TextFeatures
    concepts: ConceptTokens
    text_ring: Ring
    concept_ring: Ring


def everyones(texts: TextFeatures, concepts: ConceptTokens, alone: bool = False) -> Everyone:
    """N texts (T, D) and C concepts in S sets (S, P, D) of this rank -> those of all ranks, differentiable.

    Every rank must call this.  With `alone`, and on one process, they stay as they are.
    """
    lengths_N, tokens_SPD = texts.packing.lengths_S, concepts.tokens_SPD
    text_ring = Ring.of(lengths_N.shape[0], lengths_N, alone)
    concept_ring = Ring.of(concepts.set_C.shape[0], lengths_N, alone)
    if len(text_ring.counts) == 1:
        return Everyone(texts, concepts, text_ring, concept_ring)
    token_ring = Ring.of(texts.states_TD.shape[0], lengths_N)
    set_ring = Ring.of(tokens_SPD.shape[0], lengths_N)
    longest = sizes(texts.packing.longest, lengths_N)
    packing = Packing.of(text_ring.gather(lengths_N), sum(token_ring.counts), max(longest))
    return Everyone(
        TextFeatures(
            token_ring.gather(texts.states_TD),
            packing,
            text_ring.gather(texts.summary_ND),
            texts.token_VD,
        ),
        replace(
            concepts,
            tokens_SPD=set_ring.gather(tokens_SPD),
            set_C=set_ring.places(concepts.set_C, concept_ring),
            mask_CP=concept_ring.gather(concepts.mask_CP),
        ),
        text_ring,
        concept_ring,
    )
