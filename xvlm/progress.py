"""Progress of long work: a bar with rate and time left on a terminal; elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from xvlm import dist
from xvlm.errors import printable

T = TypeVar("T")


class Progress:
    """`total` things to do, of which `start` are done; only the main process shows anything.

    Args:
        title: of the work.
        line_seconds: where there is no terminal, time between lines, and before the first: what is over
            sooner says nothing.
    """

    def __init__(self, title: str, total: int, start: int = 0, line_seconds: float = 15.0) -> None:
        self.title, self.total, self.start = printable(title), total, start
        self.line_seconds = line_seconds
        self.main = dist.is_main()
        self.begun = self.last_line = time.monotonic()
        self.console = Console(stderr=True)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not (self.main and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task(escape(self.title), total=total, completed=start, numbers="")
        self.bar.start()

    def update(self, done: int, numbers: str = "") -> None:
        """`done` of all are done; `numbers` stand behind."""
        numbers = printable(numbers)
        self.bar.update(self.task, completed=done, numbers=escape(numbers))
        now = time.monotonic()
        due = now - self.last_line > self.line_seconds
        ended = done == self.total and now - self.begun > self.line_seconds
        if self.main and self.bar.disable and (due or ended):
            self.last_line = now
            left = (now - self.begun) / max(1, done - self.start) * (self.total - done)
            parts = [f"{self.title} {done}/{self.total}", numbers, f"{clock(left)} left"]
            self.console.print("  ".join(filter(None, parts)), highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar from the terminal's last line."""
        self.bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tracked(things: Iterable[T], title: str, total: int, start: int = 0) -> Iterator[T]:
    """The same things, with their progress shown; of `total`, `start` are done and not among them.

    There may turn out to be fewer.
    """
    with Progress(title, total, start) as progress:
        for done, thing in enumerate(things, start=start + 1):
            yield thing
            progress.update(done)


def clock(seconds: float) -> str:
    """65 -> "1:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
