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
    _parts: list[tuple[Sequence[str], Tensor, torch.cuda.Event | None]] = field(default_factory=list)

    def add(self, names: Sequence[str], values_N: Tensor) -> None:
        """Add (N,) numbers; the copy from a GPU is only queued."""
        event = torch.cuda.Event() if values_N.is_cuda else None
        on_host_N = values_N.to("cpu", non_blocking=True)
        if event is not None:
            event.record()
        self._parts.append((names, on_host_N, event))

    def read(self) -> dict[str, float]:
        """Return the numbers by name, as soon as they are computed."""
        numbers: dict[str, float] = {}
        for names, values_N, event in self._parts:
            if event is not None:
                event.synchronize()
            numbers |= dict(zip(names, values_N.tolist(), strict=True))
        return numbers


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
