"""Settings of a run that do not fit together: each a sentence, before anything is opened or built."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from xvlm import dist
from xvlm.errors import InputError
from xvlm.model.text import TextConfig


def uneven(name: str, batch: int, accumulate: int) -> Iterator[str]:
    """A sentence if ranks and micro-batches cannot share a global batch evenly."""
    if batch % (dist.world() * accumulate):
        yield (
            f"{name} is {batch}; it must be a multiple of {dist.world()} ranks x {accumulate} micro-batches "
            "(accumulate)"
        )


def pretraining_conflicts(run: Any) -> Iterator[str]:
    """Of a `PretrainRun`, which imports this file."""
    data, shares = run.data, dist.world() * run.accumulate
    batches = run.batches()
    if "pairs" in batches:
        yield from uneven("data.pairs_batch", batches["pairs"], run.accumulate)
    if "regions" in batches:
        factor = "" if batches["regions"] == data.regions_batch else " x data.region_turns"
        yield from uneven(f"data.regions_batch{factor}", batches["regions"], run.accumulate)
    if run.faithful and data.pairs and data.region_turns > 1:
        yield f"data.region_turns is {data.region_turns}; in faithful mode it must be at most 1"
    if run.faithful and 0 < data.region_rows < shares:
        yield f"data.region_rows is {data.region_rows}; it must be 0 or at least {shares}, one a micro-batch"
    if data.stem_views % 2:
        yield f"data.stem_views is {data.stem_views}; it must be an even number"
    yield from missing_heads(run.losses, run.model.parts, boxes="regions" in batches)


def missing_heads(losses: Any, parts: Collection[str], boxes: bool) -> Iterator[str]:
    """A sentence for each loss whose head is not among the `parts` of the model.

    Args:
        losses: a `LossConfig`.
        boxes: whether the data have any; without them there is no box loss.
    """
    needed = [("itc", "contrastive"), ("itm", "matching"), ("itm", "contrastive"), ("mlm", "masked")]
    needed += [("bbox", "box"), ("giou", "box")] if boxes else []
    for loss, part in needed:
        weight = getattr(losses, loss)
        if weight and part not in parts:
            yield f"losses.{loss} is {weight}, which needs {part!r} in model.parts; they are {tuple(parts)}"


def check_positions(text: TextConfig, max_tokens: int, name: str = "data.max_tokens") -> None:
    """Raise InputError if texts may be longer than the positions of the model reach."""
    reach = text.max_positions - text.first_position
    if max_tokens > reach:
        raise InputError(f"{name} is {max_tokens}; the positions of the model reach {reach}")
