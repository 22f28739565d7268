"""The losses of a step on their way to the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class StepNumbers:
    """The losses and the norm of the gradients of a step, which a GPU may still be computing.

    Attributes:
        step: number of steps before this one.
        lr: learning rate of the step.
        keys: keys of the step's records, by data stream.
    """

    step: int
    lr: float
    keys: Mapping[str, Any]
    _earlier_done: torch.cuda.Event | None = None
    _begun: torch.cuda.Event | None = None
    _done: torch.cuda.Event | None = None
    _parts: list[tuple[Sequence[str], Tensor]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, step: int, lr: float, keys: Mapping[str, Any], device: torch.device, before: StepNumbers | None
    ) -> StepNumbers:
        """Begin a step on a device; `before` is the step before it in this process."""
        if device.type != "cuda":
            return cls(step, lr, keys)
        begun, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        return cls(step, lr, keys, before._done if before is not None else None, begun, done)

    def add(self, names: Sequence[str], values_N: Tensor) -> None:
        """Add (N,) numbers; the copy from a GPU is only queued."""
        self._parts.append((names, values_N.to("cpu", non_blocking=True)))

    def end(self) -> None:
        """End the step: nothing more will be queued for it."""
        if self._done is not None:
            self._done.record()

    def read(self) -> dict[str, float]:
        """Return the numbers by name, as soon as they are computed."""
        if self._done is not None:
            self._done.synchronize()
        numbers: dict[str, float] = {}
        for names, values_N in self._parts:
            numbers |= dict(zip(names, values_N.tolist(), strict=True))
        return numbers

    def idle_s(self, waited_s: float) -> float:
        """Return how many of `waited_s` seconds of waiting for data nothing was computed in.

        A GPU may still have computed the step before; this waits for both steps.
        """
        if self._begun is None or self._earlier_done is None:
            return waited_s
        self._begun.synchronize()
        return min(waited_s, self._earlier_done.elapsed_time(self._begun) / 1000)


def are_finite(numbers: Mapping[str, float]) -> bool:
    """Return whether no number is NaN or infinite."""
    return all(map(math.isfinite, numbers.values()))


class LateReader:
    """Holds the numbers of a step until the next one has begun, so that a GPU always has work queued."""

    def __init__(self, read: Callable[[StepNumbers, Any], None]) -> None:
        """Take the function that reads the numbers of a step, with what else was given to `add`."""
        self._read = read
        self._unread: list[tuple[StepNumbers, Any]] = []

    def add(self, numbers: StepNumbers, about: Any) -> None:
        """Add the numbers of a step."""
        self._unread.append((numbers, about))

    def read(self) -> None:
        """Read all numbers that were added."""
        unread, self._unread = self._unread, []
        for numbers, about in unread:
            self._read(numbers, about)

    close = read
