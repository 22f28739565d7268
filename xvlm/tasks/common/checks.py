"""Checks of a run before anything is opened: settings that exclude each other, or have no effect."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from xvlm import distributed
from xvlm.common.errors import InputError
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import find_head
from xvlm.tasks.common.pretraining_data import STREAM_FIELDS


def uneven_batch(name: str, batch_size: int, accumulation_steps: int) -> Iterator[str]:
    """Yield a sentence if ranks and micro-batches cannot share a global batch evenly."""
    if batch_size % (distributed.world_size() * accumulation_steps):
        yield (
            f"{name} is {batch_size}; it must be a multiple of {distributed.world_size()} ranks x "
            f"{accumulation_steps} micro-batches (accumulation_steps)"
        )


def pretraining_conflicts(run: Any) -> Iterator[str]:
    """Yield the conflicts of a `PretrainRun`, whose module imports this one."""
    data, shares = run.data, distributed.world_size() * run.accumulation_steps
    batches = run.batch_sizes()
    if "pairs" in batches:
        yield from uneven_batch("data.pairs_batch_size", batches["pairs"], run.accumulation_steps)
    if "regions" in batches:
        factor = "" if batches["regions"] == data.regions_batch_size else " x data.region_step_ratio"
        name = f"data.regions_batch_size{factor}"
        yield from uneven_batch(name, batches["regions"], run.accumulation_steps)
    if run.faithful and data.pairs and data.region_step_ratio > 1:
        yield f"data.region_step_ratio is {data.region_step_ratio}; in faithful mode it must be at most 1"
    if run.faithful and 0 < data.region_texts_per_batch < shares:
        texts = data.region_texts_per_batch
        yield f"data.region_texts_per_batch is {texts}; it must be 0 or at least {shares}, one a micro-batch"
    if run.faithful and run.losses.all_pairs:
        yield f"losses.all_pairs is {run.losses.all_pairs}; in faithful mode each text has one negative image"
    if data.cached_views % 2:
        yield f"data.cached_views is {data.cached_views}; it must be an even number"
    yield from missing_heads(run.losses, run.model.heads, boxes="regions" in batches)
    yield from unused_fields(run)


def missing_heads(losses: Any, heads: Collection[str], boxes: bool) -> Iterator[str]:
    """Yield a sentence for each loss whose head the model does not have.

    Args:
        losses: a `LossConfig`.
        heads: names of the model's heads.
        boxes: whether the data have boxes; without them there is no box loss.
    """
    needed = [
        ("itc", "contrastive"),
        ("phrases", "contrastive"),
        ("itm", "matching"),
        ("itm", "contrastive"),
        ("mlm", "mlm"),
    ]
    needed += [("bbox", "box"), ("giou", "box"), ("detection", "detection")] if boxes else []
    for loss, head in needed:
        weight = getattr(losses, loss)
        if weight and head not in heads:
            yield f"losses.{loss} is {weight}, which needs {head!r} in model.heads; they are {tuple(heads)}"


def unused_fields(run: Any) -> Iterator[str]:
    """Yield a sentence for each field that is set but has no effect, because of another one.

    A field counts as set if it differs from the default of the run's type, and from that of its dataclass.
    """
    data, defaults = run.data, type(run)()
    unused: list[tuple[str, tuple[str, ...], bool]] = [
        ("unless faithful", ("data.region_texts_per_batch", "published_mirror"), not run.faithful),
        ("if data.random_crop is False", ("data.crop_scale",), not data.random_crop),
        (
            "if data.cached_views is 0",
            ("data.cached_crop_scale", "data.feature_cache"),
            not getattr(data, "cached_views", 1),
        ),
        (
            "if losses.itm is 0",
            ("losses.uniform_negative_ratio", "losses.global_negatives", "losses.all_pairs"),
            not getattr(getattr(run, "losses", None), "itm", 1),
        ),
        ("without data.pairs", ("losses.phrases",), not getattr(data, "pairs", "-")),
        (
            "if losses.detection is 0",
            ("data.absent_texts",),
            not getattr(getattr(run, "losses", None), "detection", 1),
        ),
        (
            "without a head of labels",
            ("model.labels",),
            not any(find_head(name).uses_labels for name in run.model.heads),
        ),
        *(
            (
                f"without data.{stream}",
                tuple(f"data.{name}" for name in names),
                not getattr(data, stream, "-"),
            )
            for stream, names in STREAM_FIELDS.items()
            if any(getattr(data, other, ()) for other in STREAM_FIELDS)
        ),
        (
            "without validation.retrieval",
            ("validation.rerank_top_k", "validation.rerank"),
            not getattr(run.validation, "retrieval", "-"),
        ),
        (
            "without validation.grounding",
            ("validation.detections",),
            not getattr(run.validation, "grounding", "-"),
        ),
        ("without validation.data", ("validation.answers",), not getattr(run.validation, "data", "-")),
    ]
    for reason, names, has_no_effect in unused:
        for name in names if has_no_effect else ():
            value = _field(run, name)
            if value not in (_field(defaults, name), _own_default(run, name)):
                yield f"{name} is {value!r}, which has no effect {reason}; leave it out"


def _own_default(run: Any, name: str) -> Any:
    tree, _, field = name.rpartition(".")
    return getattr(type(_field(run, tree) if tree else run)(), field, None)


def _field(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = getattr(tree, part, None)
    return tree


def check_positions(text: TextConfig, max_tokens: int, name: str = "data.max_tokens") -> None:
    """Raise InputError if texts may be longer than the model's position embeddings allow."""
    limit = text.max_positions - text.first_position
    if max_tokens > limit:
        raise InputError(f"{name} is {max_tokens}, but the model has {limit} positions")
