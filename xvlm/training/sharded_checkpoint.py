"""Checkpoints of sharded runs: each rank writes its parts, while training goes on (PyTorch's DCP).

The files are safetensors, which record where in its tensor each part belongs, so any number of ranks reads
them, and nothing is unpickled.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter, async_save
from torch.distributed.checkpoint.api import CheckpointException

from xvlm import distributed
from xvlm.common.atomic import atomic_folder
from xvlm.common.errors import OutputError, first_line
from xvlm.training import checkpoint
from xvlm.training.optimizer import ExponentialMovingAverage


class ShardedCheckpoints:
    """Writes the checkpoints of a run, one at a time; the main rank completes and publishes them."""

    def __init__(self) -> None:
        # Apart from the group of the gradients, with which a thread must not interfere.
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._folder = Path()
        self._parts: Future[object] | None = None
        self._whole: Future[None] | None = None

    def save(
        self,
        out: Path,
        state: checkpoint.TrainingState,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: ExponentialMovingAverage | None,
    ) -> None:
        """Copy the content of `out/checkpoints/step_N`, and begin to write it; all ranks call this together.

        Raises OutputError if it, or the checkpoint before it, cannot be written.
        """
        self.wait()
        self._folder = checkpoint.folder_of(out, state)
        record = checkpoint.record_of(state, optimizer, average)
        tensors = checkpoint.flat_tensors_of(model, optimizer, average)
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        parts: Future[object] = Future()
        opened: list[Path] = []

        def open_on_main() -> None:
            partial: Future[Path] = Future()
            self._whole = self._thread.submit(_publish, self._folder, partial, parts, record)
            opened.append(partial.result())

        distributed.run_on_main(open_on_main)
        partial = distributed.broadcast_result(lambda: opened[0])
        storage = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        saving: Any = async_save(tensors, storage_writer=storage, process_group=self._group)
        saving.add_done_callback(lambda done: _pass_on(done, parts))
        self._parts = saving

    def wait(self) -> None:
        """Wait until the last checkpoint is complete.  Raises OutputError, on all ranks, if it is not."""
        if self._parts is None:
            return
        error = self._parts.exception()
        self._parts = None
        if any(distributed.gather_objects(error is not None)):
            reason = "another rank failed" if error is None else _reason(error)
            raise OutputError(f"{self._folder} cannot be written: {reason}")
        distributed.run_on_main(lambda: self._whole and self._whole.result())


def _publish(folder: Path, partial: Future[Path], parts: Future[object], record: dict[str, Any]) -> None:
    """Make a partial folder, wait until it has all parts, complete it, and give it its name."""
    try:
        with atomic_folder(folder, checkpoint.FILES) as path:
            partial.set_result(path)
            parts.result()
            checkpoint.complete(path, record)
    except BaseException as error:
        if not partial.done():
            partial.set_exception(error)
        raise
    checkpoint.remove_old(folder.parent.parent)


def _pass_on(done: Future[object], to: Future[object]) -> None:
    error = done.exception()
    to.set_result(None) if error is None else to.set_exception(OutputError(_reason(error)))


def _reason(error: BaseException) -> str:
    """Return a line on an error of `async_save`, which wraps those of the ranks."""
    if isinstance(error, CheckpointException):
        return "; ".join(f"rank {rank}: {first_line(one[0])}" for rank, one in error.failures.items())
    return first_line(error)
