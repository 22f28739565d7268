"""Settings that do not fit together are refused before the first step, most before anything is opened."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TEXT, VISION, tiny_run, write_photos
from xvlm import dist
from xvlm.errors import InputError
from xvlm.model.vision import build_vision
from xvlm.model.xvlm import ModelConfig, Part
from xvlm.ranges import validate
from xvlm.run import OptimConfig, Run, in_steps
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._conflicts import check_positions
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.entailment import EntailmentRun
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun
from xvlm.tasks.self_critical import SelfCriticalRun
from xvlm.tasks.vqa import VQARun
from xvlm.train.start import train

SOURCE = (SourceConfig("none.jsonl"),)


def pretrain(**fields: Any) -> PretrainRun:
    return PretrainRun(data=DataConfig(pairs=SOURCE, regions=SOURCE), **fields)


def heads(*parts: Part, **more: Any) -> ModelConfig:
    return ModelConfig(parts=parts, **more)


def text(**sizes: int) -> ModelConfig:
    return ModelConfig(text=dataclasses.replace(TEXT, **sizes))


EVEN = "it must be a multiple of 1 ranks x"
CONFLICTS: list[tuple[Run, str]] = [
    (pretrain(model=text(heads=5)), "model.text.heads is 5; it must divide width, 32"),
    (pretrain(model=text(first_position=48)), "model.text.first_position is 48; 48 positions reach no text"),
    (pretrain(model=heads("pairs", "box")), "model.parts is ('pairs', 'box'); a cross-modal"),
    (pretrain(model=heads("matching", "box")), "losses.itc is 1.0, which needs 'contrastive' in model.parts"),
    (pretrain(model=heads("contrastive", "box")), "losses.itm is 1.0, which needs 'matching' in model.parts"),
    (pretrain(model=heads("contrastive", "matching", "box")), "losses.mlm is 1.0, which needs 'masked'"),
    (pretrain(model=heads("contrastive", "matching", "masked")), "losses.bbox is 1.0, which needs 'box'"),
    (GroundingRun(model=heads("matching"), data=DataConfig(regions=SOURCE)), "losses.bbox is 1.0, which"),
    (PretrainRun(data=DataConfig(SOURCE, stem_views=3)), "data.stem_views is 3; it must be an even number"),
    (pretrain(accumulate=48), f"data.pairs_batch is 64; {EVEN} 48 micro-batches (accumulate)"),
    (
        PretrainRun(data=DataConfig(SOURCE, SOURCE, 8, 8, region_turns=0.3), accumulate=4),
        f"data.regions_batch x data.region_turns is 2; {EVEN} 4 micro-batches",
    ),
    (
        PretrainRun(data=DataConfig(SOURCE, SOURCE, region_turns=1.5), faithful=True),
        "data.region_turns is 1.5; in faithful mode it must be at most 1",
    ),
    (
        PretrainRun(data=DataConfig(SOURCE, SOURCE, region_rows=1), faithful=True, accumulate=2),
        "data.region_rows is 1; it must be 0 or at least 2",
    ),
    (VQARun(model=heads("captions")), "model.parts is ('captions',); vqa trains answers too"),
    (VQARun(data=FinetuneData(batch=10), accumulate=4), f"data.batch is 10; {EVEN} 4 micro-batches"),
    (
        EntailmentRun(model=heads("labels", labels=("yes",))),
        "model.labels is ('yes',); it must name at least two, each once",
    ),
    (
        SelfCriticalRun(baseline="others", samples=1),
        "samples is 1; with baseline 'others' it must be at least",
    ),
    (SelfCriticalRun(min_tokens=9, max_tokens=8), "max_tokens is 8; it must be 9 or more, as min_tokens"),
]


@pytest.mark.parametrize(("run", "said"), CONFLICTS)
def test_what_does_not_fit_together(run: Run, said: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(run)
    assert str(caught.value).startswith(said)


def test_what_is_not_used_need_not_fit() -> None:
    """Box losses without boxes, and batches of a part that the run does not have."""
    validate(
        PretrainRun(model=ModelConfig(parts=("contrastive", "matching", "masked")), data=DataConfig(SOURCE))
    )
    validate(PretrainRun(data=DataConfig(regions=SOURCE, pairs_batch=7, regions_batch=16), accumulate=4))
    validate(pretrain(model=ModelConfig(parts=("box",)), losses=LossConfig(itc=0, itm=0, mlm=0)))


def test_a_global_batch_is_shared_by_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world", lambda: 3)
    with pytest.raises(
        InputError, match=r"data\.batch is 64; it must be a multiple of 3 ranks x 1 micro-batches"
    ):
        validate(CaptioningRun(data=FinetuneData(batch=64)))
    validate(CaptioningRun(data=FinetuneData(batch=66)))


def test_texts_may_not_be_longer_than_the_positions_reach(tmp_path: Path) -> None:
    """Of the model that is built, wherever its sizes came from."""
    check_positions(dataclasses.replace(TEXT, first_position=2), 46)
    with pytest.raises(InputError, match=r"data\.max_tokens is 47; the positions of the model reach 46"):
        check_positions(dataclasses.replace(TEXT, first_position=2), 47)
    run = tiny_run("cnn", steps=1)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, max_tokens=49))
    with pytest.raises(InputError, match=r"data\.max_tokens is 49; the positions of the model reach 48"):
        train(run, tmp_path / "out")


def test_a_prompt_leaves_room_for_a_caption(tmp_path: Path) -> None:
    """Else nothing would be learnt, silently."""
    path = write_photos(tmp_path, 4)
    run = CaptioningRun(
        model=ModelConfig(VISION["cnn"], TEXT, parts=("captions",)),
        init=Init(vocab_size=200),
        data=FinetuneData((SourceConfig(str(path)),), batch=2, max_tokens=3),
        prompt="the red dog",
    )
    with pytest.raises(InputError, match="max_tokens is 3; the prompt, 'the red dog', leaves none"):
        train(run, tmp_path / "out")


def test_a_best_model_needs_something_that_is_measured(tmp_path: Path) -> None:
    run = dataclasses.replace(tiny_run("cnn", steps=1), keep_best="r_mean")
    with pytest.raises(
        InputError, match="keep_best is 'r_mean', but nothing is measured; name a file in dev"
    ):
        train(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_warmup_longer_than_the_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can work, so that it is no error."""
    run = dataclasses.replace(tiny_run("cnn", steps=1), workers=0)
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, warmup=7))
    _, state = train(run, tmp_path / "out")
    assert state.step == 1
    assert "optim.warmup is 7: with 1 steps, lr never reaches its peak" in capsys.readouterr().out


def test_epochs_that_are_more_steps_than_can_be_counted() -> None:
    with pytest.raises(InputError, match=r"optim\.steps is .* of at most 64 bits"):
        validate(in_steps(Run(optim=OptimConfig(epochs=1e30)), 10.0))


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
def test_options_that_a_tower_cannot_take_are_named(kind: str, options: dict[str, Any]) -> None:
    config = VISION[kind]
    config = dataclasses.replace(config, options={**config.options, **options})
    name = next(iter(options))
    with pytest.raises(InputError, match=rf"({config.name}|vision\.options).*{name}"):
        build_vision(config)
