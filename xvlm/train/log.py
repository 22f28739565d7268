"""What a run writes and shows: JSON lines, TensorBoard, and a progress bar with rate and time left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm import dist
from xvlm.progress import Progress
from xvlm.run import json_text
from xvlm.train.board import Board
from xvlm.whole import AppendFile, whole_file


class Log:
    """Numbers to `log.jsonl` and TensorBoard; progress to the terminal, or a line now and then.

    Only the main process writes.  On resume, lines of steps that will be repeated are taken out first.
    """

    def __init__(self, out: Path, start: int, steps: int, title: str, line_seconds: float = 15.0) -> None:
        self.path = out / "log.jsonl"
        self.main = dist.is_main()
        if not self.main:
            return
        keep_before(self.path, start)
        self.file = AppendFile(self.path)
        self.board = Board(out / "tensorboard", start)
        self.progress = Progress(title, steps, start, line_seconds)

    def step(self, step: int, numbers: dict[str, Any]) -> None:
        """Record the numbers of a finished step (1 is the first)."""
        if self.main:
            self._write({"step": step, **numbers}, numbers)
            text = " ".join(f"{k} {v:.3g}" for k, v in numbers.items() if k == "loss" or k in SHOWN)
            self.progress.update(step, text)

    def event(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Record an evaluation or another event."""
        if self.main:
            scalars = {f"{kind}/{name}": value for name, value in numbers.items()}
            self._write({"step": step, "event": kind, **numbers}, scalars)

    def has_event(self, step: int, kind: str) -> bool:
        """Whether the log holds such an event, on all ranks."""
        return dist.of_main(lambda: any(_is_event(row, step, kind) for row in _rows(self.path)))

    def _write(self, row: dict[str, Any], scalars: Mapping[str, Any]) -> None:
        self.file.write((json_text(row) + "\n").encode())
        self.board.add(row["step"], scalars)

    def flush(self) -> None:
        """Bring what was written to the disk, before a checkpoint says that it is there."""
        if self.main:
            self.file.flush()

    def close(self) -> None:
        """End the bar and close the files."""
        if self.main:
            self.progress.close()
            self.file.close()
            self.board.close()


SHOWN = ("images_per_s", "data_share")
PUBLISHED = ("itc", "itm", "mlm", "bbox", "giou")


def published_names(numbers: Mapping[str, float], lr_large: float) -> dict[str, float]:
    """What the published code logs of these losses, under its names.

    Its contrastive, matching and masked-language losses are those of the pairs alone; where a step has no
    regions it logs 0.5 for both box losses, here there is nothing then.
    """
    return {f"loss_{name}": numbers[name] for name in PUBLISHED if name in numbers} | {"lr_large": lr_large}


def keep_before(path: Path, step: int) -> None:
    """Drop what a log says of steps after `step`: they will be done again."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in _rows(path) if row["step"] <= step]
        with whole_file(path) as partial:
            partial.write_text("".join(kept))


def steps_logged(path: Path) -> int:
    """The last step of a log; 0 where there is none."""
    return max((row["step"] for row in _rows(path)), default=0) if path.exists() else 0


def _rows(path: Path) -> list[dict[str, Any]]:
    """What can be read of a log: the last line of a killed process may be cut."""
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _is_event(row: Mapping[str, Any], step: int, kind: str) -> bool:
    return row["step"] == step and row.get("event") == kind
