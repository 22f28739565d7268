"""Progress of long work: a bar on a terminal, otherwise a line now and then, both with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from xvlm.common.errors import printable

T = TypeVar("T")


class Progress:
    """A progress display in the main rank; close it at the end.

    Args:
        title: name of the work.
        total: number of items.
        start: number of items that were done before.
        line_seconds: seconds between lines, and before the first one, if there is no terminal.
    """

    def __init__(self, title: str, total: int, start: int = 0, line_seconds: float = 15.0) -> None:
        self.title, self.total, self.start = printable(title), total, start
        self.line_seconds = line_seconds
        # Not imported for it: processes that prepare data have no use for torch, which takes seconds to load.
        dist = sys.modules.get("torch.distributed")
        self.is_main = dist is None or not dist.is_initialized() or dist.get_rank() == 0
        self.start_time = self.last_line_time = time.monotonic()
        self.console = Console(stderr=True)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not (self.is_main and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task(escape(self.title), total=total, completed=start, numbers="")
        self.bar.start()

    def update(self, done: int, numbers: str = "") -> None:
        """Show that `done` items are done; `numbers` is a text that follows."""
        numbers = printable(numbers)
        self.bar.update(self.task, completed=done, numbers=escape(numbers))
        now = time.monotonic()
        is_due = now - self.last_line_time > self.line_seconds
        is_last = done == self.total and now - self.start_time > self.line_seconds
        if self.is_main and self.bar.disable and (is_due or is_last):
            self.last_line_time = now
            left = (now - self.start_time) / max(1, done - self.start) * (self.total - done)
            parts = [f"{self.title} {done}/{self.total}", numbers, f"{clock(left)} left"]
            self.console.print("  ".join(filter(None, parts)), highlight=False, markup=False)

    def close(self) -> None:
        """Remove the bar from the terminal's last line."""
        self.bar.stop()


def progress_bar(items: Iterable[T], title: str, total: int, start: int = 0) -> Iterator[T]:
    """Iterate over items and show the progress.

    Args:
        items: items that are left to do; there may be fewer than `total - start`.
        title, total, start: see `Progress`.
    """
    with closing(Progress(title, total, start)) as progress:
        for done, item in enumerate(items, start=start + 1):
            yield item
            progress.update(done)


def clock(seconds: float) -> str:
    """Format a duration as minutes and seconds: 65 is "1:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"
