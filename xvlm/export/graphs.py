"""The parts of a model as modules over padded tensors, which `torch.export` can follow.

Training packs texts without padding, which depends on the data; here all texts of a call are padded to the
same length, and every size in the signatures but those of the model may differ from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from xvlm.batch import Images
from xvlm.models.generation.decoder import Decoder
from xvlm.models.text.attention import (
    SelfAttention,
    attend,
    attend_with_mean,
    merge_heads,
    split_heads,
    split_projections,
)
from xvlm.models.text.cross_encoder import PairEncoder
from xvlm.models.text.encoder import Layer
from xvlm.models.vision.grid import GridEncoder, sincos_position
from xvlm.models.xvlm import XVLM

EXAMPLE_LENGTH, EXAMPLE_ROWS, EXAMPLE_IMAGES = 5, 3, 2
"""Sizes of the examples that are followed; a size of 1 would become a constant of the graph."""


@dataclass(frozen=True)
class Graph:
    """A module with its inputs and outputs.

    Attributes:
        module: what is exported; its `outputs` are the names of its outputs.
        inputs: example of each input, by name.
        sizes: for each input the sizes that may differ, by dimension.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    sizes: Mapping[str, Mapping[int, Any]]


class Part(nn.Module):
    """A part of a model, with the names of its outputs."""

    def __init__(self, model: XVLM, *outputs: str) -> None:
        super().__init__()
        self.model, self.outputs = model, list(outputs)
        self.is_grid = isinstance(model.vision, GridEncoder)


