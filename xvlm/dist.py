"""Several processes as one: gather with a correct gradient, global means.  No-ops on one process.

Convention: DDP averages gradients over ranks, so each rank returns a loss whose *mean over ranks* is the
loss of the global batch: local sum x world size / global count.  Two ranks then equal one.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from xvlm.errors import DistributedError, XVLMError

T = TypeVar("T")


def init() -> None:
    """Join the other processes when started by `torchrun`; nothing otherwise.

    Raises DistributedError if they cannot be joined.
    """
    processes, backend = _from_environment("WORLD_SIZE", 1), "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        try:
            torch.cuda.set_device(device())  # NCCL's collectives of objects use the current device
        except RuntimeError as error:
            raise DistributedError(
                f"{device()} cannot be used, this machine has {torch.cuda.device_count()} GPUs; "
                "torchrun's --nproc-per-node may be as many"
            ) from error
    if processes <= 1 or dist.is_initialized():
        return
    if backend == "nccl" and not dist.is_nccl_available():
        raise DistributedError("this PyTorch has no NCCL, by which GPUs work together; use one process")
    try:
        dist.init_process_group(backend)
    except (ValueError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DistributedError(f"the {processes} processes of the job cannot be joined: {reason}") from error
    atexit.register(dist.destroy_process_group)  # else gloo's threads may abort a process that ends well


def _from_environment(name: str, default: int) -> int:
    """A number that torchrun sets."""
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise DistributedError(f"the environment's {name} is {text!r}; torchrun sets it to a whole number")
    return int(text)


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """True in the one process that writes files and talks."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()


def barrier_without_limit() -> Callable[[], None]:
    """A barrier for work of one rank that takes longer than the limit of collectives (10 or 30 minutes).

    All ranks make it before the work and call it after; while they wait, signals are answered.
    """
    if world() == 1:
        return lambda: None
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=365)))

    def wait() -> None:
        arrived = dist.barrier(group, async_op=True)
        assert arrived is not None
        while not arrived.is_completed():
            time.sleep(0.05)
        arrived.wait()
        dist.destroy_process_group(group)

    return wait


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through first, the others after it: what it writes, they find."""
    wait = barrier_without_limit()
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def on_main(work: Callable[[], object]) -> None:
    """The main process does this, however long it takes; an XVLMError that it raises is raised by all."""
    wait = barrier_without_limit()
    found: XVLMError | None = None
    if is_main():
        try:
            work()
        except XVLMError as error:
            found = error
    wait()
    of_main = gather_objects(None if found is None else (type(found), str(found)))[0]
    if found is not None:
        raise found
    if of_main is not None:
        raise of_main[0](of_main[1])


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", _from_environment("LOCAL_RANK", 0))
    return torch.device("cpu")


def sizes(count: int, like: Tensor) -> list[int]:
    """`count` of every rank; `like`, of any shape (...), says on which device to ask."""
    if world() == 1:
        return [count]
    all_counts = [torch.zeros(1, dtype=torch.int64, device=like.device) for _ in range(world())]
    dist.all_gather(all_counts, torch.tensor([count], device=like.device))
    return [int(c) for c in torch.cat(all_counts).tolist()]


def _gather_padded(x: Tensor, counts: list[int]) -> Tensor:
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """Concatenation over ranks; its gradient sums what all ranks did with this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], everyones_gradient: bool) -> Tensor:
        ctx.counts, ctx.everyones_gradient = counts, everyones_gradient
        return _gather_padded(x, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # it is not ours to change
        if ctx.everyones_gradient:
            dist.all_reduce(grad)
        start = sum(ctx.counts[: rank()])
        return grad[start : start + ctx.counts[rank()]], None, None


def gather(x: Tensor, counts: list[int], everyones_gradient: bool = True) -> Tensor:
    """(N, ...) of each rank -> (sum of N, ...) on all, differentiable; N may differ between ranks.

    Args:
        counts: N of each rank, from `sizes`.
        everyones_gradient: False leaves out what other ranks' losses say about this rank's rows, as the
            published code does: encoders then see 1/world of the contrastive gradient.
    """
    if world() == 1:
        return x
    if not x.is_floating_point():
        return _gather_padded(x, counts)
    return _Gather.apply(x, counts, everyones_gradient)


@dataclass(frozen=True)
class Ring:
    """Things of all ranks one after another, beginning with this rank's: its own indices stay what they are.

    Attributes:
        counts: how many each rank has; one number where this rank is alone.
    """

    counts: list[int]

    @classmethod
    def of(cls, count: int, like: Tensor, alone: bool = False) -> Ring:
        """This rank has `count`; `like` (...) as in `sizes`.  With `alone`, the other ranks are left out."""
        return cls([count] if alone else sizes(count, like))

    @property
    def start(self) -> int:
        """How many stand before this rank's in the order of the ranks."""
        return sum(self.counts[: rank()]) if len(self.counts) > 1 else 0

    def gather(self, x: Tensor) -> Tensor:
        """(count, ...) of this rank -> (all, ...), differentiable."""
        if len(self.counts) == 1:
            return x
        by_rank = gather(x, self.counts)
        return torch.cat((by_rank[self.start :], by_rank[: self.start]))

    def places(self, index_M: Tensor, askers: Ring) -> Tensor:
        """Of all ranks' indices, (M,) of this one into its own things: where those things stand here.

        Args:
            askers: whose indices these are; the result is in its order.
        """
        return (askers.gather(index_M + self.start) - self.start) % max(1, sum(self.counts))


def global_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """Local sum, a scalar, and local count -> this rank's part of the global mean (see the module).

    A global count of 0 counts as 1: a batch without a single box has box loss 0.
    """
    count = torch.as_tensor(count, dtype=total.dtype, device=total.device).clone()
    if world() > 1:
        dist.all_reduce(count)
    return total * world() / count.clamp(min=1)


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Give every rank the main one's values of tensors (...), in place."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """(...) -> the sum of all ranks' values; no gradient."""
    values = values.detach().clone()
    if world() > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """(...) -> the mean of all ranks' values, for logs; no gradient."""
    return sum_over_ranks(values) / world()


def gather_objects(value: T) -> list[T]:
    """One picklable value of each rank, in order, on every rank."""
    if world() == 1:
        return [value]
    out: list[Any] = [None] * world()
    dist.all_gather_object(out, value)
    return out


def collected(items: list[T]) -> list[T]:
    """The items of all ranks, those of rank 0 first, on every rank."""
    return [item for part in gather_objects(items) for item in part]


def of_main(make: Callable[[], T]) -> T:
    """What the main process makes, on every rank; the others wait for it.  It must be picklable."""
    return cast(T, gather_objects(make() if is_main() else None)[0])
