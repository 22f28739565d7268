"""Worker processes that prepare the items of a data set: the only place that uses torch's DataLoader.

They end with the stream that they feed, whatever ends it: the last item, an error on either side, a signal,
or the death of the process that reads.
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

from xvlm.data.limits import in_workers
from xvlm.errors import WorkerDiedError

T = TypeVar("T")

GRACE_SECONDS = 5.0
"""Time that workers have to end by themselves."""


class Stream(Iterator[T]):
    """`data[i]` for every index i, in order.

    A context manager: leaving it ends the workers, and so does `close()`.  An error of a worker is raised
    here as the same error, with the worker's traceback as a note.

    Raises WorkerDiedError if a worker was ended from outside.
    """

    def __init__(self, data: Dataset[T], indices: Sequence[int], workers: int = 0, pin: bool = False) -> None:
        """Start the workers.

        Args:
            workers: processes that read ahead, with one thread each; 0 reads in this process.
            pin: put tensors into page-locked memory.
        """
        self._workers: list[Any] = []  # before anything that can fail, for close()
        self._items: Any = iter(
            DataLoader(
                _Guarded(data),
                batch_size=None,
                sampler=indices,
                num_workers=workers,
                pin_memory=pin,
                worker_init_fn=in_workers(_begin_worker),
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
        except BaseException as error:  # also the end, and Ctrl-C
            # What a dead worker had half sent cannot be received, which is noticed before its death.
            self._leave(error, isinstance(error, OSError | EOFError))
            raise
        if isinstance(item, _Failed):
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
        # torch raises this wherever the main thread is when a worker dies.
        reported = isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
        code = _twice(lambda: self._death(3.0 if may_be_dying else 0.0)) if reported or may_be_dying else None
        self.close()
        if code is not None:
            raise WorkerDiedError(_cause_of_death(code)) from error

    def _death(self, seconds: float) -> int | None:
        """The exit code of a worker that did not end well, which may take some time to appear."""
        deadline = time.monotonic() + seconds
        while True:
            code = next((worker.exitcode for worker in self._workers if worker.exitcode), None)
            # A dead worker's connections are closed before its exit code can be read.
            if code is not None or time.monotonic() >= deadline:
                return code
            time.sleep(0.01)

    def close(self) -> None:
        """End the workers; those that are still busy after `GRACE_SECONDS` are killed."""
        items, self._items = self._items, None
        end = getattr(items, "_shutdown_workers", None)
        if end is not None:
            _twice(lambda: self._end(end))

    def _end(self, end: Callable[[], object]) -> None:
        late = threading.Timer(GRACE_SECONDS, self._kill)
        late.daemon = True
        late.start()
        try:
            end()
        finally:
            late.cancel()
        self._kill()
        for worker in self._workers:
            worker.join()

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()


def _twice(call: Callable[[], T]) -> T:
    """What `call` gives, called again if torch reports a dead worker in it, which it does once."""
    try:
        return call()
    except RuntimeError:
        return call()


@dataclass(frozen=True)
class _Failed:
    """What a worker sends in place of an item."""

    error: Exception


class _Guarded(Dataset[Any]):
    """The same data; in a worker, errors are values, for torch would put its traceback into their message."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        if get_worker_info() is None:
            return self.data[index]
        try:
            return self.data[index]
        except Exception as error:
            told = _portable(error)
            told.add_note("In a data worker:\n" + "".join(traceback.format_exception(error)).rstrip())
            return _Failed(told)


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot be pickled, a RuntimeError that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception's own __init__ and __reduce__ may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _begin_worker(number: int) -> None:
    """Signals that reach every process of a job are the main process's to answer: it saves, then ends us."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # elsewhere (macOS) SIGTERM ends a worker at once
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # Should a library's thread have it unblocked, the signal must not end the worker either.
        signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()
    # An item that cannot be pickled is otherwise dropped, and waited for without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_not_sent)  # type: ignore[attr-defined]


def _end_with(parent: int) -> None:
    """End this process when the one that reads has ended, or sends SIGTERM; nobody else's SIGTERM counts."""
    while os.getppid() == parent:
        if hasattr(signal, "sigtimedwait"):
            found = signal.sigtimedwait({signal.SIGTERM}, 0.5)
            if found is not None and found.si_pid == parent:
                break
        else:
            time.sleep(0.5)
    os._exit(0)


def _not_sent(error: Exception, item: object) -> None:
    traceback.print_exception(error)
    os._exit(1)


def _cause_of_death(exit_code: int) -> str:
    """A sentence about a worker's exit code; negative: of the signal that ended it."""
    if exit_code > 0:
        return f"a data worker ended by itself with exit code {exit_code}; --workers 0 reads without workers"
    less = "fewer --workers or a smaller batch need less"
    hints = {
        signal.SIGKILL: f"the system does that when memory runs out; {less}",
        signal.SIGBUS: f"shared memory (/dev/shm) is full; {less}",
    }
    name = signal.Signals(-exit_code).name
    hint = hints.get(signal.Signals(-exit_code), "--workers 0 reads without workers")
    return f"a data worker was ended by {name}: {hint}"
