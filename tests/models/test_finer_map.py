"""The map of an earlier stage, and the box head that reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import VISION, tiny_config
from xvlm.batch import Concepts, Images
from xvlm.boxes import patch_centres
from xvlm.common.errors import InputError
from xvlm.models.heads import FinerPointingBoxHead
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import build_model

HW = (64, 96)
ENCODERS: dict[str, tuple[VisionConfig, tuple[int, int, int]]] = {
    "swin": (VISION["swin"], (16, 8, 12)),
    "convnext": (VisionConfig("convnext_atto", HW), (160, 4, 6)),
    "resnet": (VisionConfig("resnet10t", HW), (256, 4, 6)),
    "efficientnet": (VisionConfig("tf_efficientnet_lite0", HW), (112, 4, 6)),
    "stem": (VisionConfig("tf_efficientnet_lite0", HW, frozen_stem_blocks=11), (112, 4, 6)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_finer_map_comes_with_the_same_patches(name: str) -> None:
    config, shape = ENCODERS[name]
    images = Images(torch.randint(256, (2, 3, *HW), dtype=torch.uint8))
    torch.manual_seed(0)
    plain = build_vision(config).eval()
    finer = build_vision(replace(config, finer_map=True)).eval()
    finer.load_state_dict(plain.state_dict())
    with torch.no_grad():
        expected, features = plain(images), finer(images)
    assert expected.finer_BChw is None and features.finer_BChw is not None
    assert tuple(features.finer_BChw.shape) == (2, *shape) and finer.finer_width == shape[0]
    assert shape[1] == 2 * features.grid_hw[0] and shape[2] == 2 * features.grid_hw[1]
    torch.testing.assert_close(features.tokens_BPD, expected.tokens_BPD)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(ENCODERS["stem"][0], frozen_stem_blocks=12), "has 2 rows like the final map"),
        (replace(VISION["vit"]), "finer_map is for encoders with a feature map"),
        (replace(VISION["swin"], options={"depths": [1], "num_heads": [1], "embed_dim": 8}), "no|not give"),
    ],
)
def test_without_an_earlier_map_it_is_an_error(config: VisionConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_vision(replace(config, finer_map=True))


def test_the_published_box_head_reads_no_map() -> None:
    config = tiny_config("swin")
    with pytest.raises(InputError, match="finer_map needs box_head 'point'"):
        build_model(replace(config, vision=replace(config.vision, finer_map=True), box_head="mlp"))


def test_the_head_equals_a_loop_over_cells() -> None:
    torch.manual_seed(0)
    head = FinerPointingBoxHead(6, 5, 4, key_width=3).double()
    cls_RD, patches_RPD, finer_RChw = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((2, 6), (2, 6, 5), (2, 4, 4, 6))
    )
    logits_R4 = head.logits(cls_RD, patches_RPD, (2, 3), finer_RChw)
    centres = patch_centres((4, 6)).double()
    for cls_D, patches_PD, finer_Chw, logits_4 in zip(
        cls_RD, patches_RPD, finer_RChw, logits_R4, strict=True
    ):
        map_Chw = head.finer_norm(finer_Chw[None])[0]
        key_Khw = head.finer_key(map_Chw[None])[0]
        coarse_Khw = F.interpolate(head.key(patches_PD).T.reshape(1, 3, 2, 3), (4, 6), mode="bilinear")[0]
        cells = [(row, column) for row in range(4) for column in range(6)]
        keys = [key_Khw[:, row, column] + coarse_Khw[:, row, column] for row, column in cells]
        weight = torch.stack([key @ head.query(cls_D) / 3**0.5 for key in keys]).softmax(0)
        pairs = list(zip(weight, cells, centres, strict=True))
        guess = sum(w * centre for w, _, centre in pairs)
        cell = sum(w * map_Chw[:, row, column] for w, (row, column), _ in pairs)
        patch = sum(w * patches_PD[row // 2 * 3 + column // 2] for w, (row, column), _ in pairs)
        correction = head.read(cls_D + head.value(patch) + head.finer_value(cell))
        torch.testing.assert_close(logits_4, correction + F.pad(torch.logit(guess), (0, 2)))


@pytest.mark.parametrize("kind", ["swin", "cnn"])
def test_boxes_are_predicted_from_the_map_of_their_own_image(kind: str) -> None:
    config: Any = tiny_config(kind)
    if kind == "cnn":
        config = replace(config, vision=ENCODERS["resnet"][0])
    config = replace(config, vision=replace(config.vision, finer_map=True), box_head="point")
    model = build_model(config).eval()
    images = Images(torch.randint(256, (3, 3, *config.vision.image_hw), dtype=torch.uint8))
    features = model.encode_images(images)
    tokens, _ = model.encode_concepts(features, Concepts.none(torch.device("cpu")))
    cls_RD = torch.randn(2, config.text.width)
    both = model.predict_box(cls_RD, tokens, torch.tensor([2, 0]))
    for row, image in enumerate((2, 0)):
        alone = Images(images.pixels_BCHW[image : image + 1])
        own, _ = model.encode_whole(model.encode_images(alone))
        box = model.predict_box(cls_RD[row : row + 1], own, torch.tensor([0]))
        torch.testing.assert_close(both[row : row + 1], box, atol=1e-5, rtol=1e-4)
    both.sum().backward()
    assert all(p.grad is not None for name, p in model.box.named_parameters())
