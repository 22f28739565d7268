"""Settings that exclude each other or have no effect are errors, most of them before a file is opened."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TEXT, VISION, tiny_run, write_photos
from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.common.ranges import validate
from xvlm.config import OptimConfig, Run, resolve_steps
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.build import build_vision
from xvlm.models.xvlm import ModelConfig
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.checks import check_positions
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.entailment import EntailmentRun
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun
from xvlm.tasks.self_critical import SelfCriticalRun
from xvlm.tasks.vqa import VQARun
from xvlm.training.train import train

SOURCE = (SourceConfig("none.jsonl"),)


def pretrain(**fields: Any) -> PretrainRun:
    return PretrainRun(data=DataConfig(pairs=SOURCE, regions=SOURCE), **fields)


def heads(*names: str, **more: Any) -> ModelConfig:
    return ModelConfig(heads=names, **more)


def text(**sizes: int) -> ModelConfig:
    return ModelConfig(text=dataclasses.replace(TEXT, **sizes))


EVEN = "it must be a multiple of 1 ranks x"
CONFLICTS: list[tuple[Run, str]] = [
    (pretrain(model=text(heads=5)), "model.text.heads is 5; it must divide width, 32"),
    (
        pretrain(model=text(first_position=48)),
        "model.text.first_position is 48; it must be below max_positions, 48",
    ),
    (
        pretrain(model=heads("pair_classifier", "box")),
        "model.heads is ('pair_classifier', 'box'); pair_classifier need a",
    ),
    (pretrain(model=heads("matching", "box")), "losses.itc is 1.0, which needs 'contrastive' in model.heads"),
    (pretrain(model=heads("contrastive", "box")), "losses.itm is 1.0, which needs 'matching' in model.heads"),
    (pretrain(model=heads("contrastive", "matching", "box")), "losses.mlm is 1.0, which needs 'mlm'"),
    (pretrain(model=heads("contrastive", "matching", "mlm")), "losses.bbox is 1.0, which needs 'box'"),
    (GroundingRun(model=heads("matching"), data=DataConfig(regions=SOURCE)), "losses.bbox is 1.0, which"),
    (
        PretrainRun(data=DataConfig(SOURCE, cached_views=3)),
        "data.cached_views is 3; it must be an even number",
    ),
    (
        pretrain(accumulation_steps=48),
        f"data.pairs_batch_size is 64; {EVEN} 48 micro-batches (accumulation_steps)",
    ),
    (
        PretrainRun(data=DataConfig(SOURCE, SOURCE, 8, 8, region_step_ratio=0.3), accumulation_steps=4),
        f"data.regions_batch_size x data.region_step_ratio is 2; {EVEN} 4 micro-batches",
    ),
    (
        PretrainRun(data=DataConfig(SOURCE, SOURCE, region_step_ratio=1.5), faithful=True),
        "data.region_step_ratio is 1.5; in faithful mode it must be at most 1",
    ),
    (
        PretrainRun(
            data=DataConfig(SOURCE, SOURCE, region_texts_per_batch=1), faithful=True, accumulation_steps=2
        ),
        "data.region_texts_per_batch is 1; it must be 0 or at least 2",
    ),
    (
        VQARun(model=heads("caption_decoder")),
        "model.heads is ('caption_decoder',); vqa trains vqa_decoder too",
    ),
    (
        VQARun(data=FinetuneData(batch_size=10), accumulation_steps=4),
        f"data.batch_size is 10; {EVEN} 4 micro-batches",
    ),
    (
        EntailmentRun(model=heads("classifier", labels=("yes",))),
        "model.labels is ('yes',); it must name at least two, each once",
    ),
    (
        SelfCriticalRun(baseline="others", num_samples=1),
        "num_samples is 1; with baseline 'others' it must be at least",
    ),
    (SelfCriticalRun(min_tokens=9, max_tokens=8), "max_tokens is 8; it must be 9 or more, as min_tokens"),
]


@pytest.mark.parametrize(("run", "message"), CONFLICTS)
def test_settings_that_exclude_each_other(run: Run, message: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(run)
    assert str(caught.value).startswith(message)


def test_unused_settings_need_not_fit() -> None:
    """Box losses without boxes, and the batch size of a stream without sources, are no conflicts."""
    validate(
        PretrainRun(model=ModelConfig(heads=("contrastive", "matching", "mlm")), data=DataConfig(SOURCE))
    )
    validate(
        PretrainRun(
            data=DataConfig(regions=SOURCE, pairs_batch_size=7, regions_batch_size=16), accumulation_steps=4
        )
    )
    validate(pretrain(model=ModelConfig(heads=("box",)), losses=LossConfig(itc=0, itm=0, mlm=0)))


def test_a_global_batch_is_shared_by_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(
        InputError, match=r"data\.batch_size is 64; it must be a multiple of 3 ranks x 1 micro-batches"
    ):
        validate(CaptioningRun(data=FinetuneData(batch_size=64)))
    validate(CaptioningRun(data=FinetuneData(batch_size=66)))


def test_texts_may_not_be_longer_than_the_position_embeddings(tmp_path: Path) -> None:
    """The model that is built decides, whether its sizes come from the run or from a checkpoint."""
    check_positions(dataclasses.replace(TEXT, first_position=2), 46)
    with pytest.raises(InputError, match=r"data\.max_tokens is 47, but the model has 46 positions"):
        check_positions(dataclasses.replace(TEXT, first_position=2), 47)
    run = tiny_run("cnn", steps=1)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, max_tokens=49))
    with pytest.raises(InputError, match=r"data\.max_tokens is 49, but the model has 48 positions"):
        train(run, tmp_path / "out")


def test_a_prompt_leaves_room_for_a_caption(tmp_path: Path) -> None:
    """Without any there would be no target token, and the loss would be 0 / 0."""
    path = write_photos(tmp_path, 4)
    run = CaptioningRun(
        model=ModelConfig(
            VISION["cnn"],
            dataclasses.replace(TEXT, vocab_size=TextConfig.vocab_size),
            heads=("caption_decoder",),
        ),
        init=InitConfig(vocab_size=200),
        data=FinetuneData((SourceConfig(str(path)),), batch_size=2, max_tokens=3),
        prompt="the red dog",
    )
    with pytest.raises(InputError, match="max_tokens is 3; the prompt, 'the red dog', leaves none"):
        train(run, tmp_path / "out")


def test_best_metric_needs_validation_data(tmp_path: Path) -> None:
    run = dataclasses.replace(tiny_run("cnn", steps=1), best_metric="r_mean")
    with pytest.raises(
        InputError, match="best_metric is 'r_mean', but nothing is measured; name a file in validation"
    ):
        train(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_warmup_longer_than_the_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is no error, for such a run can be trained."""
    run = dataclasses.replace(tiny_run("cnn", steps=1), workers=0)
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, warmup_steps=7))
    _, state = train(run, tmp_path / "out")
    assert state.step == 1
    assert (
        "optim.warmup_steps is 7: with 1 steps, the learning rate never reaches its peak"
        in capsys.readouterr().out
    )


