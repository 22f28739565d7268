"""Configuration: a run is a tree of dataclasses that can be written, read back and repeated.

A recipe returns a run, the command line overrides its fields by dotted name, `run.json` records it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from xvlm.common.errors import InputError
from xvlm.common.ranges import (
    LARGEST_INT,
    Decay,
    Epsilon,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Seconds,
    Seed,
    SignificantBits,
    type_hints,
    validate,
)
from xvlm.common.short_repr import short_repr

T = TypeVar("T")
R = TypeVar("R", bound="Run")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning-rate schedule.

    Attributes:
        steps: optimiser steps of the run.
        epochs: epochs of the run's first data stream, instead of `steps`; 0 uses `steps`.
        lr: peak learning rate.
        new_lr_multiplier: learning-rate multiplier of new parameters, those that no checkpoint provided.
        vision_lr_multiplier: learning-rate multiplier of pre-trained vision parameters; 0 freezes them.
        text_lr_multiplier: learning-rate multiplier of pre-trained text parameters; 0 freezes them.
        decoder_lr_multiplier: learning-rate multiplier of pre-trained decoder parameters.  A decoder starts
            from encoder layers and has to learn to generate: it may need a higher rate than the encoders,
            which forget less at a lower one.
        warmup_steps: steps of linear warm-up, after which the rate decays to `final_lr_ratio` of the peak.
        warmup_ratio: warm-up as a fraction of all steps, instead of `warmup_steps`; 0 uses `warmup_steps`.
        schedule: decay after the warm-up, "linear" (published) or "cosine".
        final_lr_ratio: final learning rate as a fraction of the peak.
        weight_decay: weight decay of matrices; vectors and scalars have none.
        betas: AdamW's coefficients of the running averages.
        eps: AdamW's term in the denominator.
        max_grad_norm: maximum norm of all gradients together; 0 disables clipping.
        ema_decay: decay of the exponential moving average of the weights, which is then evaluated and saved;
            0 disables it.
    """

    steps: PositiveInt = 1000
    epochs: NonNegativeFloat = 0.0
    lr: NonNegativeFloat = 1e-4
    new_lr_multiplier: NonNegativeFloat = 2.0
    vision_lr_multiplier: NonNegativeFloat = 1.0
    text_lr_multiplier: NonNegativeFloat = 1.0
    decoder_lr_multiplier: NonNegativeFloat = 1.0
    warmup_steps: NonNegativeInt = 100
    warmup_ratio: Probability = 0.0
    schedule: Literal["linear", "cosine"] = "linear"
    final_lr_ratio: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    eps: Epsilon = 1e-8
    max_grad_norm: NonNegativeFloat = 1.0
    ema_decay: Decay = 0.0


@dataclass(frozen=True)
class Run:
    """The fields that the runs of all tasks share.

    Attributes:
        recipe: name of the recipe that made the run.
        task: name of the task, a file in `xvlm/tasks` or one of the user's own.
        seed: random seed of weights, order of samples, augmentation and dropout.
        precision: "fp32", or "bf16" for autocast to bfloat16; the weights stay float32.
        accumulation_steps: micro-batches of a step on each rank; the negatives of a text come from its own.
        workers: processes that read data; 0 reads in the training process.
        log_every: steps between two rows of the log.
        trackers: where the numbers go beside `log.jsonl` and TensorBoard: "wandb", "mlflow", or both.
        save_every: steps between two checkpoints; 0 saves only at the end.
        eval_every: steps between two evaluations; 0 evaluates at the end, and after every epoch if
            `optim.epochs` is set.
        best_metric: name of a metric, such as `grounding_acc50`; the model with its highest value is saved in
            the folder `best`.  Empty saves none.
        max_bad: maximum fraction of unusable records, above which the run stops.
        max_pixels: maximum width x height of an image; larger images are unusable.
        significant_bits: significant bits of images with 16 bits a channel; 0 infers them from each image.
        allow_remote: whether data files may name images by URL.  A remote data file or image root needs no
            permission.
        allow_private: whether URLs may lead to private, loopback and link-local addresses.
        shard_cache: local folder for copies of remote tar shards, which are made before their samples are
            due; the processes of a machine share it.  Empty: samples are read by range.
        shard_cache_gb: size of these copies in gigabytes; 32 shards are in use at a time.
        faithful: whether to reproduce the published behaviour where it differs (docs/published.md).
        compile: whether to compile the blocks of the vision encoder and the MLPs of text layers with
            `torch.compile`, instead of using the forms of the next two fields: for encoders that have none.
        cpu_memory_efficient: whether to train on a CPU with memory-efficient forms of MLPs, embeddings and
            Swin blocks (`models/cpu`), which give the same results.  A GPU never uses them.
        gpu_kernels: whether to train on an NVIDIA GPU with Triton kernels and, on one GPU, CUDA graphs
            (`models/gpu`), which give the same results up to rounding.  A CPU never uses them.
        shard_degree: number of processes over which each parameter, its gradient and its optimiser state are
            sharded (FSDP2).  1: each process holds all of them (DDP); 0: all processes share them; another
            divisor of their number: groups of so many, each of which holds a copy (HSDP).
        activation_checkpointing: what is computed again in the backward pass instead of being saved: "none",
            "selective" (in each block of the encoders all but matrix products and attention), or "full" (each
            block).
        deterministic: whether a GPU repeats a run bit for bit; it then adds in a fixed order, which takes
            longer.  A CPU always does.
        collective_timeout: with several ranks, seconds without progress in the steps after which the run ends
            and names the rank that hangs.  Evaluating, saving and caching features are not limited, but their
            process has to respond (docs/distributed.md).
        optim: optimiser and schedule.
    """

    recipe: str = ""
    task: str = "pretrain"
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulation_steps: PositiveInt = 1
    workers: NonNegativeInt = 1
    log_every: NonNegativeInt = 1
    trackers: tuple[Literal["wandb", "mlflow"], ...] = ()
    save_every: NonNegativeInt = 200
    eval_every: NonNegativeInt = 0
    best_metric: str = ""
    max_bad: Probability = 0.01
    max_pixels: PositiveInt = 100_000_000
    significant_bits: SignificantBits = 0
    allow_remote: bool = False
    allow_private: bool = False
    shard_cache: str = ""
    shard_cache_gb: PositiveFloat = 100.0
    faithful: bool = False
    compile: bool = False
    cpu_memory_efficient: bool = True
    gpu_kernels: bool = True
    shard_degree: NonNegativeInt = 1
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    deterministic: bool = False
    collective_timeout: Seconds = 600.0
    optim: OptimConfig = field(default_factory=OptimConfig)

    def conflicts(self) -> Iterator[str]:
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        yield from ()


