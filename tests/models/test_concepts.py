"""Tokens and vectors of concepts, against a plain encoding concept by concept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import KINDS, tiny_model, toy_batch
from xvlm.bench.common.padded import padded_context
from xvlm.models.vision.grid import GridEncoder, sincos_position
from xvlm.models.vision.vit import ViTEncoder
from xvlm.models.xvlm import XVLM
from xvlm.tasks.common.pretraining_batch import PretrainBatch


def touched_patches(box_xyxy: list[float], rows: int, columns: int) -> list[bool]:
    """Return for each patch, row by row, whether the box covers a part of it."""
    x0, y0, x1, y1 = box_xyxy
    return [
        x0 < (column + 1) / columns - 1e-6
        and x1 > column / columns + 1e-6
        and y0 < (row + 1) / rows - 1e-6
        and y1 > row / rows + 1e-6
        for row in range(rows)
        for column in range(columns)
    ]


def encode_plainly(model: XVLM, batch: PretrainBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tokens of each concept, without those outside of it, and its vector."""
    features = model.vision(batch.images)
    rows, columns = features.grid_hw
    boxes = batch.concepts.box_xyxy_N4.tolist() + [[0.0, 0.0, 1.0, 1.0]] * len(batch.images)
    images = batch.concepts.image_N.tolist() + list(range(len(batch.images)))
    boxed = batch.concepts.has_box_N.tolist() + [False] * len(batch.images)
    tokens, vectors = [], []
    for box, image, has_box in zip(boxes, images, boxed, strict=True):
        inside = touched_patches(box, rows, columns) if has_box else [True] * (rows * columns)
        x_PD = features.tokens_BPD[image]
        if isinstance(model.vision, GridEncoder):
            inside_P = torch.tensor(inside)
            vectors.append(x_PD[inside_P].mean(0))
            if model.vision.adds_position:
                x_PD = x_PD + sincos_position((rows, columns), x_PD.shape[1]).to(x_PD)
            tokens.append(torch.cat((x_PD[inside_P].mean(0, keepdim=True), x_PD[inside_P])))
        else:
            assert isinstance(model.vision, ViTEncoder) and features.before_local_BPD is not None
            if has_box:
                x_1PD = features.before_local_BPD[image][torch.tensor([True, *inside])][None]
                for block in model.vision.model.blocks[-model.vision.config.local_depth :]:  # type: ignore[index, union-attr]
                    x_1PD = block(x_1PD)
                x_PD = model.vision.model.norm(x_1PD)[0]  # type: ignore[operator]
            vectors.append(x_PD[0])
            tokens.append(x_PD)
    return tokens, vectors


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_vectors_and_gradients_equal_a_plain_encoding(kind: str) -> None:
    model = tiny_model(kind).double().train()
    batch = toy_batch()
    concepts, cls_CD = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
    context = padded_context(concepts, torch.arange(len(cls_CD)))
    plain_tokens, plain_vectors = encode_plainly(model, batch)
    computed = [*context.x_NLD[context.mask_NL], *cls_CD]
    expected = [*torch.cat(plain_tokens), *plain_vectors]
    assert context.mask_NL.sum(1).tolist() == [len(tokens) for tokens in plain_tokens]
    gradients = []
    for vectors in (torch.stack(computed), torch.stack(expected)):
        model.zero_grad()
        (vectors * torch.arange(1.0, 1 + vectors.numel()).view_as(vectors)).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(torch.stack(computed), torch.stack(expected))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-6, msg=name)
