"""`xvlm demo`: the main job on embedded data."""

from __future__ import annotations

from pathlib import Path


def command(out: Path = Path("runs/demo"), tasks: tuple[str, ...] = ()) -> None:
    """Pre-train on procedural scenes, evaluate on unseen ones, write report.html and metrics.json.

    Args:
        out: output folder; an interrupted demo continues.
        tasks: fine-tune the model for these tasks instead and write tasks.json; `all` stands for all of them.
            The model is pre-trained first if the folder has none.
    """
    from xvlm.experiments.demo import run_demo
    from xvlm.experiments.demo_tasks import TASKS, check_tasks, run_tasks

    chosen = list(TASKS) if tasks == ("all",) else list(tasks)
    check_tasks(chosen)
    if not tasks or not (out / "metrics.json").exists():
        run_demo(out)
    if tasks:
        run_tasks(out, chosen)
