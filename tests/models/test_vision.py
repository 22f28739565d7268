"""One contract for every timm model: tokens and vectors of images and concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import KINDS, VISION
from xvlm.batch import Concepts, Images
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import ImageFeatures, VisionConfig, VisionEncoder
from xvlm.models.vision.grid import GridEncoder, sincos_position
from xvlm.models.vision.vit import ViTEncoder

GRIDS = [kind for kind in KINDS if kind != "vit"]


def encoder(kind: str, **fields: Any) -> VisionEncoder:
    torch.manual_seed(0)
    return build_vision(replace(VISION[kind], **fields)).double().eval()


def noise(count: int, image_hw: tuple[int, int]) -> Images:
    generator = torch.Generator().manual_seed(1)
    return Images(torch.randint(0, 256, (count, 3, *image_hw), dtype=torch.uint8, generator=generator))


def concepts_of(image: list[int], boxes: list[list[float] | None]) -> Concepts:
    whole = [0.0, 0.0, 1.0, 1.0]
    return Concepts(
        torch.tensor(image, dtype=torch.int64),
        torch.tensor([box or whole for box in boxes]).view(-1, 4),
        torch.tensor([box is not None for box in boxes], dtype=torch.bool),
    )


def encoded(kind: str, image_hw: tuple[int, int] = (64, 96)) -> tuple[VisionEncoder, ImageFeatures]:
    vision = encoder(kind, image_hw=image_hw)
    return vision, vision(noise(3, image_hw))


@pytest.mark.parametrize("image_hw", [(64, 96), (96, 64), (64, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_row_major_whatever_the_shape(kind: str, image_hw: tuple[int, int]) -> None:
    vision, features = encoded(kind, image_hw)
    stride = 32 if kind == "convnext" else 16
    assert features.grid_hw == (image_hw[0] // stride, image_hw[1] // stride)
    extra = 1 if kind == "vit" else 0
    patches = features.grid_hw[0] * features.grid_hw[1]
    assert features.tokens_BPD.shape == (3, extra + patches, vision.width)
    assert features.tokens_BPD.dtype == torch.float64
    # Changing one corner of the images changes the patch of that corner more than the opposite one.
    changed = noise(3, image_hw).pixels_BCHW.clone()
    changed[:, :, -16:, :16] = 255 - changed[:, :, -16:, :16]
    moved = (vision(Images(changed)).tokens_BPD - features.tokens_BPD)[:, extra:].norm(dim=-1).mean(0)
    rows, columns = features.grid_hw
    assert moved[(rows - 1) * columns] > moved[columns - 1]


@pytest.mark.parametrize("kind", GRIDS)
def test_patch_dropout_hides_patches_from_vectors_and_texts(kind: str) -> None:
    """In training mode, each step hides other patches, the same for all concepts of an image; a concept whose
    patches are all hidden keeps them."""
    vision, features = encoded(kind)
    vision.config = replace(vision.config, patch_dropout=0.6)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 6 + [[0.0, 0.0, 0.01, 0.01]] * 2)
    concepts = Concepts(
        torch.tensor([0, 0, 1, 1, 2, 2, 0, 1]), boxes, torch.tensor([True] * 5 + [False] + [True] * 2)
    )
    vision.eval()
    assert vision.concepts(features, concepts)[0].mask_CP[:6].all()
    vision.train()
    torch.manual_seed(0)
    (first, cls_CD), (second, _) = vision.concepts(features, concepts), vision.concepts(features, concepts)
    mask_CP = first.mask_CP
    assert not torch.equal(mask_CP, second.mask_CP)
    assert 0.2 < mask_CP[8:].float().mean() < 0.6
    for concept, image in enumerate(concepts.image_N[:6].tolist()):
        assert torch.equal(mask_CP[concept], mask_CP[8 + image])
    assert mask_CP[6:8].sum(1).tolist() == [1, 1]
    expected = torch.stack([features.tokens_BPD[b][mask_CP[8 + b]].mean(0) for b in range(3)])
    torch.testing.assert_close(cls_CD[8:], expected)
    torch.testing.assert_close(cls_CD[:6], expected[concepts.image_N[:6]])


@pytest.mark.parametrize("kind", GRIDS)
def test_a_regions_vector_is_the_mean_of_the_patches_it_touches(kind: str) -> None:
    vision, features = encoded(kind)
    rows, columns = features.grid_hw
    right_half = [(columns // 2) / columns, 0.0, 1.0, 1.0]
    tokens, cls_CD = vision.concepts(features, concepts_of([2, 0, 1], [right_half, None, [0, 0, 0.01, 0.01]]))
    grid = features.tokens_BPD.view(3, rows, columns, -1)
    expected = torch.cat(
        (
            torch.stack(
                (
                    grid[2, :, columns // 2 :].flatten(0, 1).mean(0),
                    grid[0].flatten(0, 1).mean(0),
                    grid[1, 0, 0],
                )
            ),
            features.tokens_BPD.mean(1),
        )
    )
    torch.testing.assert_close(cls_CD, expected)
    assert tokens.mean_summary
    assert tokens.set_C.tolist() == [2, 0, 1, 0, 1, 2]
    assert (
        tokens.mask_CP.sum(1).tolist()
        == [rows * (columns - columns // 2), *[rows * columns], 1] + [rows * columns] * 3
    )


def test_cnn_patches_get_a_position_and_swin_patches_do_not() -> None:
    for kind, adds in (("cnn", True), ("convnext", True), ("swin", False)):
        vision, features = encoded(kind)
        tokens, _ = vision.concepts(features, concepts_of([], []))
        added = tokens.tokens_SPD - features.tokens_BPD
        expected = (
            sincos_position(features.grid_hw, vision.width).to(added) if adds else torch.zeros_like(added)
        )
        torch.testing.assert_close(added, expected.expand_as(added))


def test_cnn_patches_are_normalized() -> None:
    _, features = encoded("cnn")
    torch.testing.assert_close(features.tokens_BPD.mean(-1), torch.zeros(3, 24).double(), atol=1e-6, rtol=0)


def test_a_vit_region_attends_only_to_its_patches() -> None:
    """Tokens outside the box do not change those inside; pixels do so through the earlier blocks."""
    vision, features = encoded("vit")
    assert isinstance(vision, ViTEncoder) and features.before_local_BPD is not None
    before = features.before_local_BPD.clone()
    rows, columns = features.grid_hw
    outside = torch.ones(1 + rows * columns, dtype=torch.bool)
    outside[0] = outside[1] = outside[2] = outside[1 + columns] = outside[2 + columns] = False
    before[:, outside] += torch.randn_like(before[:, outside])
    box: list[float] | None = [0.0, 0.0, 2 / columns, 2 / rows]
    concepts = concepts_of([1], [box])
    tokens, cls_CD = vision.concepts(features, concepts)
    moved, moved_cls_CD = vision.concepts(replace(features, before_local_BPD=before), concepts)
    assert tokens.mask_CP[0].tolist() == (~outside).tolist()
    torch.testing.assert_close(moved.tokens_SPD[3, ~outside], tokens.tokens_SPD[3, ~outside])
    torch.testing.assert_close(moved_cls_CD[0], cls_CD[0])
    assert (moved.tokens_SPD[3, outside] - tokens.tokens_SPD[3, outside]).abs().max() > 0.1


def test_a_vit_region_that_is_the_whole_image_is_the_image() -> None:
    vision, features = encoded("vit")
    tokens, cls_CD = vision.concepts(features, concepts_of([2, 0], [[0.0, 0.0, 1.0, 1.0], None]))
    torch.testing.assert_close(tokens.tokens_SPD[tokens.set_C[0]], features.tokens_BPD[2])
    torch.testing.assert_close(cls_CD[0], features.tokens_BPD[2, 0])
    # A concept without a box shares the image's token set, since there is nothing to compute again.
    assert tokens.set_C.tolist() == [3, 0, 0, 1, 2]
    assert not tokens.mean_summary


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_follow_the_concepts(kind: str) -> None:
    vision, features = encoded(kind)
    concepts = concepts_of([0, 2], [[0.2, 0.2, 0.6, 0.9], None])
    tokens, cls_CD = vision.concepts(features, concepts)
    alone, alone_CD = vision.concepts(features, concepts_of([], []))
    torch.testing.assert_close(cls_CD[2:], alone_CD)
    torch.testing.assert_close(tokens.tokens_SPD[tokens.set_C[2:]], alone.tokens_SPD[alone.set_C])
    assert tokens.mask_CP[2:].all()
    assert len(features) == 3 and len(cls_CD) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_normalized_on_the_device(kind: str) -> None:
    vision = encoder(kind, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    images = Images(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8))
    expected = torch.tensor([(0.2 - 0.5) / 0.5, 0.2 - 0.25, 0.2 / 2.0], dtype=torch.float64)
    torch.testing.assert_close(vision.normalize(images)[0, :, 0, 0], expected, atol=1e-6, rtol=1e-6)


def test_sincos_positions_are_distinct_and_of_unit_size() -> None:
    position_PD = sincos_position((5, 7), 34)
    assert position_PD.shape == (35, 34)
    assert (position_PD[:, 32:] == 0).all()  # 34 is no multiple of 4
    assert position_PD[:, :32].square().mean().item() == pytest.approx(1.0, rel=1e-5)
    gaps = torch.cdist(position_PD, position_PD) + 9 * torch.eye(35)
    assert gaps.min() > 0.5
    # Rows and columns are encoded alike, each in its own half.
    square = sincos_position((4, 4), 16).view(4, 4, 16)
    torch.testing.assert_close(square[..., :8], square.transpose(0, 1)[..., 8:])


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    for freeze in (True, False):
        vision = build_vision(replace(VISION["cnn"], freeze_batch_norm=freeze)).train()
        before = {name: value.clone() for name, value in vision.named_buffers()}
        vision(noise(2, (64, 96)))
        changed = [n for n, value in vision.named_buffers() if not torch.equal(value, before[n])]
        assert bool(changed) is not freeze


def test_a_frozen_stem_does_not_change_the_features() -> None:
    """Its output may be computed before the forward pass; it is in evaluation mode and not trained."""
    torch.manual_seed(0)
    config = VisionConfig("tf_efficientnet_lite0", (64, 96), freeze_batch_norm=True)
    whole = build_vision(config).double()
    split = build_vision(replace(config, frozen_stem_blocks=4)).double().train()
    with torch.no_grad():
        for own, value in zip(
            split.tower().state_dict().values(), whole.model.state_dict().values(), strict=True
        ):
            own.copy_(value)
        split.norm.load_state_dict(whole.norm.state_dict())
    whole.eval()
    images = noise(2, (64, 96))
    expected = whole(images)
    assert isinstance(split, GridEncoder) and split.stem is not None and not split.stem.training
    during = split.eval()(images)
    torch.testing.assert_close(during.tokens_BPD, expected.tokens_BPD)
    cached = split.stem(split.normalize(images).contiguous(memory_format=torch.channels_last))
    before = split(Images(cached, stem_applied=True))
    torch.testing.assert_close(before.tokens_BPD, expected.tokens_BPD)
    assert before.grid_hw == expected.grid_hw
    assert not any(parameter.requires_grad for parameter in split.stem.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10d", {}, "timm has no model 'resnet10d'; near are resnet1"),
        ("zzzzz", {}, "timm has no model 'zzzzz'; near are none"),
        (
            "vit_tiny_patch16_224",
            {"reg_tokens": 4, "depth": 4, "embed_dim": 12},
            "has 5 tokens before its patches",
        ),
        ("vit_tiny_patch16_224", {"depth": 3, "embed_dim": 12}, "local_depth is 4; .* has 3 blocks"),
        (
            "beit_base_patch16_224",
            {"depth": 4, "embed_dim": 24},
            "is a Beit; .* only VisionTransformer is known",
        ),
    ],
)
def test_unsuitable_models_are_named(name: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_vision(VisionConfig(name, (32, 32), options))


def test_a_model_without_a_map_is_named() -> None:
    vision = build_vision(VisionConfig("mixer_s32_224", (224, 224)))
    with pytest.raises(ValueError, match=r"mixer_s32_224 gives features \(1, 49, 512\)"):
        vision(noise(1, (224, 224)))


@pytest.mark.parametrize("blocks", [16, 20])
def test_a_stem_leaves_at_least_one_block(blocks: int) -> None:
    with pytest.raises(ValueError, match="has 16 blocks"):
        build_vision(VisionConfig("tf_efficientnet_lite0", (32, 32), frozen_stem_blocks=blocks))
    with pytest.raises(ValueError, match="is no EfficientNet"):
        build_vision(replace(VISION["cnn"], frozen_stem_blocks=1))


@pytest.mark.parametrize("setting", [{"frozen_stem_blocks": 1}, {"patch_dropout": 0.1}])
def test_settings_for_another_kind_are_errors(setting: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=f"is a ViT; {next(iter(setting))} is for encoders with a feature map"
    ):
        build_vision(replace(VISION["vit"], **setting))


def test_no_concept_is_without_a_patch() -> None:
    """A box thinner than a patch has at least one."""
    vision, features = encoded("cnn")
    boxes: list[list[float] | None] = [
        [x / 20, y / 20, x / 20 + 1e-4, y / 20 + 1e-4] for x in range(20) for y in range(20)
    ]
    tokens, cls_CD = vision.concepts(features, concepts_of([0] * 400, boxes))
    touched: Tensor = tokens.mask_CP[:400].sum(1)
    assert touched.min() == 1 and touched.max() <= 4
    assert cls_CD.isfinite().all()


@pytest.mark.parametrize(
    ("image_hw", "window"),
    [((224, 224), (7, 7)), ((384, 384), (12, 12)), ((480, 480), (15, 15)), ((224, 448), (7, 14))],
)
def test_a_swins_window_follows_the_image_in_every_version_of_timm(
    image_hw: tuple[int, int], window: tuple[int, int]
) -> None:
    options = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    config = VisionConfig("swin_tiny_patch4_window7_224", image_hw, options)
    assert build_vision(config).model.layers[0].blocks[0].window_size == window


def test_a_small_swins_window_is_not_an_eighth_of_the_grid() -> None:
    """timm up to 1.0.30 chose an eighth, (2, 3): models had other position tables than with 1.0.31."""
    assert build_vision(VISION["swin"]).model.layers[0].blocks[0].window_size == (1, 1)