class ImageGraph(Part):
    """Pixels to the tokens that texts attend to, and to the vector of the image."""

    def __init__(self, model: XVLM) -> None:
        super().__init__(model, "tokens")
        self.outputs += ["vector"] if "contrastive" in model.config.heads else []
        self.outputs += ["finer"] if model.vision.finer_width else []
        self.outputs += [] if self.is_grid else ["before_local"]
        pixels = torch.zeros(1, 3, *model.config.vision.image_hw, dtype=torch.uint8)
        self.grid_hw = model.encode_images(Images(pixels)).grid_hw

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) uint8 pixels -> tokens (B, P, D), a vector (B, E), and what regions and boxes need."""
        vision = self.model.vision
        features = self.model.encode_images(Images(pixels))
        tokens_BPD = features.tokens_BPD
        cls_BD = tokens_BPD[:, 0]
        if isinstance(vision, GridEncoder):
            cls_BD = tokens_BPD.mean(1)
            if vision.adds_position:
                tokens_BPD = tokens_BPD + sincos_position(features.grid_hw, vision.width)
        found: list[Tensor | None] = [tokens_BPD]
        if "vector" in self.outputs:
            found.append(self.model.contrastive.embed_concepts(cls_BD))
        found += [features.finer_BChw, features.before_local_BPD]
        return tuple(one for one in found if one is not None)


class RegionGraph(Part):
    """The last blocks of a ViT again, for regions."""

    def forward(self, before_local: Tensor, patches: Tensor) -> Tensor:
        """(N, 1 + P, D) tokens before these blocks, (N, P) bool patches of regions -> (N, 1 + P, D)."""
        vision: Any = self.model.vision
        x, blocks = before_local, vision.model.blocks
        seen_NP = F.pad(patches, (1, 0), value=True)
        mask = torch.where(seen_NP, 0.0, torch.finfo(x.dtype).min)[:, None, None, :]
        for block in blocks[len(blocks) - vision.config.local_depth :]:
            x = block(x, attn_mask=mask)
        return vision.model.norm(x)  # type: ignore[no-any-return]


class TextGraph(Part):
    """Token ids to states and, if that is an output, to the vector of the text."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """(N, L) int64 ids, (N, L) bool mask of tokens -> states (N, L, D), vectors (N, E)."""
        text = self.model.text
        x_NLD = text.embedding.embed_padded(ids, 0)
        for layer in map(_layer, text.layers):
            x_NLD = layer.add_residuals(x_NLD, attend_text(layer.attention, x_NLD, mask[:, None, None, :]))
        if "vector" not in self.outputs:
            return (x_NLD,)
        cls_ND = x_NLD[:, 0]
        if text.config.pooling == "mean":
            weight_NL1 = mask[..., None].to(x_NLD.dtype)
            cls_ND = (x_NLD * weight_NL1).sum(1) / weight_NL1.sum(1)
        return x_NLD, self.model.contrastive.embed_texts(cls_ND)


class FusionGraph(Part):
    """The cross-modal encoder with the heads on top of it."""

    def __init__(self, model: XVLM, grid_hw: tuple[int, int]) -> None:
        super().__init__(model)
        self.grid_hw = grid_hw
        outputs = {
            "matching": ["match_log_odds"],
            "box": ["box"],
            "detection": ["presence", "objectness", "cell_boxes"],
            "classifier": ["labels"],
            "vqa_decoder": ["fused"],
        }
        self.outputs = [one for head, names in outputs.items() if head in model.config.heads for one in names]

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        tokens: Tensor,
        image: Tensor,
        patches: Tensor,
        finer: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Fuse each of N texts with an image, or with a region of it.

        Args:
            states, mask: (N, L, D) float and (N, L) bool of texts.
            tokens: (S, P, D) of images, or of regions of a ViT.
            image: (N,) int64 index of each text's tokens.
            patches: (N, P) bool, the patches of the image that each text attends to.
            finer: (S, C, h, w) finer map of the images.
        Returns:
            what the heads say, in the order of `outputs`.
        """
        seen_NP = patches if self.is_grid else F.pad(patches, (1, 0), value=True)
        x_NLD = states
        for layer in map(_layer, self.model.fusion.layers):
            keys_values = layer.keys_values(tokens).index_select(1, image)
            x_NLD = fuse(layer, x_NLD, mask, keys_values, seen_NP, self.is_grid)
        return tuple(self._heads(x_NLD, tokens, image, finer))

    def _heads(self, x_NLD: Tensor, tokens: Tensor, image: Tensor, finer: Tensor | None) -> list[Tensor]:
        heads, cls_ND, found = self.model.config.heads, x_NLD[:, 0], list[Tensor]()
        patches_SPD = tokens if self.is_grid else tokens[:, 1:]
        if "matching" in heads:
            logits_N2 = self.model.match(cls_ND)
            found.append(logits_N2[:, 1] - logits_N2[:, 0])
        if "box" in heads:
            finer_N = None if finer is None else finer.index_select(0, image)
            own_NPD = patches_SPD.index_select(0, image)
            found.append(self.model.box.logits(cls_ND, own_NPD, self.grid_hw, finer_N).sigmoid())
        if "detection" in heads:
            detections = self.model.detection(cls_ND, patches_SPD, self.grid_hw, finer, image)
            rows, columns = detections.cells.grid_hw
            value_NCK = detections.cells.value_SCK.index_select(0, image)
            query_NCK = detections.query_RK[:, None].expand(-1, rows * columns, -1)
            cell_NC = torch.arange(rows * columns).expand(cls_ND.shape[0], -1)
            boxes = self.model.detection.cell_boxes(
                query_NCK.flatten(0, 1), value_NCK.flatten(0, 1), cell_NC.flatten(), (rows, columns)
            )
            found += [
                detections.presence_R,
                detections.objectness_RC,
                boxes.unflatten(0, (-1, rows * columns)),
            ]
        if "classifier" in heads:
            found.append(self.model.classifier(cls_ND))
        if "vqa_decoder" in heads:
            found.append(x_NLD)
        return found


