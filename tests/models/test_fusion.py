"""The last cross-modal layer computes only the states that are needed, and they are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import KINDS, tiny_config, tiny_model, toy_parts
from xvlm.models.text.cross_encoder import OutputPositions
from xvlm.models.xvlm import build_model
from xvlm.tasks.common.pretraining_batch import collate


@pytest.mark.parametrize("kind", KINDS)
def test_selected_states_equal_those_of_all_tokens(kind: str) -> None:
    model = tiny_model(kind).double().eval()
    batch = collate(toy_parts(pairs=4, regions=(4, 1, 5, 2)))
    concepts, _ = model.encode_concepts(model.encode_images(batch.images), batch.concepts)
    texts = model.encode_texts(batch.texts)
    generator = torch.Generator().manual_seed(0)
    text_R = torch.randint(len(batch.texts), (30,), generator=generator)
    concept_R = torch.randint(len(batch.concepts), (30,), generator=generator)
    full = model.fuse(texts, text_R, concepts, concept_R)
    lengths_R = batch.texts.lengths_N[text_R]
    long_R = (lengths_R > 2).nonzero()[:, 0]
    row_M = torch.cat((long_R, long_R.flip(0)))
    position_M = torch.cat((torch.ones_like(long_R), lengths_R[long_R.flip(0)] - 1))
    part = model.fuse(texts, text_R, concepts, concept_R, outputs=OutputPositions(row_M, position_M))
    assert torch.allclose(part.cls_RD, full.cls_RD, atol=1e-12)
    expected_MD = full.states_TD[full.cls_index_R[row_M] + position_M]
    assert torch.allclose(part.states_TD[part.output_index_M], expected_MD, atol=1e-12)
    assert len(part.states_TD) == len(text_R) + len(row_M) < len(full.states_TD)
    assert torch.allclose(model.fuse_cls(texts, text_R, concepts, concept_R), full.cls_RD, atol=1e-12)


def test_selected_states_with_image_pairs() -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny_config("cnn"), heads=("pair_classifier",))).double().eval()
    batch = collate(toy_parts(pairs=4, regions=()))
    concepts, _ = model.encode_whole(model.encode_images(batch.images))
    texts = model.encode_texts(batch.texts)
    text_R, pair_R = torch.tensor([3, 0, 2, 1, 0]), torch.tensor([1, 0, 1, 0, 1])
    full = model.fuse(texts, text_R, concepts, pair_R).cls_RD
    assert torch.allclose(model.fuse_cls(texts, text_R, concepts, pair_R), full, atol=1e-12)
    assert not torch.allclose(full[1], full[4])
