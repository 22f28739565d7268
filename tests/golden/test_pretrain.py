"""Every intermediate tensor, loss and gradient of pre-training equals that of the published model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.golden import batches, files
from tests.golden.files import assert_same
from xvlm.batch import Concepts
from xvlm.boxes import patches_touched
from xvlm.config import OptimConfig
from xvlm.models.checkpoints.published_names import published_name
from xvlm.models.xvlm import XVLM
from xvlm.tasks import pretrain
from xvlm.tasks.common.pretraining_batch import PretrainBatch
from xvlm.tasks.pretrain import LossConfig, Pretrain
from xvlm.training.optimizer import build_optimizer

NAMES = files.pretraining()
PARTS = {"image": batches.image_batch, "region": batches.region_batch}
LOSSES = {
    "image": {"itc": "itc", "itm": "itm", "mlm": "mlm"},
    "region": {"region_itc": "itc", "region_itm": "itm", "region_mlm": "mlm", "bbox": "bbox", "giou": "giou"},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_every_tensor_of_the_image_batch(name: str, dtype: torch.dtype, relative: float) -> None:
    model, inputs, published = files.case(name, name, dtype)
    batch = batches.image_batch(inputs, dtype)
    mask_NL = inputs["text_atts"]
    texts = model.encode_texts(files.packed(inputs["text_ids"], mask_NL))
    concepts, cls_CD = model.encode_concepts(model.encode_images(batch.images), Concepts.none("cpu"))
    rows = torch.arange(len(cls_CD))
    fused = model.fuse(texts, rows, concepts, rows)
    actual = {
        "image_embeds": with_summary(cls_CD, concepts.tokens_SPD, concepts.mean_summary),
        "text_embeds": texts.states_TD,
        "image_feat": model.contrastive.embed_concepts(cls_CD),
        "text_feat": model.contrastive.embed_texts(texts.cls_ND),
        "cross_embeds": fused.states_TD,
        "itm_logits": model.match(fused.cls_RD),
        "bbox_full": model.predict_box(fused.cls_RD, concepts, rows),
    }
    for key, value in actual.items():
        expected = published[key]
        if expected.shape[:2] == mask_NL.shape and key.endswith("embeds") and key != "image_embeds":
            expected = files.unpadded(expected, mask_NL)
        assert_same(value, expected, key, relative)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_region_batch(name: str) -> None:
    model, inputs, published = files.case(name, name)
    batch = batches.region_batch(inputs)
    features = model.encode_images(batch.images)
    mask_NP = patches_touched(batch.concepts.box_xyxy_N4, features.grid_hw)
    assert torch.equal(mask_NP, inputs["region_image_atts"][:, 1:].bool())
    concepts, cls_CD = model.encode_concepts(features, batch.concepts)
    rows = len(batch.concepts)
    tokens_CPD = concepts.tokens_SPD.index_select(0, concepts.set_C)
    embeds = with_summary(cls_CD, tokens_CPD, concepts.mean_summary)
    assert_same(embeds[:rows], published["region_embeds"], "region_embeds")
    whole_N = rows + batch.concepts.image_N
    assert_same(embeds[whole_N], published["region_embeds_full"], "region_embeds_full")
    texts = model.encode_texts(files.packed(inputs["region_text_ids"], inputs["region_text_atts"]))
    fused = model.fuse(texts, torch.arange(rows), concepts, whole_N)
    predicted = model.predict_box(fused.cls_RD, concepts, whole_N)
    assert_same(predicted, published["region_pred_cxcywh"], "region_pred_cxcywh")


def with_summary(cls_CD: Tensor, tokens_CPD: Tensor, mean_summary: bool) -> Tensor:
    """Return (C, 1 + P, D): the patches, preceded by the summary token."""
    return torch.cat((cls_CD[:, None], tokens_CPD), dim=1) if mean_summary else tokens_CPD


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("faithful", [False, True])
def test_losses_and_gradients(name: str, part: str, faithful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, published = files.tensors(f"{name}_inputs"), files.tensors(f"{name}_outputs")
    negatives = (published[f"{part}_neg_{kind}_idx"] for kind in ("image", "text"))
    monkeypatch.setattr(pretrain, "sample_negatives", batches.published_negatives(*negatives))
    model = files.model(name)
    losses = Pretrain(model, LossConfig(), faithful)(PARTS[part](inputs))
    assert set(losses) == set(LOSSES[part])
    for ours, theirs in LOSSES[part].items():
        assert_same(losses[ours], published[f"{part}_loss_{theirs}"], ours)
    sum(losses.values()).backward()
    expected = files.rows(f"{name}_{part}_gradnorms.json")
    actual = gradient_norms(model)
    assert actual.keys() == expected.keys()
    for key, norm in expected.items():
        assert (actual[key] is None) == (norm is None), key
        if norm is not None:
            # The gradient of the bias of keys is only rounding, since softmax is invariant to it.
            assert actual[key] == pytest.approx(norm, rel=1e-6, abs=1e-10), key


def gradient_norms(model: XVLM) -> dict[str, float | None]:
    """Return the norm of each parameter's gradient under the published keys."""
    norms: dict[str, float | None] = {}
    for ours, parameter in model.named_parameters():
        names = published_name(model, ours).names
        parts = [None] * len(names) if parameter.grad is None else parameter.grad.reshape(len(names), -1)
        for key, gradient in zip(names, parts, strict=True):
            norms[key] = None if gradient is None else float(gradient.norm())
    return norms


def test_eight_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    published = files.rows("trajectory.json")
    groups = files.rows("trajectory_param_groups.json")
    monkeypatch.setattr(pretrain, "sample_negatives", batches.hardest_negatives)
    model, inputs = files.model("swin224"), files.tensors("swin224_inputs")
    task = Pretrain(model, LossConfig(), faithful=True)
    settings = published["optimizer"]
    config = OptimConfig(
        steps=len(published["steps"]),
        lr=1.0,
        new_lr_multiplier=2.0,
        warmup_steps=0,
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    pretrained = {
        name
        for name, _ in model.named_parameters()
        if all(groups[key]["lr_mult"] == 1 for key in published_name(model, name).names)
    }
    optimizer = build_optimizer(model, config, pretrained, faithful=True)
    for step in published["steps"]:
        for group in optimizer.param_groups:
            group["lr"] = step["lr"] * group["multiplier"]
        batch: PretrainBatch = PARTS[step["batch"]](inputs)
        losses = task(batch)
        sum(losses.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        actual = [float(losses[ours]) for ours in LOSSES[step["batch"]]]
        assert actual == pytest.approx(step["losses"], rel=1e-6), step["step"]
        assert float(norm) == pytest.approx(step["grad_norm"], rel=1e-6), step["step"]