class PairGraph(Part):
    """The cross-modal encoder over image pairs with its head."""

    def forward(self, states: Tensor, mask: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(N, L, D) states, (N, L) bool mask, (N, P, D) tokens of both images -> (N, 2) (false, true)."""
        x_NLD, layers = states, [_layer(one) for one in self.model.fusion.layers]
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            for layer, tokens in ((first, left), (second, right)):
                seen_NP = torch.ones_like(tokens[..., 0], dtype=torch.bool)
                x_NLD = fuse(layer, x_NLD, mask, first.keys_values(tokens), seen_NP, self.is_grid)
        return self.model.classify_pairs(x_NLD[:, 0])


class ContextGraph(nn.Module):
    """What a decoder attends to: keys and values of its cross-modal layers."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.outputs = ["keys_values"]

    def forward(self, context: Tensor) -> Tensor:
        """(S, P, D) tokens of images or states of questions -> (layers, 2, S, H, P, K)."""
        return torch.stack([_layer(one).keys_values(context) for one in self.decoder.cross.layers])


class StepGraph(nn.Module):
    """One step of a decoder: new tokens after cached ones."""

    def __init__(self, decoder: Decoder, has_mean: bool) -> None:
        """Take a decoder; `has_mean` is true if the mean of its context is a summary token."""
        super().__init__()
        self.decoder, self.has_mean = decoder, has_mean
        self.outputs = ["logits", "cache"]

    def forward(
        self, ids: Tensor, cached: Tensor, keys_values: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Append L tokens to R rows, and return the (R, V) logits of the next one and the new cache.

        Args:
            ids: (R, L) int64.
            cached: (layers, 2, R, H, T, K) keys and values of the T tokens before.
            keys_values: (cross layers, 2, R, H, P, K), see `ContextGraph`.
            seen: (R, P) bool, what of the context is no padding.
        """
        before = cached.shape[4]
        x_RLD = self.decoder.text.embedding.embed_padded(ids, before)
        total = before + ids.shape[1]
        place_L = torch.arange(ids.shape[1]) + before
        mask_LT = torch.arange(total)[None] <= place_L[:, None]
        caches, count = [], len(self.decoder.text.layers)
        for number, layer in enumerate(map(_layer, (*self.decoder.text.layers, *self.decoder.cross.layers))):
            attention = layer.attention
            q, k, v = split_projections(attention.qkv(x_RLD), attention.heads, 3)
            kv = torch.cat((cached[number], torch.stack((k, v))), dim=3)
            caches.append(kv)
            attended = attention.out(merge_heads(attend(q, kv[0], kv[1], mask_LT[None, None], 0.0)))
            context = None
            if number >= count:
                context = context_of(layer, keys_values[number - count], seen, self.has_mean)
            x_RLD = layer.add_residuals(x_RLD, attended, context)
        return self.decoder.predict(x_RLD[:, -1]), torch.stack(caches)


def attend_text(attention: SelfAttention, x_NLD: Tensor, mask_N11L: Tensor) -> Tensor:
    """Self-attention of (N, L, D) padded texts, of whose tokens (N, 1, 1, L) are true."""
    q, k, v = split_projections(attention.qkv(x_NLD), attention.heads, 3)
    return cast(Tensor, attention.out(merge_heads(attend(q, k, v, mask_N11L, 0.0))))


def context_of(layer: Layer, kv: Tensor, seen_NP: Tensor, has_mean: bool) -> Callable[[Tensor], Tensor]:
    """Return the cross-attention of (N, L, D) padded texts to (2, N, H, P, K), of which (N, P) are seen."""
    attention, cross = attend_with_mean if has_mean else attend, layer.cross
    seen_N11P = seen_NP[:, None, None, :]

    def attended(x_NLD: Tensor) -> Tensor:
        q_NHLK = split_heads(cross.q(x_NLD), cross.heads)
        return cast(Tensor, cross.out(merge_heads(attention(q_NHLK, kv[0], kv[1], seen_N11P, 0.0))))

    return attended


def fuse(layer: Layer, x_NLD: Tensor, mask_NL: Tensor, kv: Tensor, seen_NP: Tensor, has_mean: bool) -> Tensor:
    """Apply a layer of the cross-modal encoder to (N, L, D) padded texts; see `context_of`."""
    attended = attend_text(layer.attention, x_NLD, mask_NL[:, None, None, :])
    return layer.add_residuals(x_NLD, attended, context_of(layer, kv, seen_NP, has_mean))


def _layer(module: nn.Module) -> Layer:
    return cast(Layer, module)


@torch.no_grad()
def graphs_of(model: XVLM) -> dict[str, Graph]:
    """Return the graphs of a model by the names of their files: image, text, fusion and what heads need."""
    images, rows, length = Dim("images", max=1 << 16), Dim("rows", max=1 << 16), Dim("length", max=1 << 12)
    pixels = torch.randint(0, 256, (EXAMPLE_IMAGES, 3, *model.config.vision.image_hw), dtype=torch.uint8)
    image = ImageGraph(model)
    found = dict(zip(image.outputs, image(pixels), strict=True))
    graphs = {"image": Graph(image, {"pixels": pixels}, {"pixels": {0: images}})}
    tokens = found["tokens"]
    seen = torch.ones(EXAMPLE_ROWS, tokens.shape[1] - ("before_local" in found), dtype=torch.bool)
    set_N = torch.arange(EXAMPLE_ROWS) % EXAMPLE_IMAGES
    if "before_local" in found:
        inputs = {"before_local": found["before_local"].index_select(0, set_N), "patches": seen}
        sizes: dict[str, Any] = {"before_local": {0: rows}, "patches": {0: rows}}
        graphs["region"] = Graph(RegionGraph(model, "tokens"), inputs, sizes)
    if hasattr(model, "text"):
        text = TextGraph(model, "states", *(["vector"] if "contrastive" in model.config.heads else []))
        ids = torch.ones(EXAMPLE_ROWS, EXAMPLE_LENGTH, dtype=torch.int64)
        mask = torch.arange(EXAMPLE_LENGTH)[None] < torch.tensor([5, 3, 4])[:, None]
        states = text(ids, mask)[0]
        row_length = {0: rows, 1: length}
        text_sizes = {"ids": row_length, "mask": row_length}
        graphs["text"] = Graph(text, {"ids": ids, "mask": mask}, text_sizes)
        inputs = {"states": states, "mask": mask}
        sizes = {"states": row_length, "mask": row_length}
        if isinstance(model.fusion, PairEncoder):
            both = {"left": tokens.index_select(0, set_N), "right": tokens.index_select(0, set_N.flip(0))}
            pair_sizes = {**sizes, "left": {0: rows}, "right": {0: rows}}
            graphs["fusion"] = Graph(PairGraph(model, "pair"), {**inputs, **both}, pair_sizes)
        else:
            inputs |= {"tokens": tokens, "image": set_N, "patches": seen}
            sizes |= {"tokens": {0: images}, "image": {0: rows}, "patches": {0: rows}}
            if "finer" in found:
                inputs["finer"], sizes["finer"] = found["finer"], {0: images}
            fusion = FusionGraph(model, image.grid_hw)
            graphs |= {"fusion": Graph(fusion, inputs, sizes)} if fusion.outputs else {}
            if "vqa_decoder" in model.config.heads:
                graphs |= _decoder_graphs("answer", model.vqa_decoder, states, mask, False, length)
    if "caption_decoder" in model.config.heads:
        context = tokens.index_select(0, set_N)
        all_seen = torch.ones(context.shape[:2], dtype=torch.bool)
        graphs |= _decoder_graphs("caption", model.caption_decoder, context, all_seen, image.is_grid, None)
    return graphs


def _decoder_graphs(
    name: str, decoder: Decoder, context: Tensor, seen: Tensor, has_mean: bool, length: Any
) -> dict[str, Graph]:
    """Return the graphs of a decoder: its context, and a step.

    Args:
        context, seen: (R, P, D) and (R, P) example of what it attends to.
        length: name of the dimension P, if it differs from call to call.
    """
    rows, tokens, before = Dim("rows", max=1 << 16), Dim("tokens", max=1 << 10), Dim("before", max=1 << 10)
    project = ContextGraph(decoder)
    own = {0: rows} if length is None else {0: rows, 1: length}
    keys_values = project(context)
    layers = len(decoder.text.layers) + len(decoder.cross.layers)
    _, _, count, heads, _, width = keys_values.shape
    inputs = {
        "ids": torch.ones(count, 2, dtype=torch.int64),
        "cached": torch.zeros(layers, 2, count, heads, 3, width),
        "keys_values": keys_values,
        "seen": seen,
    }
    sizes: dict[str, Any] = {
        "ids": {0: rows, 1: tokens},
        "cached": {2: rows, 4: before},
        "keys_values": {2: rows} if length is None else {2: rows, 4: length},
        "seen": own,
    }
    return {
        f"{name}_context": Graph(project, {"context": context}, {"context": own}),
        f"{name}_step": Graph(StepGraph(decoder, has_mean), inputs, sizes),
    }
