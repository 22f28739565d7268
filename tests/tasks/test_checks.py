"""A field that has no effect because of another one is an error, and is none once it has an effect."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any

import pytest

from xvlm.common.errors import InputError
from xvlm.common.ranges import validate
from xvlm.models.xvlm import PRETRAINING
from xvlm.tasks.captioning import CaptioningRun
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.pretraining_data import STREAM_FIELDS
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation, ZeroShotValidation
from xvlm.tasks.entailment import EntailmentRun
from xvlm.tasks.grounding import GroundingRun
from xvlm.tasks.pretrain import DataConfig, PretrainRun
from xvlm.tasks.retrieval import RetrievalRun
from xvlm.tasks.vqa import VQARun
from xvlm.tasks.weak_grounding import WeakGroundingRun

SOURCE = (SourceConfig("none.jsonl"),)
PRETRAIN = PretrainRun(data=DataConfig(SOURCE, SOURCE))
PAIRS = PretrainRun(data=DataConfig(pairs=SOURCE))
REGIONS = PretrainRun(data=DataConfig(regions=SOURCE))
GROUNDING = replace(GroundingRun(), data=replace(GroundingRun().data, regions=SOURCE))
VQA = VQARun(data=FinetuneData(SOURCE))


def with_fields(run: Any, fields: dict[str, Any]) -> Any:
    """Return the run with other values of fields, by their dotted names."""
    for name, value in fields.items():
        first, _, rest = name.partition(".")
        inner = getattr(run, first)
        run = replace(run, **{first: with_fields(inner, {rest: value}) if is_dataclass(inner) else value})
    return run


ROWS: list[tuple[Any, str, Any, dict[str, Any], str, dict[str, Any]]] = [
    (PRETRAIN, "data.region_texts_per_batch", 64, {}, "unless faithful", {"faithful": True}),
    (GROUNDING, "published_mirror", "always", {}, "unless faithful", {"faithful": True}),
    *(
        (run, "data.crop_scale", (0.1, 0.9), {"data.random_crop": False}, reason, {"data.random_crop": True})
        for run in (PRETRAIN, VQA)
        for reason in ["if data.random_crop is False"]
    ),
    *(
        (PRETRAIN, name, value, {}, "if data.cached_views is 0", {"data.cached_views": 2})
        for name, value in (("data.cached_crop_scale", (0.1, 0.9)), ("data.feature_cache", "folder"))
    ),
    *(
        (PRETRAIN, name, value, {"losses.itm": 0.0}, "if losses.itm is 0", {"losses.itm": 0.5})
        for name, value in (
            ("losses.uniform_negative_ratio", 0.5),
            ("losses.global_negatives", True),
            ("losses.all_pairs", 4),
        )
    ),
    (REGIONS, "losses.phrases", 1.0, {}, "without data.pairs", {"data.pairs": SOURCE}),
    (
        REGIONS,
        "data.absent_texts",
        2,
        {},
        "if losses.detection is 0",
        {"losses.detection": 1.0, "model.heads": (*PRETRAINING, "detection")},
    ),
    (
        PRETRAIN,
        "model.labels",
        ("yes", "no"),
        {},
        "without a head of labels",
        {"model.heads": ("contrastive", "matching", "box", "mlm", "classifier")},
    ),
    *(
        (REGIONS, f"data.{name}", value, {}, "without data.pairs", {"data.pairs": SOURCE})
        for name, value in (("captions_per_image", 2), ("boxes_as_captions", True))
    ),
    *(
        (PAIRS, f"data.{name}", value, {}, "without data.regions", {"data.regions": SOURCE})
        for name, value in (("max_regions", 7), ("texts_per_region", 2), ("region_captions", False))
    ),
    *(
        (PRETRAIN, name, value, {}, "without validation.retrieval", {"validation.retrieval": "a.json"})
        for name, value in (("validation.rerank_top_k", 3), ("validation.rerank", "matching"))
    ),
    (
        PRETRAIN,
        "validation.detections",
        "boxes.json",
        {},
        "without validation.grounding",
        {"validation.grounding": "a.json"},
    ),
    (VQA, "validation.answers", "a.json", {}, "without validation.data", {"validation.data": "b.json"}),
]
"""Run, field, value, what makes the field ineffective, the reason in the message, what gives it an effect."""


@pytest.mark.parametrize(("run", "name", "value", "cause", "reason", "effect"), ROWS)
def test_a_field_without_effect_is_an_error(
    run: Any, name: str, value: Any, cause: dict[str, Any], reason: str, effect: dict[str, Any]
) -> None:
    validate(with_fields(run, cause))
    with pytest.raises(InputError) as caught:
        validate(with_fields(run, {**cause, name: value}))
    assert str(caught.value) == f"{name} is {value!r}, which has no effect {reason}; leave it out"
    validate(with_fields(run, {**cause, **effect, name: value}))


def test_every_field_of_a_stream_is_in_a_row() -> None:
    names = {f"data.{name}" for several in STREAM_FIELDS.values() for name in several}
    assert names <= {row[1] for row in ROWS}


@pytest.mark.parametrize("kind", [RetrievalRun, WeakGroundingRun, GroundingRun, EntailmentRun, CaptioningRun])
def test_defaults_of_a_task_are_no_errors(kind: type) -> None:
    """Neither those of the run's type, nor those of the dataclass of a section."""
    run = kind()
    validate(run)
    data: Any = type(run.data)()
    streams = {name: SOURCE for name in ("pairs", "regions", "train") if hasattr(data, name)}
    for name in streams:
        validate(replace(run, data=replace(run.data, **{name: SOURCE})))
    validate(replace(run, data=replace(run.data, **streams)))


def test_validation_is_shared_by_all_its_fields() -> None:
    both = ZeroShotValidation("a.json", "b.json", rerank_top_k=3, detections="c.json")
    validate(replace(PRETRAIN, validation=both))
    validate(replace(VQA, validation=TaskValidation("a.json", answers="b.json")))
