"""What `Pretrain.forward` computes, written plainly: padding, masks, one call a pass, nothing shared.

Every row carries its own padded text and its own copy of what it looks at; the summary token of a region is
made explicitly and projected like any other.  Only the image encoder's own forward is used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm.boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from xvlm.losses.matching import Negatives
from xvlm.model.attention import CrossAttention, SelfAttention
from xvlm.model.heads import BoxHead
from xvlm.model.text import Layer
from xvlm.model.vision import GridEncoder, ViTEncoder, sincos_position
from xvlm.model.xvlm import XVLM
from xvlm.tasks._batch import PretrainBatch
from xvlm.tasks.pretrain import Pretrain

STRIDE = 16  # of the tiny towers but ConvNeXt


@dataclass(frozen=True)
class Looked:
    """What each of C concepts shows: (C, 1 + P, D) tokens, (C, 1 + P) which of them count, (C, D) v_cls."""

    tokens_CPD: Tensor
    mask_CP: Tensor
    cls_CD: Tensor

    def of(self, chosen: list[int]) -> Looked:
        return Looked(self.tokens_CPD[chosen], self.mask_CP[chosen], self.cls_CD[chosen])


def attention(q_NLD: Tensor, k_NPD: Tensor, v_NPD: Tensor, mask_NP: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_NLD, k_NPD, v_NPD))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~mask_NP[:, None, None, :], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def self_attention(layer: SelfAttention, x_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    q, k, v = layer.qkv(x_NLD).chunk(3, dim=-1)
    return layer.out(attention(q, k, v, mask_NL, layer.heads))


def cross_attention(layer: CrossAttention, x_NLD: Tensor, looked: Looked) -> Tensor:
    k, v = layer.kv(looked.tokens_CPD).chunk(2, dim=-1)
    return layer.out(attention(layer.q(x_NLD), k, v, looked.mask_CP, layer.heads))


def bert_layer(layer: Layer, x_NLD: Tensor, mask_NL: Tensor, looked: Looked | None = None) -> Tensor:
    x_NLD = layer.attention_norm(x_NLD + self_attention(layer.attention, x_NLD, mask_NL))
    if looked is not None:
        x_NLD = layer.cross_norm(x_NLD + cross_attention(layer.cross, x_NLD, looked))
    return layer.mlp_norm(x_NLD + layer.mlp.down(F.gelu(layer.mlp.up(x_NLD))))


def padded(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(N, L) ids with a padding id that is not 0, and (N, L) where tokens stand."""
    longest = max(map(len, ids)) + 2  # padding behind the longest too
    ids_NL = torch.tensor([row + [7] * (longest - len(row)) for row in ids])
    mask_NL = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in ids])
    return ids_NL, mask_NL


