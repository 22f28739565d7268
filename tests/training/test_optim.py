"""Parameter groups, weight decay and the learning-rate schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.published import golden
from tests.tiny import tiny_config, tiny_model
from xvlm.config import OptimConfig
from xvlm.models.xvlm import build_model
from xvlm.training.optimizer import build_optimizer, gradient_norm, lr_factor, set_learning_rate, step_clipped

CONFIG = OptimConfig(
    lr=1.0, new_lr_multiplier=2.0, vision_lr_multiplier=0.5, text_lr_multiplier=0.25, weight_decay=0.1
)


def groups(pretrained: set[str], faithful: bool = False) -> dict[str, tuple[float, float]]:
    """Return learning-rate multiplier and weight decay of each parameter."""
    optimizer = build_optimizer(tiny_model("cnn"), CONFIG, pretrained, faithful)
    return {
        name: (group["multiplier"], group["weight_decay"])
        for group in optimizer.param_groups
        for name in group["names"]
    }


def test_every_trainable_parameter_is_in_one_group() -> None:
    model = tiny_model("cnn")
    model.matching.requires_grad_(False)
    optimizer = build_optimizer(model, CONFIG, ())
    names = [name for group in optimizer.param_groups for name in group["names"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert not any(name.startswith("matching.") for name in names)


def test_new_parameters_learn_faster() -> None:
    pretrained = {"vision.model.conv1.0.weight", "text.embedding.token.weight"}
    found = groups(pretrained)
    assert found["vision.model.conv1.0.weight"][0] == 0.5
    assert found["text.embedding.token.weight"][0] == 0.25
    assert {m for name, (m, _) in found.items() if name not in pretrained} == {2.0}


def test_decoders_may_learn_faster_than_encoders() -> None:
    model = build_model(replace(tiny_config("cnn"), heads=("vqa_decoder",)))
    config = replace(CONFIG, decoder_lr_multiplier=4.0)
    optimizer = build_optimizer(model, config, [name for name, _ in model.named_parameters()])
    rates = {name: group["multiplier"] for group in optimizer.param_groups for name in group["names"]}
    assert {rate for name, rate in rates.items() if name.startswith("vqa_decoder.")} == {4.0}
    assert {rate for name, rate in rates.items() if name.startswith("fusion.")} == {1.0}
    assert {rate for name, rate in rates.items() if name.startswith("vision.")} == {0.5}


def test_multiplier_0_freezes_pretrained_parameters() -> None:
    """A frozen parameter is in no group and has no gradient; a new one of the same encoder is trained."""
    model = tiny_model()
    names = {name for name, _ in model.named_parameters()}
    new = {"text.embedding.position.weight"}
    assert new < names
    config = replace(CONFIG, vision_lr_multiplier=0.0, text_lr_multiplier=0.0)
    optimizer = build_optimizer(model, config, names - new)
    trained = {name for group in optimizer.param_groups for name in group["names"]}
    encoders = {name for name in names if name.startswith(("vision.", "text."))}
    assert trained == (names - encoders) | new
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained


def test_without_pretrained_parameters_all_multipliers_are_1() -> None:
    assert {multiplier for multiplier, _ in groups(set()).values()} == {1.0}


def test_only_matrices_decay() -> None:
    model = dict(tiny_model("cnn").named_parameters())
    for name, (_, decay) in groups(set()).items():
        assert decay == (0.1 if model[name].ndim > 1 else 0.0), name


@pytest.mark.parametrize("kind", ["swin", "vit"])
def test_position_tables_do_not_decay(kind: str) -> None:
    optimizer = build_optimizer(tiny_model(kind), CONFIG, ())
    still = {name for group in optimizer.param_groups if not group["weight_decay"] for name in group["names"]}
    tables = [n for n, _ in tiny_model(kind).named_parameters() if "position_bias" in n or "pos_embed" in n]
    assert tables and set(tables) <= still


def test_faithful_decays_the_temperature() -> None:
    found = groups(set(), faithful=True)
    assert found["contrastive.temperature"][1] == 0.1
    assert found["contrastive.text.bias"][1] == 0.0
    assert found["text.embedding.norm.weight"][1] == 0.0
    assert found["matching.1.weight"][1] == 0.1  # the LayerNorm of a head, as published


def test_faithful_decays_the_positions_of_a_vit_and_no_relative_table() -> None:
    """The published grouping looks for "bias" or "norm" in the name; a relative table's name has "bias"."""
    for kind, name, decay in (
        ("vit", "vision.model.pos_embed", 0.1),
        ("vit", "vision.model.cls_token", 0.1),
        ("swin", "vision.model.layers.0.blocks.0.attn.relative_position_bias_table", 0.0),
    ):
        optimizer = build_optimizer(tiny_model(kind), CONFIG, (), faithful=True)
        found = {one: group["weight_decay"] for group in optimizer.param_groups for one in group["names"]}
        assert found[name] == decay, name