def test_epochs_of_more_than_64_bits_of_steps() -> None:
    with pytest.raises(InputError, match=r"optim\.steps is .* of at most 64 bits"):
        validate(resolve_steps(Run(optim=OptimConfig(epochs=1e30)), 10.0))


@pytest.mark.parametrize("image_hw", [(65, 96), (64, 90), (3, 3), (8, 8)])
@pytest.mark.parametrize("kind", VISION)
def test_image_sizes_are_multiples_of_the_stride(kind: str, image_hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"image_hw is .* must be multiples of (16|32), the stride of "):
        build_vision(dataclasses.replace(VISION[kind], image_hw=image_hw))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vit", {"num_heads": 5}),
        ("swin", {"nope": 1}),
        ("swin", {"embed_dim": "x"}),
        ("swin", {"embed_dim": 0}),
        ("swin", {"embed_dim": -8}),
        ("swin", {"depths": []}),
        ("swin", {"depths": {"a": 1}}),
        ("swin", {"window_size": [[1]]}),
        ("cnn", {"channels": [8, [8], 16, 24]}),
        ("cnn", {"channels": "x"}),
        ("vit", {"depth": [[]]}),
    ],
)
def test_wrong_options_of_a_vision_encoder_are_named(kind: str, options: dict[str, Any]) -> None:
    config = VISION[kind]
    config = dataclasses.replace(config, options={**config.options, **options})
    name = next(iter(options))
    with pytest.raises(InputError, match=rf"({config.name}|vision\.options).*{name}"):
        build_vision(config)