def encode(model: XVLM, ids: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """(N, L, D) states, (N, L) mask, (N, D) w_cls."""
    ids_NL, mask_NL = padded(ids)
    embedding = model.text.embedding
    place_L = torch.arange(ids_NL.shape[1]) + embedding.first_position
    first_type = embedding.token_type(torch.zeros_like(ids_NL))
    x_NLD = embedding.norm(embedding.token(ids_NL) + embedding.position(place_L) + first_type)
    for layer in model.text.layers:
        x_NLD = bert_layer(layer, x_NLD, mask_NL)
    if model.config.text.pooling == "first":
        return x_NLD, mask_NL, x_NLD[:, 0]
    return x_NLD, mask_NL, (x_NLD * mask_NL[..., None]).sum(1) / mask_NL.sum(1, keepdim=True)


def fuse(model: XVLM, states: tuple[Tensor, Tensor, Tensor], texts: list[int], looked: Looked) -> Tensor:
    """Row r is text texts[r] with concept r of `looked`: (R, L, D)."""
    x_RLD, mask_RL = states[0][texts], states[1][texts]
    for layer in model.fusion.layers:
        x_RLD = bert_layer(layer, x_RLD, mask_RL, looked)
    return x_RLD


def touched(box_xyxy: list[float], rows: int, columns: int) -> list[bool]:
    """Row-major; a patch counts if the box covers some of its area."""
    x0, y0, x1, y1 = box_xyxy
    return [
        x0 < (column + 1) / columns - 1e-6
        and x1 > column / columns + 1e-6
        and y0 < (row + 1) / rows - 1e-6
        and y1 > row / rows + 1e-6
        for row in range(rows)
        for column in range(columns)
    ]


def look(model: XVLM, batch: PretrainBatch) -> Looked:
    """The N concepts, then the B whole images."""
    features = model.vision(batch.images)
    rows, columns = features.grid_hw
    boxes = batch.concepts.box_xyxy_N4.tolist() + [[0.0, 0.0, 1.0, 1.0]] * len(batch.images)
    images = batch.concepts.image_N.tolist() + list(range(len(batch.images)))
    boxed = batch.concepts.has_box_N.tolist() + [False] * len(batch.images)
    tokens, masks, vectors = [], [], []
    for box, image, has_box in zip(boxes, images, boxed, strict=True):
        inside_P = torch.tensor(touched(box, rows, columns) if has_box else [True] * (rows * columns))
        masks.append(torch.cat((torch.tensor([True]), inside_P)))
        if isinstance(model.vision, GridEncoder):
            patches_PD = features.tokens_BPD[image]
            vectors.append(patches_PD[inside_P].mean(0))
            if model.vision.adds_position:
                patches_PD = patches_PD + sincos_position((rows, columns), patches_PD.shape[1]).to(patches_PD)
            tokens.append(torch.cat((patches_PD[inside_P].mean(0, keepdim=True), patches_PD)))
        else:
            assert isinstance(model.vision, ViTEncoder) and features.before_local_BPD is not None
            x_PD = features.tokens_BPD[image]
            if has_box:
                x_PD = local_blocks(model.vision, features.before_local_BPD[image], masks[-1])
            vectors.append(x_PD[0])
            tokens.append(x_PD)
    return Looked(torch.stack(tokens), torch.stack(masks), torch.stack(vectors))


def local_blocks(vision: ViTEncoder, x_PD: Tensor, mask_P: Tensor) -> Tensor:
    """The last blocks on nothing but the chosen tokens, put back among zeros: (1 + P, D)."""
    x = x_PD[mask_P][None]
    for block in vision.model.blocks[-vision.config.local_depth :]:  # type: ignore[index, union-attr]
        x = block(x)
    out = torch.zeros_like(x_PD)
    out[mask_P] = vision.model.norm(x)[0]  # type: ignore[operator]
    return out


def contrastive(
    concept_NE: Tensor, text_NE: Tensor, temperature: Tensor, concept_key: list[int], text_key: list[int]
) -> Tensor:
    """Row by row."""
    total = torch.zeros((), dtype=concept_NE.dtype)
    rows = len(concept_key)
    for i in range(rows):
        same = [concept_key[i] == concept_key[j] or text_key[i] == text_key[j] for j in range(rows)]
        to_text = (concept_NE[i] @ text_NE.T / temperature).log_softmax(0)
        to_concept = (text_NE[i] @ concept_NE.T / temperature).log_softmax(0)
        for j in range(rows):
            if same[j]:
                total = total - (to_text[j] + to_concept[j]) / (2 * sum(same))
    return total / rows


def box(model: XVLM, cls_RD: Tensor, patches_RPD: Tensor) -> Tensor:
    """(R, 4) (cx, cy, w, h) by either head."""
    if isinstance(model.box, BoxHead):
        return model.box(cls_RD).sigmoid()
    head, (rows, columns) = model.box, model.config.vision.image_hw
    rows, columns = rows // STRIDE, columns // STRIDE
    boxes = []
    for cls_D, patches_PD in zip(cls_RD, patches_RPD, strict=True):
        query_K = head.query(cls_D)
        scores = torch.stack(
            [(head.key(patch_D) * query_K).sum() / len(query_K) ** 0.5 for patch_D in patches_PD]
        )
        weight_P = scores.softmax(0)
        places = [((p % columns + 0.5) / columns, (p // columns + 0.5) / rows) for p in range(rows * columns)]
        place_P2 = torch.tensor(places, dtype=torch.float64)
        centre_2 = (weight_P[:, None] * place_P2).sum(0).clamp(1e-3, 1 - 1e-3)
        seen_D = (weight_P[:, None] * patches_PD).sum(0)
        guess_4 = torch.cat(((centre_2 / (1 - centre_2)).log(), torch.zeros(2)))
        boxes.append((head.read(cls_D + head.value(seen_D)) + guess_4).sigmoid())
    return torch.stack(boxes)


def losses(task: Pretrain, batch: PretrainBatch, negatives: dict[str, Negatives]) -> dict[str, Tensor]:
    """The losses of `task` by name, for the negatives that were drawn (rows counted within their part)."""
    model = task.model
    rows = len(batch.concepts)
    ids = [row.tolist() for row in batch.texts.ids_T.split(batch.texts.lengths_N.tolist())]
    looked = look(model, batch)
    texts, masked_texts = encode(model, ids[:rows]), encode(model, ids[rows:])
    concept_NE = F.normalize(model.contrastive.vision(looked.cls_CD[:rows]), dim=-1)
    text_NE = F.normalize(model.contrastive.text(texts[2]), dim=-1)
    concept_key, text_key = batch.concept_key_N.tolist(), batch.text_key_N.tolist()
    fused_rows = batch.fused_F.tolist()

    out: dict[str, Tensor] = {}
    for name, first, end in (("", 0, batch.pairs), ("region_", batch.pairs, rows)):
        part = list(range(first, end))
        if not part:
            continue
        out[name + "itc"] = contrastive(
            concept_NE[part],
            text_NE[part],
            model.contrastive.temperature,
            concept_key[first:end],
            text_key[first:end],
        )
        drawn = negatives[name]
        row = [first + i for i in drawn.row_N.tolist()]
        asked = [i for i in fused_rows if i in part]
        positive = fuse(model, texts, asked, looked.of(asked))
        wrong_concept = fuse(model, texts, row, looked.of([first + i for i in drawn.concept_N.tolist()]))
        wrong_text = fuse(model, texts, [first + i for i in drawn.text_N.tolist()], looked.of(row))
        logits = [model.matching(x[:, 0]) for x in (positive, wrong_concept, wrong_text)]
        label = torch.tensor([1] * len(asked) + [0] * 2 * len(row))
        out[name + "itm"] = F.cross_entropy(torch.cat(logits), label)

        index = [fused_rows.index(i) for i in asked]
        hidden = fuse(model, masked_texts, index, looked.of(asked))
        chosen = [
            (index.index(f), place, target)
            for f, place, target in zip(
                batch.masked_row_M.tolist(),
                batch.masked_place_M.tolist(),
                batch.masked_target_M.tolist(),
                strict=True,
            )
            if f in index
        ]
        states_MD = torch.stack([hidden[f, place] for f, place, _ in chosen])
        head = model.masked
        x_MD = head.norm(F.gelu(head.transform(states_MD)))
        logits_MV = x_MD @ model.text.embedding.token.weight.T + head.bias
        out[name + "mlm"] = F.cross_entropy(logits_MV, torch.tensor([target for _, _, target in chosen]))

    boxed = batch.concepts.has_box_N.nonzero()[:, 0].tolist()
    whole = looked.of([rows + int(batch.concepts.image_N[i]) for i in boxed])
    predicted_N4 = box(model, fuse(model, texts, boxed, whole)[:, 0], whole.tokens_CPD[:, 1:])
    true_N4 = batch.concepts.box_xyxy_N4[boxed].to(predicted_N4.dtype)
    out["bbox"] = (predicted_N4 - xyxy_to_cxcywh(true_N4)).abs().sum() / len(boxed)
    out["giou"] = (1 - generalized_iou(cxcywh_to_xyxy(predicted_N4), true_N4)).mean()
    return out