def resolve_steps(run: R, steps_per_epoch: float) -> R:
    """Replace what is set in epochs, or as a fraction of all steps, by steps.

    Raises InputError if both forms are set and disagree.
    """
    optim, eval_every, defaults = run.optim, run.eval_every, OptimConfig()
    steps, warmup_steps = optim.steps, optim.warmup_steps
    if optim.epochs:
        steps = max(1, round(optim.epochs * steps_per_epoch))
        if optim.steps not in (defaults.steps, steps):
            raise InputError(
                f"optim.steps is {optim.steps}, but optim.epochs is {optim.epochs:g}, which is {steps} "
                "steps; set only one of them (optim.epochs 0 uses optim.steps)"
            )
    if optim.warmup_ratio:
        warmup_steps = round(optim.warmup_ratio * steps)
        if optim.warmup_steps not in (defaults.warmup_steps, warmup_steps):
            raise InputError(
                f"optim.warmup_steps is {optim.warmup_steps}, but optim.warmup_ratio is "
                f"{optim.warmup_ratio:g}, which is {warmup_steps} steps; set only one of them"
            )
    if optim.epochs and not eval_every:
        eval_every = max(1, round(steps_per_epoch))
    optim = dataclasses.replace(optim, steps=steps, warmup_steps=warmup_steps)
    return dataclasses.replace(run, optim=optim, eval_every=eval_every)


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
        raise InputError(f"{where.rstrip('.') or kind.__name__} is {short_repr(data)}; it must be an object")
    hints = type_hints(kind)
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
            raise InputError(f"{name} is {short_repr(value)}; it may be {' or '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise InputError(f"{name} is {short_repr(value)}; it must be an object")
        return dict(value)
    if hint is float and type(value) is int and abs(value) <= LARGEST_INT:
        return float(value)
    if hint in _PLAIN and type(value) is not hint:
        raise InputError(f"{name} is {short_repr(value)}; it must be {_PLAIN[hint]}")
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
        raise InputError(f"{name} is {short_repr(value)}; it must be a list")
    if kinds[-1:] == (...,):
        kinds = [kinds[0]] * len(value)
    if len(value) != len(kinds):
        raise InputError(f"{name} is {short_repr(value)}; it must have {len(kinds)} values")
    pairs = zip(kinds, value, strict=True)
    return tuple(_value(kind, item, f"{name}.{number}") for number, (kind, item) in enumerate(pairs))


def _name(name: Any) -> str:
    """An unknown name in an error: as it is where it could be a field's, else short and quoted."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) < 80 else short_repr(name)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a JSON tree by dotted name; a list is a leaf."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        name: leaf
        for key, value in tree.items()
        for name, leaf in flatten(value, f"{prefix}.{key}" if prefix else key).items()
    }
