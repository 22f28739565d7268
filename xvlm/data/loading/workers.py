"""Worker processes that load the items of a dataset; no other file uses torch's DataLoader.

The workers end with the stream that they load for, whatever ends it: the last item, an error on either side,
a signal, or the death of the main process.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from torch.utils.data import DataLoader, Dataset, get_worker_info

from xvlm.common.errors import WorkerDiedError, describe_error
from xvlm.common.memory import release_freed_memory
from xvlm.data.files.limits import worker_init_fn

T = TypeVar("T")

GRACE_SECONDS = 5.0
"""Time in which workers may end by themselves; then they are killed."""


class WorkerStream(Iterator[T]):
    """Iterates over `data[i]` for every index i, in order.

    It is a context manager: leaving it ends the workers, and so does `close()`.  An error of a worker is
    raised here as the same error, with the worker's traceback as a note.

    Raises WorkerDiedError if a worker is killed.
    """

    def __init__(self, data: Dataset[T], indices: Sequence[int], workers: int = 0, pin: bool = False) -> None:
        """Start the workers.

        Args:
            workers: number of processes, with one thread each; 0 loads in this process.
            pin: whether to copy tensors to page-locked memory.
        """
        self._workers: list[Any] = []  # first, because close() needs it if the next line fails
        if workers:  # a forked process has a copy of the memory that this one keeps and does not use
            release_freed_memory()
        self._items: Any = iter(
            DataLoader(
                _ErrorsAsItems(data),
                batch_size=None,
                sampler=indices,
                num_workers=workers,
                pin_memory=pin,
                worker_init_fn=worker_init_fn(_begin_worker),
            )
        )
        self._workers = list(getattr(self._items, "_workers", ()))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._items is None:
            raise StopIteration
        try:
            item = next(self._items)
        except BaseException as error:  # also the end of the items, and Ctrl-C
            # An item that a dying worker sent in part cannot be received, which shows before its death does.
            self._leave(error, isinstance(error, OSError | EOFError))
            raise
        if isinstance(item, _WorkerError):
            self.close()
            raise item.error
        return item  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None, may_be_dying: bool = False) -> None:
        # torch raises this error in the main thread, wherever it is, when a worker dies.
        is_reported = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
        code = None
        if is_reported or may_be_dying:
            code = _retry_once(lambda: self._failed_exit_code(3.0 if may_be_dying else 0.0))
        self.close()
        if code is not None:
            raise WorkerDiedError(_cause_of_death(code)) from error

    def _failed_exit_code(self, seconds: float) -> int | None:
        """Wait for the exit code of a worker that failed; `None` if there is none within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            code = next((worker.exitcode for worker in self._workers if worker.exitcode), None)
            # The connections of a dead worker are closed before its exit code can be read.
            if code is not None or time.monotonic() >= deadline:
                return code
            time.sleep(0.01)

    def close(self) -> None:
        """End the workers; those that are still busy after `GRACE_SECONDS` are killed."""
        items, self._items = self._items, None
        end_workers = getattr(items, "_shutdown_workers", None)
        if end_workers is not None:
            _retry_once(lambda: self._end_workers(end_workers))

    def _end_workers(self, end_workers: Callable[[], object]) -> None:
        timer = threading.Timer(GRACE_SECONDS, self._kill_workers)
        timer.daemon = True
        timer.start()
        try:
            end_workers()
        finally:
            timer.cancel()
        self._kill_workers()
        for worker in self._workers:
            worker.join()

    def _kill_workers(self) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()


def _retry_once(call: Callable[[], T]) -> T:
    """Call again after a RuntimeError: torch reports a dead worker in any call, but only once."""
    try:
        return call()
    except RuntimeError:
        return call()


@dataclass(frozen=True)
class _WorkerError:
    """An item that a worker sends in place of the one that it failed to load."""

    error: Exception


class _ErrorsAsItems(Dataset[Any]):
    """A dataset whose errors in a worker are items; torch would put their traceback into their message."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        if get_worker_info() is None:
            return self.data[index]
        try:
            return self.data[index]
        except Exception as error:
            sent = _picklable(error)
            sent.add_note("In a data worker:\n" + "".join(traceback.format_exception(error)).rstrip())
            return _WorkerError(sent)


def _picklable(error: Exception) -> Exception:
    """Return the error, or a RuntimeError that describes it if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own __init__ and __reduce__ may raise anything
        return RuntimeError(describe_error(error))
    return error


def _begin_worker(number: int) -> None:
    """Leave signals to the main process, which also receives them: it saves, then ends the workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # elsewhere (macOS) SIGTERM ends a worker at once
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # If the thread of a library has the signal unblocked, it must not end the worker either.
        signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_exit_with_parent, args=(parent.pid,), daemon=True).start()
    # An item that cannot be pickled would otherwise be dropped, and the main process would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_exit_unpicklable)  # type: ignore[attr-defined]


def _exit_with_parent(parent: int) -> None:
    """End this process when its parent has ended or sends SIGTERM; that of other processes is ignored."""
    while os.getppid() == parent:
        if hasattr(signal, "sigtimedwait"):
            received = signal.sigtimedwait({signal.SIGTERM}, 0.5)
            if received is not None and received.si_pid == parent:
                break
        else:
            time.sleep(0.5)
    os._exit(0)


def _exit_unpicklable(error: Exception, item: object) -> None:
    traceback.print_exception(error)
    os._exit(1)


def _cause_of_death(exit_code: int) -> str:
    """Return a sentence about the exit code of a worker, which is negative if a signal ended it."""
    if exit_code > 0:
        return f"a data worker ended by itself with exit code {exit_code}; --workers 0 reads without workers"
    less = "fewer --workers or a smaller batch need less"
    hints = {
        signal.SIGKILL: f"the system does that when memory runs out; {less}",
        signal.SIGBUS: f"shared memory (/dev/shm) is full; {less}",
    }
    number = signal.Signals(-exit_code)
    hint = hints.get(number, "--workers 0 reads without workers")
    return f"a data worker was ended by {number.name}: {hint}"
