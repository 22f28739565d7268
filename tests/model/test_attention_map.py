"""Where a text looks: maps of every layer at once, against the same written plainly, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model.padded import Looked, bert_layer, encode, look, self_attention
from tests.tiny import KINDS, tiny_model, toy_batch
from xvlm.batch import Texts
from xvlm.model.attention_map import attention_maps
from xvlm.model.xvlm import XVLM
from xvlm.predict import whole_images

LAYERS = 3
TEXTS = [[2], [2, 9, 17, 30], [2, 11], [2, 41, 6, 7, 8, 12, 40]]  # the first has one token
IMAGES = [1, 0, 1, 2]


def plain_map(model: XVLM, ids: list[int], looked: Looked, layer: int) -> Tensor:
    """(P,) of one text on one image: weights that carry a gradient are put in by hand."""
    x_NLD, mask_NL, _ = encode(model, [ids])
    kept: list[Tensor] = []
    for number, block in enumerate(model.fusion.layers):
        if number != layer:
            x_NLD = bert_layer(block, x_NLD, mask_NL, looked)
            continue
        x_NLD = block.attention_norm(x_NLD + self_attention(block.attention, x_NLD, mask_NL))
        cross = block.cross
        k, v = cross.kv(looked.tokens_CPD).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (cross.heads, -1)).transpose(1, 2) for y in (cross.q(x_NLD), k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        kept.append(weights)
        x_NLD = block.cross_norm(x_NLD + cross.out((weights @ v).transpose(1, 2).flatten(2)))
        x_NLD = block.mlp_norm(x_NLD + block.mlp.down(torch.nn.functional.gelu(block.mlp.up(x_NLD))))
    (gradient,) = torch.autograd.grad(model.matching(x_NLD[:, 0])[0, 1], kept)
    of_tokens = (kept[0] * gradient.clamp(min=0))[0, :, : len(ids), 1:]  # not the padding, not the summary
    return of_tokens.mean(0).mean(0).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_all_layers_are_those_of_each(kind: str) -> None:
    """Grids and ViT (whose class token has no place); a text of one token; texts out of the images' order."""
    model = tiny_model(kind, cross_layers=LAYERS).double().eval()
    batch = toy_batch()
    features = model.encode_images(batch.images)
    with torch.no_grad():
        texts = model.encode_texts(Texts.pack(TEXTS))
        whole = look(model, batch)
    rows, images = torch.arange(len(TEXTS)), torch.tensor(IMAGES)
    concepts = whole_images(model, features)
    together = attention_maps(model, texts, rows, concepts, images, range(LAYERS))
    assert len(together) == LAYERS and all(m.shape == (4, *concepts.grid_hw) for m in together)
    for layer, map_Rhw in enumerate(together):
        assert not map_Rhw.requires_grad and (map_Rhw >= 0).all() and (map_Rhw > 0).any()
        (alone,) = attention_maps(model, texts, rows, concepts, images, [layer])
        torch.testing.assert_close(alone, map_Rhw)
        for row, (ids, image) in enumerate(zip(TEXTS, IMAGES, strict=True)):
            expected_P = plain_map(model, ids, whole.of([len(batch.concepts) + image]), layer)
            torch.testing.assert_close(map_Rhw[row].flatten(), expected_P, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(together[0], together[1])


def test_nothing_is_watched_afterwards() -> None:
    model = tiny_model("cnn").eval()
    texts = model.encode_texts(Texts.pack(TEXTS[:1]))
    concepts = whole_images(model, model.encode_images(toy_batch().images))
    zero = torch.tensor([0])
    with torch.no_grad():
        attention_maps(model, texts, zero, concepts, zero, [0, 1])
        assert not torch.is_grad_enabled()
    assert all(layer.cross.watched is None for layer in model.fusion.layers)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="layer is 2; the cross-modal encoder has layers 0 to 1"):
        attention_maps(model, texts, zero, concepts, zero, [1, 2])
