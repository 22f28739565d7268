"""Grad-CAM maps of all layers at once, against plain maps row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import KINDS, tiny_model, toy_batch
from xvlm.batch import Texts
from xvlm.bench.common.padded import Padded, encode, layer_forward, padded_context, self_attention
from xvlm.models.text.grad_cam import grad_cam_maps
from xvlm.models.xvlm import XVLM

LAYERS = 3
TEXTS = [[2], [2, 9, 17, 30], [2, 11], [2, 41, 6, 7, 8, 12, 40]]  # the first has one token
IMAGES = [1, 0, 1, 2]


def plain_map(model: XVLM, ids: list[int], context: Padded, layer: int) -> Tensor:
    """Compute the map (P,) of one text and one image; the layer's weights are exposed by hand."""
    texts, _ = encode(model, Texts.pack([ids]), len(ids) + 2)
    recorded: list[Tensor] = []
    for index, block in enumerate(model.fusion.layers):
        if index != layer:
            texts = layer_forward(block, texts, context)
            continue
        x_NLD = block.attention_norm(texts.x_NLD + self_attention(block.attention, texts))
        cross = block.cross
        k, v = cross.kv(context.x_NLD).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (cross.heads, -1)).transpose(1, 2) for y in (cross.q(x_NLD), k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        recorded.append(weights)
        x_NLD = block.cross_norm(x_NLD + cross.out((weights @ v).transpose(1, 2).flatten(2)))
        x_NLD = block.mlp_norm(x_NLD + block.mlp.down(torch.nn.functional.gelu(block.mlp.up(x_NLD))))
        texts = Padded(x_NLD, texts.mask_NL)
    (gradient,) = torch.autograd.grad(model.matching(texts.x_NLD[:, 0])[0, 1], recorded)
    product_HLP = (recorded[0] * gradient.clamp(min=0))[0, :, : len(ids), 1:]  # no padding, no summary token
    return product_HLP.mean(0).mean(0).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_all_layers_are_those_of_each(kind: str) -> None:
    """Grids and ViT (its class token is no patch); a text of one token; rows out of the images' order."""
    model = tiny_model(kind, cross_layers=LAYERS).double().eval()
    batch = toy_batch()
    features = model.encode_images(batch.images)
    with torch.no_grad():
        texts = model.encode_texts(Texts.pack(TEXTS))
    rows, images = torch.arange(len(TEXTS)), torch.tensor(IMAGES)
    concepts = model.encode_whole(features)[0]
    together = grad_cam_maps(model, texts, rows, concepts, images, range(LAYERS))
    assert len(together) == LAYERS and all(m.shape == (4, *concepts.grid_hw) for m in together)
    for layer, map_Rhw in enumerate(together):
        assert not map_Rhw.requires_grad and (map_Rhw >= 0).all() and (map_Rhw > 0).any()
        (alone,) = grad_cam_maps(model, texts, rows, concepts, images, [layer])
        torch.testing.assert_close(alone, map_Rhw)
        for row, (ids, image) in enumerate(zip(TEXTS, IMAGES, strict=True)):
            context = padded_context(concepts, torch.tensor([image]))
            expected_P = plain_map(model, ids, context, layer)
            torch.testing.assert_close(map_Rhw[row].flatten(), expected_P, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(together[0], together[1])


def test_nothing_is_recorded_afterwards() -> None:
    model = tiny_model("cnn").eval()
    texts = model.encode_texts(Texts.pack(TEXTS[:1]))
    concepts = model.encode_whole(model.encode_images(toy_batch().images))[0]
    zero = torch.tensor([0])
    with torch.no_grad():
        grad_cam_maps(model, texts, zero, concepts, zero, [0, 1])
        assert not torch.is_grad_enabled()
    assert all(layer.cross.recorded is None for layer in model.fusion.layers)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="layer is 2; the cross-modal encoder has layers 0 to 1"):
        grad_cam_maps(model, texts, zero, concepts, zero, [1, 2])
