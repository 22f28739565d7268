"""Which parameter learns how fast, what decays, and how the rate goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.published import golden
from tests.tiny import tiny_config, tiny_model
from xvlm.model.xvlm import build_model
from xvlm.run import OptimConfig
from xvlm.train.optim import build_optimizer, rate, set_rate

CONFIG = OptimConfig(
    lr=1.0, new_multiplier=2.0, vision_multiplier=0.5, text_multiplier=0.25, weight_decay=0.1
)


def groups(loaded: set[str], faithful: bool = False) -> dict[str, tuple[float, float]]:
    """(multiplier, weight decay) of each parameter."""
    optimizer = build_optimizer(tiny_model("cnn"), CONFIG, loaded, faithful)
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


def test_what_no_checkpoint_gave_learns_faster() -> None:
    given = {"vision.model.conv1.0.weight", "text.embedding.token.weight"}
    found = groups(given)
    assert found["vision.model.conv1.0.weight"][0] == 0.5
    assert found["text.embedding.token.weight"][0] == 0.25
    assert {m for name, (m, _) in found.items() if name not in given} == {2.0}


def test_what_writes_may_learn_faster_than_what_reads() -> None:
    model = build_model(replace(tiny_config("cnn"), parts=("answers",)))
    config = replace(CONFIG, decoder_multiplier=4.0)
    optimizer = build_optimizer(model, config, [name for name, _ in model.named_parameters()])
    rates = {name: group["multiplier"] for group in optimizer.param_groups for name in group["names"]}
    assert {rate for name, rate in rates.items() if name.startswith("answers.")} == {4.0}
    assert {rate for name, rate in rates.items() if name.startswith("fusion.")} == {1.0}
    assert {rate for name, rate in rates.items() if name.startswith("vision.")} == {0.5}


def test_from_nothing_nothing_is_special() -> None:
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
    """The published grouping asks for "bias" or a norm in the name, which a relative table has."""
    for kind, name, decay in (
        ("vit", "vision.model.pos_embed", 0.1),
        ("vit", "vision.model.cls_token", 0.1),
        ("swin", "vision.model.layers.0.blocks.0.attn.relative_position_bias_table", 0.0),
    ):
        optimizer = build_optimizer(tiny_model(kind), CONFIG, (), faithful=True)
        found = {one: group["weight_decay"] for group in optimizer.param_groups for one in group["names"]}
        assert found[name] == decay, name


def test_faithful_warm_up_begins_at_nothing() -> None:
    """Published: step / W while it rises, then as here; the first update changes no weight."""
    config = OptimConfig(steps=8, warmup=4)
    shares = [rate(config, step, faithful=True) for step in range(8)]
    assert shares == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25])
    model = tiny_model("cnn")
    optimizer = build_optimizer(model, config, ())
    before = [p.clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert set_rate(optimizer, config, 0, faithful=True) == 0.0
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
    config = OptimConfig(steps=8, warmup=4, schedule=schedule)
    assert [rate(config, step) for step in range(len(shares))] == pytest.approx(shares, rel=1e-5)
    with_floor = OptimConfig(steps=8, warmup=4, schedule=schedule, final_lr=0.1)
    assert rate(with_floor, 8) == pytest.approx(0.1)
    assert rate(OptimConfig(steps=3, warmup=10), 2) == pytest.approx(0.3)


def test_groups_follow_the_rate() -> None:
    optimizer = build_optimizer(tiny_model("cnn"), CONFIG, {"text.embedding.token.weight"})
    base = set_rate(optimizer, CONFIG, 49)
    assert base == pytest.approx(0.5)
    assert {group["lr"] / group["multiplier"] for group in optimizer.param_groups} == {base}


PUBLISHED = {  # published name -> ours
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
    "text_encoder.cls.predictions.bias": "masked.bias",
    "text_encoder.cls.predictions.transform.dense.weight": "masked.transform.weight",
    "text_encoder.cls.predictions.transform.LayerNorm.weight": "masked.norm.weight",
}


def test_faithful_groups_are_the_published_ones() -> None:
    """Multiplier and decay of a parameter of each sort, as an optimiser of the published code had them."""
    published = golden("trajectory_param_groups.json")
    assert set(PUBLISHED) <= set(published)
    model = tiny_model("swin")
    new = ("contrastive.", "matching.", "box.")
    loaded = {n for n, _ in model.named_parameters() if not n.startswith(new) and ".cross" not in n}
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.01), loaded, faithful=True)
    ours = {
        name: {"weight_decay": group["weight_decay"], "lr_mult": group["multiplier"]}
        for group in optimizer.param_groups
        for name in group["names"]
    }
    assert {theirs: ours[own] for theirs, own in PUBLISHED.items()} == {n: published[n] for n in PUBLISHED}
