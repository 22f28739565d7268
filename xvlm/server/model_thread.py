"""One thread owns the model, and answers requests of all connections in batches.

A bounded queue stands before it: a full one refuses at once.  Waiting requests of one kind are answered
together; nothing waits for others to come, so a single request is not delayed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xvlm.server.errors import ApiError

Handler = Callable[[Sequence[Any]], Sequence[Any]]
"""Answers several items of one kind: as many results, in their order; an exception in place of a result is
raised for its item alone."""


@dataclass
class Job:
    """An item that waits for the model.

    Attributes:
        kind: name of its handler.
        item: what the handler takes.
        future: receives the result, in the event loop.
        loop: that event loop.
        deadline: `time.monotonic` until which the answer is wanted.
        queued: when it was queued.
        waited: seconds in the queue, once it is taken.
    """

    kind: str
    item: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    deadline: float
    queued: float = field(default_factory=time.monotonic)
    waited: float = 0.0


class ModelThread:
    """The queue and its thread.

    Args:
        handlers: kind -> handler.
        max_queue: items that may wait.
        max_batch: items that are handled together.
    """

    def __init__(self, handlers: Mapping[str, Handler], max_queue: int, max_batch: int) -> None:
        self.handlers, self.max_queue, self.max_batch = handlers, max_queue, max_batch
        self.waiting: deque[Job] = deque()
        self.changed = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="xvlm-model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self.thread.is_alive() and not self.stopping

    async def ask(self, kind: str, item: Any, timeout: float) -> tuple[Any, float]:
        """Return the result of an item, and the seconds that it waited in the queue.

        Raises:
            ApiError: the queue is full (429), the service is stopping (503), or there was no answer within
                `timeout` seconds (504).
        """
        loop = asyncio.get_running_loop()
        job = Job(kind, item, loop.create_future(), loop, time.monotonic() + timeout)
        with self.changed:
            if self.stopping:
                raise ApiError(503, "the service is stopping")
            if len(self.waiting) >= self.max_queue:
                raise ApiError(
                    429, f"{self.max_queue} requests wait already; try again later", {"Retry-After": "1"}
                )
            self.waiting.append(job)
            self.changed.notify()
        try:
            return await asyncio.wait_for(job.future, timeout), job.waited
        except TimeoutError as error:
            raise ApiError(504, f"no answer within {timeout:g} s") from error

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._handle(batch)

    def _take(self) -> list[Job] | None:
        """Wait for a job, and return it with those of its kind; `None` at the end."""
        with self.changed:
            while not self.waiting:
                if self.stopping:
                    return None
                self.changed.wait()
            kind = self.waiting[0].kind
            batch: list[Job] = []
            others: deque[Job] = deque()
            while self.waiting and len(batch) < self.max_batch:
                job = self.waiting.popleft()
                (batch if job.kind == kind else others).append(job)
            self.waiting.extendleft(reversed(others))
        now = time.monotonic()
        for job in batch:
            job.waited = now - job.queued
        # Nobody waits for these any more.
        return [job for job in batch if job.deadline > now and not job.future.cancelled()]

    def _handle(self, batch: list[Job]) -> None:
        if not batch:
            return
        try:
            results = list(self.handlers[batch[0].kind]([job.item for job in batch]))
        except Exception as error:
            results = [error] * len(batch)
        for job, result in zip(batch, results, strict=True):
            job.loop.call_soon_threadsafe(_finish, job.future, result)


def _finish(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():  # the caller gave up
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
