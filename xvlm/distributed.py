"""Work of several processes (ranks): collectives with correct gradients, work of the main rank, global means.

Everything is a no-op on one process.  DDP averages gradients over ranks, so each rank returns a loss whose
*mean over ranks* is the loss of the global batch: local sum * world size / global count.  Two ranks then
compute the gradients of one.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from xvlm.common.errors import DistributedError, XVLMError, first_line
from xvlm.common.lock import folder_lock
from xvlm.common.rendezvous import join

T = TypeVar("T")

_SHORTEST_TIMEOUT = 600.0
"""Seconds in which processes can at least be joined, whatever the timeout of collectives is."""


def init(collective_timeout: float = 600.0) -> None:
    """Join the other processes if `torchrun` started this one.

    Args:
        collective_timeout: seconds after which `training/watchdog.py` ends a run whose ranks wait for one
            that hangs.  The collectives themselves fail after twice that time, and at least 10 minutes.
    Raises:
        DistributedError: they cannot be joined, or this rank has no GPU of its own.
    """
    processes, backend = _from_environment("WORLD_SIZE", 1), "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        try:
            torch.cuda.set_device(device())  # NCCL gathers objects over the current device
        except RuntimeError as error:
            raise DistributedError(
                f"{device()} cannot be used: there are {torch.cuda.device_count()} GPUs, and torchrun's "
                "--nproc-per-node must not exceed their number"
            ) from error
    if processes <= 1 or dist.is_initialized():
        return
    if backend == "nccl" and not dist.is_nccl_available():
        raise DistributedError("this PyTorch has no NCCL, which connects GPUs; use one process")
    try:
        timeout = timedelta(seconds=max(2 * collective_timeout, _SHORTEST_TIMEOUT))
        store, own_rank, processes = join(timeout)
        dist.init_process_group(backend, store=store, rank=own_rank, world_size=processes, timeout=timeout)
    except (ValueError, RuntimeError, OSError) as error:
        raise DistributedError(
            f"the {processes} processes of the job cannot be joined: {first_line(error)}"
        ) from error
    atexit.register(dist.destroy_process_group)  # without it, gloo's threads may abort at exit


def _from_environment(name: str, default: int) -> int:
    """Return a number that torchrun sets."""
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise DistributedError(f"the environment's {name} is {text!r}; torchrun sets it to a whole number")
    return int(text)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is rank 0, which writes files and logs."""
    return rank() == 0


_unlimited: dict[Any, dist.ProcessGroup] = {}
"""The group without a time limit that belongs to the group of all ranks."""


def _unlimited_group() -> dist.ProcessGroup:
    """Return a group of all ranks whose collectives wait for as long as a rank works."""
    world = dist.group.WORLD
    if world not in _unlimited:
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=365)))
        _unlimited[world] = group
    return _unlimited[world]


def barrier_without_limit() -> None:
    """Wait for all ranks, for longer than other collectives may; waiting ranks still handle signals."""
    if world_size() == 1:
        return
    work = dist.barrier(_unlimited_group(), async_op=True)
    assert work is not None
    while not work.is_completed():
        time.sleep(0.05)
    work.wait()


@contextmanager
def main_first() -> Iterator[None]:
    """Run a block on the main rank before the other ranks, which then find the files that it wrote."""
    if world_size() > 1:
        _unlimited_group()  # all ranks create it together
    if not is_main():
        barrier_without_limit()
    yield
    if is_main():
        barrier_without_limit()


def run_on_main(work: Callable[[], object]) -> None:
    """Call `work` on the main rank alone, however long it takes; an XVLMError is raised on all ranks."""
    if world_size() > 1:
        _unlimited_group()
    error: XVLMError | None = None
    if is_main():
        try:
            work()
        except XVLMError as raised:
            error = raised
    barrier_without_limit()
    main_error = gather_objects(None if error is None else (type(error), str(error)))[0]
    if error is not None:
        raise error
    if main_error is not None:
        kind, message = main_error
        raise kind(message)


@contextmanager
def folder_lock_on_main(folder: Path) -> Iterator[None]:
    """Hold `folder_lock` on the main rank.  Raises OutputError on all ranks if it fails there."""
    init()
    with ExitStack() as stack:
        run_on_main(lambda: stack.enter_context(folder_lock(folder)))
        yield


