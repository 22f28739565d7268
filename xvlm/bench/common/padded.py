"""A pre-training step as in the published code: padded texts, one call for each pass, a context for each row.

Model, weights and losses are those of `Pretrain.forward`, which the benchmarks and the tests compare with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.boxes import xyxy_to_cxcywh
from xvlm.common.errors import InputError
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import contrastive_loss, same_concept_or_text
from xvlm.losses.language import masked_language_loss
from xvlm.losses.matching import matching_loss
from xvlm.losses.negatives import sample_negatives
from xvlm.models.text.attention import (
    ConceptTokens,
    CrossAttention,
    SelfAttention,
    attend,
    merge_heads,
    split_heads,
    split_projections,
)
from xvlm.models.text.encoder import Layer
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.pretraining_batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain

PUBLISHED_LENGTH = 40


@dataclass(frozen=True)
class Padded:
    """Sequences of one length.

    Attributes:
        x_NLD: (N, L, D) states of text tokens, or context tokens.
        mask_NL: (N, L) bool, False at padding.
    """

    x_NLD: Tensor
    mask_NL: Tensor

    def select(self, row_R: Tensor) -> Padded:
        """Copy the sequences `row_R` (R,)."""
        return Padded(self.x_NLD.index_select(0, row_R), self.mask_NL.index_select(0, row_R))


def split_texts(texts: Texts, count: int) -> tuple[Texts, Texts]:
    """Split off the first `count` texts."""
    first_N, rest_N = texts.lengths_N[:count], texts.lengths_N[count:]
    start = int(first_N.sum())
    return Texts(texts.ids_T[:start], first_N, texts.longest), Texts(
        texts.ids_T[start:], rest_N, texts.longest
    )


def self_attention(attention: SelfAttention, texts: Padded) -> Tensor:
    """Attend within each text -> (N, L, D)."""
    q, k, v = split_projections(attention.qkv(texts.x_NLD), attention.heads, 3)
    dropout = attention.dropout if attention.training else 0.0
    return attention.out(merge_heads(attend(q, k, v, texts.mask_NL[:, None, None], dropout)))


def cross_attention(attention: CrossAttention, x_NLD: Tensor, context: Padded) -> Tensor:
    """Attend from each text (N, L, D) to its context -> (N, L, D)."""
    k, v = split_projections(attention.kv(context.x_NLD), attention.heads, 2)
    dropout = attention.dropout if attention.training else 0.0
    q = split_heads(attention.q(x_NLD), attention.heads)
    return attention.out(merge_heads(attend(q, k, v, context.mask_NL[:, None, None], dropout)))


def layer_forward(layer: Layer, texts: Padded, context: Padded | None = None) -> Padded:
    """Compute a layer, with cross-attention if there is a context."""
    x_NLD = layer.attention_norm(texts.x_NLD + layer.dropout(self_attention(layer.attention, texts)))
    if context is not None:
        x_NLD = layer.cross_norm(x_NLD + layer.dropout(cross_attention(layer.cross, x_NLD, context)))
    return Padded(layer.mlp_norm(x_NLD + layer.dropout(layer.mlp(x_NLD))), texts.mask_NL)


def encode(model: XVLM, texts: Texts, length: int) -> tuple[Padded, Tensor]:
    """Encode texts, padded to `length` or to the longest if that is longer; return w_cls (N, D) too."""
    mask_NL = torch.arange(max(length, texts.longest), device=texts.ids_T.device) < texts.lengths_N[:, None]
    ids_NL = texts.ids_T.new_zeros(mask_NL.shape).masked_scatter(mask_NL, texts.ids_T)
    embedding = model.text.embedding
    position_L = torch.arange(mask_NL.shape[1], device=mask_NL.device) + embedding.first_position
    embedded = embedding.token(ids_NL) + embedding.token_type.weight[0] + embedding.position(position_L)
    states = Padded(embedding.dropout(embedding.norm(embedded)), mask_NL)
    for layer in model.text.layers:
        states = layer_forward(cast(Layer, layer), states)
    if model.config.text.pooling == "first":
        return states, states.x_NLD[:, 0]
    share_NL1 = mask_NL[..., None] / mask_NL.sum(1)[:, None, None]
    return states, (states.x_NLD * share_NL1).sum(1)


def padded_context(concepts: ConceptTokens, concept_R: Tensor) -> Padded:
    """Copy the tokens of each row's concept `concept_R` (R,), the summary token first: (R, 1 + P, D)."""
    tokens_RPD = concepts.tokens_SPD.index_select(0, concepts.set_C[concept_R])
    mask_RP = concepts.mask_CP[concept_R]
    if not concepts.mean_summary:
        return Padded(tokens_RPD, mask_RP)
    share_RP = mask_RP.to(tokens_RPD.dtype) / mask_RP.sum(1, keepdim=True)
    mean_R1D = share_RP[:, None] @ tokens_RPD
    true_R1 = mask_RP.new_ones(len(mask_RP), 1)
    return Padded(torch.cat((mean_R1D, tokens_RPD), 1), torch.cat((true_R1, mask_RP), 1))


