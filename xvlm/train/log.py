"""What a run writes and shows: JSON lines, TensorBoard, and a progress bar with rate and time left."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from xvlm import dist


class Log:
    """Numbers to `log.jsonl` and TensorBoard; progress to the terminal, or a line now and then.

    Only the main process writes.  On resume, lines of steps that will be repeated are taken out first.
    """

    def __init__(self, out: Path, start: int, steps: int, title: str, line_seconds: float = 15.0) -> None:
        self.path = out / "log.jsonl"
        self.main = dist.is_main()
        self.line_seconds = line_seconds
        self.last_line = 0.0
        self.begun = time.monotonic()
        self.start, self.steps, self.title = start, steps, title
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only one process needs it

        out.mkdir(parents=True, exist_ok=True)
        keep_before(self.path, start)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start)
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task(title, total=steps, completed=start, numbers="")
        self.bar.start()

    def step(self, step: int, numbers: dict[str, Any]) -> None:
        """Record the numbers of a finished step (1 is the first)."""
        if not self.main:
            return
        self.file.write(json.dumps({"step": step, **numbers}) + "\n")
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name, value, step)
        text = " ".join(f"{k} {v:.3g}" for k, v in numbers.items() if k == "loss" or k in SHOWN)
        self.bar.update(self.task, completed=step, numbers=text)
        now = time.monotonic()
        if self.bar.disable and (now - self.last_line > self.line_seconds or step == self.steps):
            self.last_line = now
            left = (now - self.begun) / max(1, step - self.start) * (self.steps - step)
            self.say(f"{self.title} {step}/{self.steps}  {text}  {clock(left)} left")

    def event(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Record an evaluation or another event."""
        if self.main:
            self.file.write(json.dumps({"step": step, "event": kind, **numbers}) + "\n")
            self.file.flush()
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{name}", value, step)

    def say(self, text: str) -> None:
        """One line to the person who watches."""
        if self.main:
            self.console.print(text, highlight=False, markup=False)

    def flush(self) -> None:
        """Bring what was written to the disk, before a checkpoint says that it is there."""
        if self.main:
            self.file.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        if self.main:
            self.bar.stop()
            self.file.close()
            self.board.close()


SHOWN = ("images_per_s", "data_share")


def clock(seconds: float) -> str:
    """65 -> "1:05"."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def keep_before(path: Path, step: int) -> None:
    """Drop what a log says of steps after `step`: they will be done again."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a killed process may be cut
            continue
        if row["step"] <= step:
            lines.append(line)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in lines))
    partial.replace(path)