def device() -> torch.device:
    """Return the GPU of this process, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", _from_environment("LOCAL_RANK", 0))
    return torch.device("cpu")


def collectives_entered() -> int:
    """Return the number of collectives of all groups that this rank has entered; a rank behind has fewer."""
    groups: list[Any] = list(dist.distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)


def count_per_rank(count: int, like: Tensor) -> list[int]:
    """Return the `count` of every rank, gathered on the device of `like` (...)."""
    if world_size() == 1:
        return [count]
    counts = [torch.zeros(1, dtype=torch.int64, device=like.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([count], device=like.device))
    return torch.cat(counts).tolist()


def _gather_padded(x: Tensor, counts: list[int]) -> Tensor:
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: x.shape[0]] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _AllGather(torch.autograd.Function):
    """Concatenates rows over ranks; a row's gradient is the sum of those from the losses of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], full_gradient: bool) -> Tensor:
        ctx.counts, ctx.full_gradient = counts, full_gradient
        return _gather_padded(x, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)  # all_reduce works in place
        if ctx.full_gradient:
            dist.all_reduce(grad)
        start = sum(ctx.counts[: rank()])
        return grad[start : start + ctx.counts[rank()]], None, None


def all_gather(x: Tensor, counts: list[int], full_gradient: bool = True) -> Tensor:
    """Concatenate (N, ...) of all ranks on every rank, differentiably; N may differ between ranks.

    Args:
        counts: N of each rank, from `count_per_rank`.
        full_gradient: whether gradients include those from the losses of other ranks.  Without it, as in the
            published code, encoders receive 1 / world size of the contrastive gradient.
    """
    if world_size() == 1:
        return x
    if not x.is_floating_point():
        return _gather_padded(x, counts)
    return _AllGather.apply(x, counts, full_gradient)


@dataclass(frozen=True)
class RankLayout:
    """Row counts of all ranks, for rows that are gathered with the local ones first.

    Local rows thus have the same index before and after they are gathered.

    Attributes:
        counts: number of rows of each rank; a single number without other ranks.
    """

    counts: list[int]

    @classmethod
    def for_count(cls, count: int, like: Tensor, local_only: bool = False) -> RankLayout:
        """Return the layout of `count` rows of each rank, or of this rank alone; `like` is a tensor (...)."""
        return cls([count] if local_only else count_per_rank(count, like))

    @property
    def start(self) -> int:
        """Index of the first local row in the order of the ranks."""
        return sum(self.counts[: rank()]) if len(self.counts) > 1 else 0

    def gather(self, x: Tensor) -> Tensor:
        """Gather (N, ...) local rows into (G, ...) rows of all ranks, differentiably."""
        if len(self.counts) == 1:
            return x
        by_rank = all_gather(x, self.counts)
        return torch.cat((by_rank[self.start :], by_rank[: self.start]))

    def local_to_global(self, index_N: Tensor, index_layout: RankLayout) -> Tensor:
        """Gather (N,) indices of every rank into its own rows, as indices into the gathered rows.

        `index_layout` counts the indices of each rank.
        """
        return (index_layout.gather(index_N + self.start) - self.start) % max(1, sum(self.counts))


def global_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """Return this rank's part of a global mean, a scalar; the mean of all ranks' parts is the global mean.

    `total` and `count` are local.  A global count of 0 is replaced by 1, so that the box loss of a batch
    without boxes is 0.
    """
    # `full`, since a number that is copied to a GPU waits for it.
    count = count.to(total) if isinstance(count, Tensor) else torch.full_like(total, count)
    if world_size() > 1:
        dist.all_reduce(count)
    return total * world_size() / count.clamp(min=1)


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Hold all weights of a sharded model on every rank for a while: its parts may then be called alone."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Copy the values of tensors (...) from the main rank to all ranks, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over ranks of (...) values, without gradient."""
    values = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean over ranks of (...) values, without gradient."""
    return sum_over_ranks(values) / world_size()


def gather_objects(value: T) -> list[T]:
    """Return the picklable values of all ranks, in the order of the ranks, however long one of them works."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, _unlimited_group())
    return values


def gather_lists(items: list[T]) -> list[T]:
    """Return the items of all ranks in one list, in the order of the ranks."""
    return [item for part in gather_objects(items) for item in part]


def broadcast_result(make: Callable[[], T]) -> T:
    """Call `make` on the main rank, and return its picklable result on every rank."""
    return cast(T, gather_objects(make() if is_main() else None)[0])
