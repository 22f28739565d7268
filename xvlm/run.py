"""What a run is: a tree of dataclasses that can be written, read back and repeated.

A recipe returns one, the command line overrides fields by dotted name, `run.json` keeps it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from xvlm.errors import InputError
from xvlm.ranges import (
    LARGEST_INT,
    Decay,
    Epsilon,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Probability,
    Seed,
    SignificantBits,
    hints_of,
    validate,
)
from xvlm.whole import whole_file

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

    steps: PositiveInt = 1000
    epochs: NonNegativeFloat = 0.0
    lr: NonNegativeFloat = 1e-4
    new_multiplier: NonNegativeFloat = 2.0
    vision_multiplier: NonNegativeFloat = 1.0
    text_multiplier: NonNegativeFloat = 1.0
    decoder_multiplier: NonNegativeFloat = 1.0
    warmup: NonNegativeInt = 100
    warmup_share: Probability = 0.0
    schedule: Literal["linear", "cosine"] = "linear"
    final_lr: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: Epsilon = 1e-8
    clip: NonNegativeFloat = 1.0
    ema: Decay = 0.0


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
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: PositiveInt = 1
    workers: NonNegativeInt = 1
    log_every: NonNegativeInt = 1
    save_every: NonNegativeInt = 200
    eval_every: NonNegativeInt = 0
    keep_best: str = ""
    max_bad: Probability = 0.01
    max_pixels: PositiveInt = 100_000_000
    significant_bits: SignificantBits = 0
    allow_remote: bool = False
    allow_private: bool = False
    faithful: bool = False
    compile: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        yield from ()


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


def from_json(kind: type[T], data: Any, where: str = "") -> T:
    """The dataclass `kind` from `to_json`'s output.

    Raises InputError for a name that `kind` does not have, with the nearest that it has, for one that it
    lacks, and for a value of another type than the field's or out of its range.
    """
    tree = _tree(kind, data, where)
    validate(tree, where)
    return tree


def _tree(kind: type[T], data: Any, where: str) -> T:
    if not isinstance(data, Mapping):
        raise InputError(f"{where.rstrip('.') or kind.__name__} is {_shown(data)}; it must be an object")
    hints = hints_of(kind)
    for name in data:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            raise InputError(
                f"{where}{_name(name)} is not a field of {kind.__name__}"
                + (f"; did you mean {where}{near[0]}?" if near else f"; it has {', '.join(hints)}")
            )
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name not in data and item.default is item.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}{item.name} is missing")
    return kind(**{name: _value(hints[name], value, f"{where}{name}") for name, value in data.items()})


_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _value(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _value(arguments[0], value, name)
    if origin in (typing.Union, types.UnionType):
        return _value_of_any(arguments, value, name)
    if dataclasses.is_dataclass(hint):
        return _tree(hint, value, f"{name}.")  # type: ignore[arg-type]
    if origin is Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            raise InputError(f"{name} is {_shown(value)}; it may be {' or '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise InputError(f"{name} is {_shown(value)}; it must be an object")
        return dict(value)
    if hint is float and type(value) is int and abs(value) <= LARGEST_INT:
        return float(value)
    if hint in _PLAIN and type(value) is not hint:
        raise InputError(f"{name} is {_shown(value)}; it must be {_PLAIN[hint]}")
    return value


def _value_of_any(kinds: Sequence[Any], value: Any, name: str) -> Any:
    """As the first of `kinds` that it fits."""
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        try:
            return _value(kind, value, name)
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _tuple(kinds: Sequence[Any], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} is {_shown(value)}; it must be a list")
    if kinds[-1:] == (...,):
        kinds = [kinds[0]] * len(value)
    if len(value) != len(kinds):
        raise InputError(f"{name} is {_shown(value)}; it must have {len(kinds)} values")
    pairs = zip(kinds, value, strict=True)
    return tuple(_value(kind, item, f"{name}.{number}") for number, (kind, item) in enumerate(pairs))


def _shown(value: Any) -> str:
    """A value in an error: short, whatever it holds."""
    return reprlib.repr(value)


def _name(name: Any) -> str:
    """An unknown name in an error: as it is where it could be a field's, else short and quoted."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) < 80 else _shown(name)


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON that every reader takes: a number that is not finite becomes null."""
    plain = to_json(value)
    try:
        return json.dumps(plain, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(plain), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; see `json_text`."""
    write_text(path, json_text(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.  Raises OutputError where it cannot be written."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # half an emoji
