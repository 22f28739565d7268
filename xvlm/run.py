"""What a run is: a tree of dataclasses that can be written, read back and repeated.

A recipe returns one, the command line overrides fields by dotted name, `run.json` keeps it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from xvlm.errors import InputError

T = TypeVar("T")
R = TypeVar("R", bound="Run")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule.

    Attributes:
        steps: optimiser steps of the whole run.
        epochs: passes over the data (of a run's first part), in place of `steps`; 0: `steps` counts.
        lr: peak learning rate; parameters that no checkpoint gave learn at `new_multiplier` times it.
        warmup: steps of linear rise; afterwards the rate falls to `final_lr` of the peak.
        warmup_share: of all steps, in place of `warmup`; 0: `warmup` counts.
        schedule: "linear" (published) or "cosine".
        vision_multiplier, text_multiplier: on the rate of pre-trained vision and text parameters.
        decoder_multiplier: on that of a decoder of answers or captions, which begins as layers that read and
            has to learn to write: where it learns fast, those that read may learn slowly and forget less.
        weight_decay: on matrices only; 1-D parameters have none.
        clip: largest norm of all gradients together; 0 never clips.
        ema: decay of the running average of the weights that is evaluated and saved; 0 keeps none.
    """

    steps: int = 1000
    epochs: float = 0.0
    lr: float = 1e-4
    new_multiplier: float = 2.0
    vision_multiplier: float = 1.0
    text_multiplier: float = 1.0
    decoder_multiplier: float = 1.0
    warmup: int = 100
    warmup_share: float = 0.0
    schedule: Literal["linear", "cosine"] = "linear"
    final_lr: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    clip: float = 1.0
    ema: float = 0.0


@dataclass(frozen=True)
class Run:
    """What every task's run has.

    Attributes:
        recipe: name of the recipe it came from.
        task: file name in `xvlm/tasks`.
        seed: of weights, order, augmentation and dropout.
        precision: "fp32", or "bf16" (autocast; weights stay float32).
        accumulate: micro-batches per step and rank.
        workers: processes that read data; 0 reads in the training process.
        log_every, save_every: steps; 0 never does it before the end.
        eval_every: steps; 0 measures at the end, and after every pass of a run that is given in passes.
        keep_best: a number that is measured, such as `grounding_acc50`: the model that has the highest is
            kept in the folder `best`; empty: none is.
        max_bad: share of records read that may be bad before the run stops.
        max_pixels: of an image (width x height); larger ones are bad records.
        significant_bits: of images that are stored in 16 bits a channel; 0: seen from each image.
        allow_remote: data files may name images by URL; a remote data file or image root needs no permission.
        allow_private: URLs may lead to private, loopback and link-local addresses.
        faithful: reproduce the published behaviour where it differs (design, section 5).
    """

    recipe: str = ""
    task: str = "pretrain"
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = 1
    workers: int = 1
    log_every: int = 1
    save_every: int = 200
    eval_every: int = 0
    keep_best: str = ""
    max_bad: float = 0.01
    max_pixels: int = 100_000_000
    significant_bits: int = 0
    allow_remote: bool = False
    allow_private: bool = False
    faithful: bool = False
    compile: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)


def in_steps(run: R, steps_an_epoch: float) -> R:
    """The same run with everything in steps that is given in passes and as a share of them."""
    optim, eval_every = run.optim, run.eval_every
    steps = max(1, round(optim.epochs * steps_an_epoch)) if optim.epochs else optim.steps
    warmup = round(optim.warmup_share * steps) if optim.warmup_share else optim.warmup
    if optim.epochs and not eval_every:
        eval_every = max(1, round(steps_an_epoch))
    optim = dataclasses.replace(optim, steps=steps, warmup=warmup)
    return dataclasses.replace(run, optim=optim, eval_every=eval_every)


def to_json(value: Any) -> Any:
    """A dataclass tree as plain JSON values."""
    if dataclasses.is_dataclass(value):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    return value


def from_json(kind: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """The dataclass `kind` from `to_json`'s output.

    Raises InputError for a name that `kind` does not have, with the nearest that it has, and for a value of
    another type than the field's.
    """
    hints = typing.get_type_hints(kind)
    for name in data:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1)
            raise InputError(
                f"{where}{name} is not a field of {kind.__name__}"
                + (f"; did you mean {where}{near[0]}?" if near else f"; it has {', '.join(hints)}")
            )
    return kind(**{name: _value(hints[name], value, f"{where}{name}") for name, value in data.items()})


_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(hint, value, f"{name}.")  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return None if value is None else _value(kinds[0], value, name)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(value) != len(kinds):
            raise InputError(f"{name} is {value}; it must have {len(kinds)} values")
        return tuple(_value(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    if origin is Literal and value not in arguments:
        raise InputError(f"{name} is {value!r}; it may be {' or '.join(map(repr, arguments))}")
    if hint is float and type(value) is int:
        return float(value)
    of_another_type = hint in _PLAIN and type(value) is not hint
    if of_another_type or origin is tuple or dataclasses.is_dataclass(hint):
        raise InputError(f"{name} is {value!r}; it must be {_PLAIN.get(hint, 'a list or an object')}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(to_json(value), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
