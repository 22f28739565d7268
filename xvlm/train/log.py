"""What a run writes and shows: JSON lines, TensorBoard, and a progress bar with rate and time left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xvlm import dist
from xvlm.progress import Progress
from xvlm.run import json_text


class Log:
    """Numbers to `log.jsonl` and TensorBoard; progress to the terminal, or a line now and then.

    Only the main process writes.  On resume, lines of steps that will be repeated are taken out first.
    """

    def __init__(self, out: Path, start: int, steps: int, title: str, line_seconds: float = 15.0) -> None:
        self.path = out / "log.jsonl"
        self.main = dist.is_main()
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only one process needs it

        out.mkdir(parents=True, exist_ok=True)
        keep_before(self.path, start)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start)
        self.progress = Progress(title, steps, start, line_seconds)

    def step(self, step: int, numbers: dict[str, Any]) -> None:
        """Record the numbers of a finished step (1 is the first)."""
        if not self.main:
            return
        self.file.write(json_text({"step": step, **numbers}) + "\n")
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.board.add_scalar(name, value, step)
        text = " ".join(f"{k} {v:.3g}" for k, v in numbers.items() if k == "loss" or k in SHOWN)
        self.progress.update(step, text)

    def event(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """Record an evaluation or another event."""
        if self.main:
            self.file.write(json_text({"step": step, "event": kind, **numbers}) + "\n")
            self.file.flush()
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{name}", value, step)

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