def test_faithful_warm_up_begins_at_0() -> None:
    """Published: step / W during the warm-up of W steps, so the first update changes no weight."""
    config = OptimConfig(steps=8, warmup_steps=4)
    shares = [lr_factor(config, step, faithful=True) for step in range(8)]
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25])
    model = tiny_model("cnn")
    optimizer = build_optimizer(model, config, ())
    before = [p.clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert set_learning_rate(optimizer, config, 0, faithful=True) == 0.0
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.853553, 0.5]),
    ],
)
def test_the_rate_rises_and_falls(schedule: str, shares: list[float]) -> None:
    config = OptimConfig(steps=8, warmup_steps=4, schedule=schedule)
    assert [lr_factor(config, step) for step in range(len(shares))] == pytest.approx(shares, rel=1e-5)
    with_floor = OptimConfig(steps=8, warmup_steps=4, schedule=schedule, final_lr_ratio=0.1)
    assert lr_factor(with_floor, 8) == pytest.approx(0.1)
    assert lr_factor(OptimConfig(steps=3, warmup_steps=10), 2) == pytest.approx(0.3)


def test_all_groups_follow_the_schedule() -> None:
    optimizer = build_optimizer(tiny_model("cnn"), CONFIG, {"text.embedding.token.weight"})
    base = set_learning_rate(optimizer, CONFIG, 49)
    assert base == pytest.approx(0.5)
    assert {group["lr"] / group["multiplier"] for group in optimizer.param_groups} == {base}


PUBLISHED = {  # published name -> our name
    "temp": "contrastive.temperature",
    "vision_proj.weight": "contrastive.vision.weight",
    "itm_head.0.weight": "matching.0.weight",
    "itm_head.1.weight": "matching.1.weight",
    "itm_head.1.bias": "matching.1.bias",
    "bbox_head.1.weight": "box.1.weight",
    "bbox_head.3.bias": "box.3.bias",
    "vision_encoder.patch_embed.proj.weight": "vision.model.patch_embed.proj.weight",
    "vision_encoder.layers.0.blocks.0.attn.relative_position_bias_table": (
        "vision.model.layers.0.blocks.0.attn.relative_position_bias_table"
    ),
    "vision_encoder.layers.0.blocks.0.norm1.weight": "vision.model.layers.0.blocks.0.norm1.weight",
    "vision_encoder.norm.weight": "vision.model.norm.weight",
    "text_encoder.bert.embeddings.LayerNorm.weight": "text.embedding.norm.weight",
    "text_encoder.bert.encoder.layer.0.output.dense.weight": "text.layers.0.mlp.down.weight",
    "text_encoder.bert.encoder.layer.0.output.LayerNorm.weight": "text.layers.0.mlp_norm.weight",
    "text_encoder.bert.encoder.layer.2.crossattention.self.key.weight": "fusion.layers.0.cross.kv.weight",
    "text_encoder.bert.encoder.layer.3.crossattention.output.LayerNorm.bias": (
        "fusion.layers.1.cross_norm.bias"
    ),
    "text_encoder.cls.predictions.bias": "mlm.bias",
    "text_encoder.cls.predictions.transform.dense.weight": "mlm.transform.weight",
    "text_encoder.cls.predictions.transform.LayerNorm.weight": "mlm.norm.weight",
}


def test_faithful_groups_are_the_published_ones() -> None:
    """Multiplier and decay of a parameter of each kind equal those in the published code."""
    published = golden("trajectory_param_groups.json")
    assert set(PUBLISHED) <= set(published)
    model = tiny_model("swin")
    new = ("contrastive.", "matching.", "box.")
    pretrained = {n for n, _ in model.named_parameters() if not n.startswith(new) and ".cross" not in n}
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.01), pretrained, faithful=True)
    ours = {
        name: {"weight_decay": group["weight_decay"], "lr_mult": group["multiplier"]}
        for group in optimizer.param_groups
        for name in group["names"]
    }
    assert {name: ours[own] for name, own in PUBLISHED.items()} == {n: published[n] for n in PUBLISHED}


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_nothing(max_norm: float) -> None:
    """Neither weights, nor moments, nor the number of steps."""
    layer = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(layer, OptimConfig(lr=0.1), ())

    def step(scale: float) -> list[torch.Tensor]:
        (layer(torch.ones(1, 3)).sum() * scale).backward()
        norm = gradient_norm(optimizer)
        step_clipped(optimizer, norm, max_norm, norm.isfinite())
        optimizer.zero_grad()
        state = [value.clone() for one in optimizer.state.values() for value in one.values()]
        return [*(p.detach().clone() for p in layer.parameters()), *state]

    first, broken, third = step(1.0), step(float("nan")), step(1.0)
    assert all(torch.equal(one, other) for one, other in zip(first, broken, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(broken, third, strict=True) if one.ndim > 1)