def fuse(model: XVLM, texts: Padded, context: Padded) -> Tensor:
    """Fuse each text with its context -> (R, L, D)."""
    for layer in model.fusion.layers:
        texts = layer_forward(cast(Layer, layer), texts, context)
    return texts.x_NLD


def padded_losses(task: Pretrain, batch: PretrainBatch, length: int = PUBLISHED_LENGTH) -> dict[str, Tensor]:
    """Compute the scalar losses of `task(batch)`, by name, with one cross-modal call for each pass.

    They are equal in evaluation mode with the same seed, which samples the same negatives.

    Raises InputError if negatives are sampled from all ranks, or with a loss of phrases.
    """
    model, w = task.model, task.weights
    if w.global_negatives:
        raise InputError("padded texts have local negatives only, but losses.global_negatives is set")
    if w.phrases:
        raise InputError(f"losses.phrases is {w.phrases}; padded texts have no loss of phrases")
    rows = len(batch.concepts)
    streams = {"": slice(0, batch.pairs), "region_": slice(batch.pairs, rows)}
    streams = {name: stream for name, stream in streams.items() if stream.start < stream.stop}
    concepts, cls_CD = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
    clean, masked = split_texts(batch.texts, rows)
    texts, text_cls_ND = encode(model, clean, length)
    concept_NE = model.contrastive.embed_concepts(cls_CD[:rows])
    text_NE = model.contrastive.embed_texts(text_cls_ND)
    temperature = model.contrastive.temperature

    def fuse_rows(text_R: Tensor, concept_R: Tensor) -> Tensor:
        return fuse(model, texts.select(text_R), padded_context(concepts, concept_R))

    losses: dict[str, Tensor] = {}
    for name, stream in streams.items():
        keys = batch.concept_key_N[stream], batch.text_key_N[stream]
        if w.itc:
            losses[name + "itc"] = contrastive_loss(
                concept_NE[stream], text_NE[stream], temperature, *keys, task.faithful
            )
        if w.itm:
            row_F = batch.fused_F[(batch.fused_F >= stream.start) & (batch.fused_F < stream.stop)]
            positive_FN = same_concept_or_text(batch.concept_key_N[row_F], batch.text_key_N[row_F], *keys)
            negatives = sample_negatives(
                concept_NE[stream].detach(),
                text_NE[stream].detach(),
                temperature,
                positive_FN,
                row_F - stream.start,
                w.uniform_negative_ratio,
            )
            row_Q = stream.start + negatives.row_Q
            text_R = torch.cat((row_Q, stream.start + negatives.text_Q))
            concept_R = torch.cat((stream.start + negatives.concept_Q, row_Q))
            true_RLD, false_RLD = fuse_rows(row_F, row_F), fuse_rows(text_R, concept_R)
            logits_R2 = model.match(torch.cat((true_RLD[:, 0], false_RLD[:, 0])))
            is_match_R = torch.arange(len(logits_R2), device=logits_R2.device) < len(row_F)
            losses[name + "itm"] = matching_loss(logits_R2, is_match_R)
    if w.mlm:
        x_FLD = fuse(model, encode(model, masked, length)[0], padded_context(concepts, batch.fused_F))
        row_M = batch.fused_F[batch.masked_row_M]
        index_M = batch.masked_row_M * x_FLD.shape[1] + batch.masked_position_M
        for name, stream in streams.items():
            in_stream_M = (row_M >= stream.start) & (row_M < stream.stop)
            x_MD = x_FLD.flatten(0, 1).index_select(0, index_M[in_stream_M])
            logits_MV = model.mlm(x_MD, model.text.embedding.token.weight)
            losses[name + "mlm"] = masked_language_loss(logits_MV, batch.masked_target_M[in_stream_M])
    if (w.bbox or w.giou) and "region_" in streams:
        boxed_N = batch.concepts.boxed_rows()
        image_R = rows + batch.concepts.image_N[boxed_N]
        losses["bbox"], losses["giou"] = box_losses(
            model.predict_box(fuse_rows(boxed_N, image_R)[:, 0], concepts, image_R),
            xyxy_to_cxcywh(batch.concepts.box_xyxy_N4[boxed_N]),
            task.faithful,
        )
    return losses
