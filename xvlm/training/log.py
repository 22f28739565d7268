"""The log of a run: JSON lines, TensorBoard, and a progress bar with the rate and the time left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xvlm import distributed
from xvlm.common.atomic import AppendFile
from xvlm.common.json_file import json_text, write_text
from xvlm.common.progress import Progress
from xvlm.training.tensorboard import TensorBoardLog
from xvlm.training.trackers import Tracker

_IN_PROGRESS = ("loss", "images_per_s", "data_share")
_PUBLISHED_LOSSES = ("itc", "itm", "mlm", "bbox", "giou")


class RunLog:
    """Writes numbers to `log.jsonl` and TensorBoard, and shows the progress.

    Only the main rank writes.  A resumed run first drops the rows of steps that it will repeat.
    """

    def __init__(
        self,
        out: Path,
        start: int,
        steps: int,
        title: str,
        line_seconds: float = 15.0,
        open_trackers: Callable[[], list[Tracker]] = list,
    ) -> None:
        """Open the log; the main rank alone calls `open_trackers`."""
        self.path = out / "log.jsonl"
        self.is_main = distributed.is_main()
        if not self.is_main:
            return
        drop_later_steps(self.path, start)
        self.file = AppendFile(self.path)
        self.tensorboard = TensorBoardLog(out / "tensorboard", start)
        self.trackers = open_trackers()
        self.progress = Progress(title, steps, start, line_seconds)

    def step(self, step: int, numbers: dict[str, Any]) -> None:
        """Log the numbers of a finished step; the first one is 1."""
        if self.is_main:
            self._write({"step": step, **numbers}, numbers)
            text = " ".join(f"{name} {value:.3g}" for name, value in numbers.items() if name in _IN_PROGRESS)
            self.progress.update(step, text)

    def event(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Log an event, such as an evaluation."""
        if self.is_main:
            scalars = {f"{kind}/{name}": value for name, value in numbers.items()}
            self._write({"step": step, "event": kind, **numbers}, scalars)

    def has_event(self, step: int, kind: str) -> bool:
        """Return on all ranks whether the log holds such an event."""
        return distributed.broadcast_result(
            lambda: any(row["step"] == step and row.get("event") == kind for row in read_rows(self.path))
        )

    def _write(self, row: dict[str, Any], scalars: Mapping[str, Any]) -> None:
        self.file.write((json_text(row) + "\n").encode())
        self.tensorboard.add(row["step"], scalars)
        for tracker in self.trackers:
            tracker.add(row["step"], scalars)

    def flush(self) -> None:
        """Flush the log to the disk, so that it is not behind the checkpoint that is saved next."""
        if self.is_main:
            self.file.flush()

    def close(self) -> None:
        """Remove the progress bar and close the files."""
        if self.is_main:
            self.progress.close()
            self.file.close()
            self.tensorboard.close()
            for tracker in self.trackers:
                tracker.close()


def published_losses(numbers: Mapping[str, float], lr_large: float) -> dict[str, float]:
    """Return the losses and the learning rate that the published code logs, under its names.

    Its contrastive, matching and masked-language-modelling losses are those of the pairs alone.  In a step
    without regions it logs 0.5 for both box losses, which are missing here.
    """
    losses = {f"loss_{name}": numbers[name] for name in _PUBLISHED_LOSSES if name in numbers}
    return losses | {"lr_large": lr_large}


def drop_later_steps(path: Path, step: int) -> None:
    """Remove the rows of steps after `step` from a log, because a resumed run will repeat them."""
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step))


def last_logged_step(path: Path) -> int:
    """Return the last step of a log; 0 if there is none."""
    return max((row["step"] for row in read_rows(path)), default=0) if path.exists() else 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log; the last line is incomplete if its process was killed."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
