"""A step as the published code takes it: padded texts, a call for each pass, keys and values for each row.

Same model, same weights, same losses as `Pretrain.forward`: what the fast path is measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.boxes import xyxy_to_cxcywh
from xvlm.errors import InputError
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import contrastive_loss, same_thing
from xvlm.losses.matching import draw_negatives, matching_loss
from xvlm.losses.mlm import masked_language_loss
from xvlm.model.attention import ConceptTokens, attend, merge_heads, split_heads
from xvlm.model.text import Layer
from xvlm.model.xvlm import XVLM
from xvlm.tasks._batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain

PUBLISHED_LENGTH = 40


@dataclass(frozen=True)
class Padded:
    """Texts of one length.

    Attributes:
        x_NLD: (N, L, D) ids or states.
        mask_NL: (N, L) bool, True where a token stands.
    """

    x_NLD: Tensor
    mask_NL: Tensor

    def rows(self, row_R: Tensor) -> Padded:
        """Texts `row_R` (R,), copied."""
        return Padded(self.x_NLD.index_select(0, row_R), self.mask_NL.index_select(0, row_R))


def split(texts: Texts, count: int) -> tuple[Texts, Texts]:
    """The first `count` texts, and the others."""
    first, rest = texts.lengths_N[:count], texts.lengths_N[count:]
    at = int(first.sum())
    return Texts(texts.ids_T[:at], first, texts.longest), Texts(texts.ids_T[at:], rest, texts.longest)


def padded(texts: Texts, length: int) -> Padded:
    """(N, length) ids, or as long as the longest where that is longer."""
    length = max(length, texts.longest)
    mask_NL = torch.arange(length, device=texts.ids_T.device) < texts.lengths_N[:, None]
    ids_NL = texts.ids_T.new_zeros(mask_NL.shape).masked_scatter(mask_NL, texts.ids_T)
    return Padded(ids_NL, mask_NL)


def self_attention(layer: Layer, x_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """(N, L, D), (N, L) -> (N, L, D)."""
    heads = layer.attention.heads
    q, k, v = (split_heads(part, heads) for part in layer.attention.qkv(x_NLD).chunk(3, dim=-1))
    dropout = layer.attention.dropout if layer.training else 0.0
    return layer.attention.out(merge_heads(attend(q, k, v, mask_NL[:, None, None], dropout)))


def cross_attention(layer: Layer, x_NLD: Tensor, seen_NPD: Tensor, mask_NP: Tensor) -> Tensor:
    """(N, L, D), each row's own (N, P, D_vision) tokens and which of them count (N, P) -> (N, L, D)."""
    cross = layer.cross
    k, v = (split_heads(part, cross.heads) for part in cross.kv(seen_NPD).chunk(2, dim=-1))
    dropout = cross.dropout if layer.training else 0.0
    mixed = attend(split_heads(cross.q(x_NLD), cross.heads), k, v, mask_NP[:, None, None], dropout)
    return cross.out(merge_heads(mixed))


