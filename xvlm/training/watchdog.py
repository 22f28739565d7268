"""Ends a run of several ranks when one of them hangs, with a sentence that names it.

A thread of each rank reports to the store of the job what the rank does and how many collectives it has
entered.  When a step makes no progress for the timeout, the rank that hangs is the one whose process does not
report, or else the one that has entered the fewest collectives: all others wait for it in a later one.

Work that takes long on one rank (evaluating, saving, caching features) has no limit, but its process has to
report.  Time is counted in reports, so that a machine that was suspended does not count as one that hangs.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch.distributed as dist

from xvlm import distributed
from xvlm.common.terminal import print_notice

EXIT_CODE = 2
"""Of all ranks when one hangs, as for other expected failures."""
CONFIRMING_REPORTS = 10
"""Number of reports in which a rank that seems to hang can still respond."""
_VERDICT = "verdict"
_NAMED = 4


@dataclass(frozen=True)
class Activity:
    """What a rank does, such as "computing step 12".

    Attributes:
        is_limited: whether the timeout applies to it.
    """

    text: str = "preparing"
    is_limited: bool = False


@dataclass(frozen=True)
class Report:
    """What a rank's thread says about the rank.

    Attributes:
        number: of the report, counted from 1.
        collectives: number of collectives that the rank has entered.
        process: process and host.
        has_left: whether the rank has ended its training; this report is its last.
    """

    number: int
    activity: str
    is_limited: bool
    collectives: int
    process: str
    has_left: bool = False


_activity = Activity()


def set_activity(text: str, is_limited: bool = False) -> None:
    """Record what this rank does from now on."""
    global _activity
    _activity = Activity(text, is_limited)


@contextmanager
def watch_ranks(timeout: float) -> Iterator[None]:
    """End the process if a rank hangs during the block; see `Run.collective_timeout`."""
    set_activity("preparing")
    if distributed.world_size() == 1:
        yield
        return
    watchdog = _Watchdog(timeout)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def hanging_ranks(before: Sequence[Report], now: Sequence[Report]) -> list[int]:
    """Return the ranks that hang, from two reports of each; none if one that is behind has no limit."""
    silent = [rank for rank, report in enumerate(now) if report.number == before[rank].number]
    if silent:
        return [rank for rank in silent if not now[rank].has_left] or silent
    fewest = min(report.collectives for report in now)
    behind = [rank for rank, report in enumerate(now) if report.collectives == fewest]
    return behind if all(now[rank].is_limited for rank in behind) else []


def describe_hanging(before: Sequence[Report], now: Sequence[Report], seconds: float) -> str | None:
    """Return the sentence that ends the run, or `None` if no rank hangs."""
    ranks = hanging_ranks(before, now)
    if not ranks:
        return None
    texts = []
    for rank in ranks[:_NAMED]:
        report = now[rank]
        if report.has_left:
            text = f"rank {rank} has left the training"
        elif report.number == before[rank].number:
            text = f"rank {rank} has not responded for {seconds:.0f} s, last {report.activity}"
        else:
            text = f"rank {rank} has made no progress for {seconds:.0f} s, {report.activity}"
        texts.append(f"{text} ({report.process})")
    if len(ranks) > _NAMED:
        texts.append(f"so have {len(ranks) - _NAMED} more ranks")
    all_wait = "no rank is ahead of the others: " if len(ranks) == len(now) else ""
    return f"{all_wait}{'; '.join(texts)}; the run ends (--collective-timeout)"


class _Watchdog(threading.Thread):
    def __init__(self, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        # A connection of its own, since others hold theirs while they wait.
        store = dist.distributed_c10d._get_default_store().clone()
        run = distributed.broadcast_result(lambda: os.urandom(8).hex())
        self.store = dist.PrefixStore(f"watchdog/{run}", store)
        self.interval = min(1.0, timeout / 20)
        self.patience = timeout / self.interval
        self.process = f"process {os.getpid()} on {socket.gethostname()}"
        self.number = self.idle = self.next_idle = self.confirming = 0
        self.progress: tuple[Activity, int] | None = None
        self.before: list[Report] = []
        self.ended = threading.Event()
        self._post()
        distributed.barrier_without_limit()
        self.next_report = self._read(self._next_rank)

    @property
    def _next_rank(self) -> int:
        """The rank that this one watches: all ranks are watched, and each reads one report at a time."""
        return (self.rank + 1) % self.world_size

    def run(self) -> None:
        # Without the store, the launcher is gone, and with it whoever could hear that a rank hangs.
        with suppress(RuntimeError):
            while not self.ended.wait(self.interval):
                self._post()
                if self.store.check([_VERDICT]):
                    self._exit()
                self._look()

    def stop(self) -> None:
        """End the thread."""
        self.ended.set()
        self.join(5.0)
        with suppress(RuntimeError):
            self._post(has_left=True)

    def _post(self, has_left: bool = False) -> None:
        self.number += 1
        activity, collectives = _activity, distributed.collectives_entered()
        self.idle = self.idle + 1 if self.progress == (activity, collectives) else 0
        self.progress = activity, collectives
        report = Report(self.number, activity.text, activity.is_limited, collectives, self.process, has_left)
        self.store.set(str(self.rank), json.dumps(vars(report)))

    def _read(self, rank: int) -> Report:
        return Report(**json.loads(self.store.get(str(rank))))

    def _look(self) -> None:
        """End the process if a rank hangs, after some more reports have confirmed it."""
        report, before = self._read(self._next_rank), self.next_report
        is_silent = report.number == before.number and not report.has_left
        self.next_idle, self.next_report = self.next_idle + 1 if is_silent else 0, report
        is_stalled = _activity.is_limited and self.idle >= self.patience
        if not is_stalled and self.next_idle < self.patience:
            self.before = []
        elif not self.before:
            self.before, self.confirming = [*map(self._read, range(self.world_size))], CONFIRMING_REPORTS
        elif self.confirming:
            self.confirming -= 1
        else:
            now = [self._read(rank) for rank in range(self.world_size)]
            text = describe_hanging(self.before, now, max(self.idle, self.next_idle) * self.interval)
            self.before = []
            if text is not None:
                mine = f"{self.rank}: {text}"
                if self.store.compare_set(_VERDICT, "", mine).decode() == mine:
                    print_notice(f"xvlm: {text}")
                self._exit()

    def _exit(self) -> None:
        """End this process, whose main thread waits for the rank that hangs."""
        if os.environ.get("XVLM_DEBUG", "0") not in ("", "0"):
            print_notice(f"xvlm: rank {self.rank}:")
            faulthandler.dump_traceback()
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(EXIT_CODE)