def through(
    layer: Layer, x_NLD: Tensor, mask_NL: Tensor, seen: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(N, L, D) through one layer; `seen`: tokens (N, P, D_vision) and which of them count (N, P)."""
    x_NLD = layer.attention_norm(x_NLD + layer.dropout(self_attention(layer, x_NLD, mask_NL)))
    if seen is not None:
        x_NLD = layer.cross_norm(x_NLD + layer.dropout(cross_attention(layer, x_NLD, *seen)))
    return layer.mlp_norm(x_NLD + layer.dropout(layer.mlp(x_NLD)))


def encode(model: XVLM, texts: Padded) -> tuple[Padded, Tensor]:
    """Ids -> states, and w_cls (N, D)."""
    embedding = model.text.embedding
    place_L = torch.arange(texts.mask_NL.shape[1], device=texts.mask_NL.device) + embedding.first_position
    embedded = embedding.token(texts.x_NLD) + embedding.token_type.weight[0] + embedding.position(place_L)
    x_NLD = embedding.dropout(embedding.norm(embedded))
    for layer in model.text.layers:
        x_NLD = through(cast(Layer, layer), x_NLD, texts.mask_NL)
    states = Padded(x_NLD, texts.mask_NL)
    if model.config.text.pooling == "first":
        return states, x_NLD[:, 0]
    share_NL1 = texts.mask_NL[..., None] / texts.mask_NL.sum(1)[:, None, None]
    return states, (x_NLD * share_NL1).sum(1)


def seen_by(concepts: ConceptTokens, concept_R: Tensor) -> tuple[Tensor, Tensor]:
    """(R, 1 + P, D) tokens of each row's concept, summary first, and which of them count (R, 1 + P)."""
    tokens_RPD = concepts.tokens_SPD.index_select(0, concepts.set_C[concept_R])
    mask_RP = concepts.mask_CP[concept_R]
    if not concepts.mean_summary:
        return tokens_RPD, mask_RP
    share_RP = mask_RP.to(tokens_RPD.dtype) / mask_RP.sum(1, keepdim=True)
    mean_R1D = share_RP[:, None] @ tokens_RPD
    first_R1 = mask_RP.new_ones(len(mask_RP), 1)
    return torch.cat((mean_R1D, tokens_RPD), 1), torch.cat((first_R1, mask_RP), 1)


def fuse(model: XVLM, texts: Padded, concepts: ConceptTokens, concept_R: Tensor) -> Tensor:
    """Row r of `texts` with concept `concept_R[r]`: (R, L, D)."""
    seen, x_RLD = seen_by(concepts, concept_R), texts.x_NLD
    for layer in model.fusion.layers:
        x_RLD = through(cast(Layer, layer), x_RLD, texts.mask_NL, seen)
    return x_RLD


def padded_losses(task: Pretrain, batch: PretrainBatch, length: int = PUBLISHED_LENGTH) -> dict[str, Tensor]:
    """The losses () of `task(batch)`, by name, one pass at a time.

    In evaluation mode, with the same seed, they are equal: the same negatives are drawn.

    Raises InputError where negatives are to come from other ranks.
    """
    model, w = task.model, task.weights
    if w.global_negatives:
        raise InputError("the padded path draws negatives from its own rows; losses.global_negatives is set")
    rows = len(batch.concepts)
    parts = {"": slice(0, batch.pairs), "region_": slice(batch.pairs, rows)}
    parts = {name: part for name, part in parts.items() if part.start < part.stop}
    concepts, cls_CD = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
    clean, hidden = split(batch.texts, rows)
    texts, summary_ND = encode(model, padded(clean, length))
    concept_NE = model.contrastive.embed_concepts(cls_CD[:rows])
    text_NE = model.contrastive.embed_texts(summary_ND)
    temperature = model.contrastive.temperature

    losses: dict[str, Tensor] = {}
    for name, part in parts.items():
        keys = batch.concept_key_N[part], batch.text_key_N[part]
        if w.itc:
            losses[name + "itc"] = contrastive_loss(
                concept_NE[part], text_NE[part], temperature, *keys, task.faithful
            )
        if w.itm:
            asked_F = batch.fused_F[(batch.fused_F >= part.start) & (batch.fused_F < part.stop)]
            same_FN = same_thing(batch.concept_key_N[asked_F], batch.text_key_N[asked_F], *keys)
            own = concept_NE[part].detach(), text_NE[part].detach()
            drawn = draw_negatives(*own, temperature, same_FN, asked_F - part.start, w.easy_negatives)
            row_F = part.start + drawn.row_N
            text_R = torch.cat((row_F, part.start + drawn.text_N))
            concept_R = torch.cat((part.start + drawn.concept_N, row_F))
            positive_RLD = fuse(model, texts.rows(asked_F), concepts, asked_F)
            negative_RLD = fuse(model, texts.rows(text_R), concepts, concept_R)
            logits = model.match(torch.cat((positive_RLD[:, 0], negative_RLD[:, 0])))
            is_match = torch.arange(len(logits), device=logits.device) < len(asked_F)
            losses[name + "itm"] = matching_loss(logits, is_match)
    if w.mlm:
        masked, _ = encode(model, padded(hidden, length))
        row_M, place_M = batch.masked_row_M, batch.masked_place_M
        x_FLD = fuse(model, masked, concepts, batch.fused_F)
        for name, part in parts.items():
            at_M = batch.fused_F[row_M]
            chosen_M = (at_M >= part.start) & (at_M < part.stop)
            flat_M = (row_M * x_FLD.shape[1] + place_M)[chosen_M]
            logits_MV = model.masked(
                x_FLD.flatten(0, 1).index_select(0, flat_M), model.text.embedding.token.weight
            )
            losses[name + "mlm"] = masked_language_loss(logits_MV, batch.masked_target_M[chosen_M])
    if (w.bbox or w.giou) and "region_" in parts:
        boxed_N = batch.concepts.has_box_N.nonzero()[:, 0]
        whole_R = rows + batch.concepts.image_N[boxed_N]
        x_RLD = fuse(model, texts.rows(boxed_N), concepts, whole_R)
        losses["bbox"], losses["giou"] = box_losses(
            model.predict_box(x_RLD[:, 0], concepts, whole_R),
            xyxy_to_cxcywh(batch.concepts.box_xyxy_N4[boxed_N]),
            task.faithful,
        )
    return losses
