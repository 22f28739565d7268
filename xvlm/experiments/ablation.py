"""`xvlm ablate`: ablation of the paper's claim; one training budget is spent in four ways.

- *coarse*: whole images with captions only;
- *fine*: objects and regions only, no captions;
- *multi-grained*: both;
- *no box loss*: both, without the box loss; the box head is not trained, so its accuracy is that of chance.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json, write_json, write_text
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.source import Source
from xvlm.distributed import folder_lock_on_main
from xvlm.experiments.pretraining_results import evaluate_pretrained
from xvlm.recipes import demo as demo_recipe
from xvlm.recipes.photos import pretrain as photos_recipe
from xvlm.reports import Bars, bars_svg, read_log, write_svg
from xvlm.scenes import SceneGroundingRecords, Scenes
from xvlm.tasks.common.pretraining_data import without_stream
from xvlm.tasks.pretrain import PretrainRun
from xvlm.training.run_folder import check_report_files, remove_run
from xvlm.training.train import log_on_main, train

WARMUP_STEPS, TIMED_STEPS = 4, 16
"""Steps of the timing run; the first ones are not timed."""
COLUMNS = {
    "grounding_acc50": "grounding, IoU 0.5",
    "i2t_r1": "image to text, R@1",
    "t2i_r1": "text to image, R@1",
}
"""Metrics in the table and the chart."""


def variants(run: PretrainRun) -> dict[str, PretrainRun]:
    """Return four runs with equally many images in a step; a dropped stream leaves its batch to the other."""
    data = run.data
    images = data.pairs_batch_size + data.regions_batch_size
    coarse = replace(without_stream(data, "regions"), pairs_batch_size=images)
    fine = replace(without_stream(data, "pairs"), regions_batch_size=images, region_captions=False)
    return {
        "coarse": replace(run, data=coarse),
        "fine": replace(run, data=fine),
        "multi-grained": run,
        "no box loss": replace(run, losses=replace(run.losses, bbox=0.0, giou=0.0)),
    }


def run_ablation(on: str, root: Path, out: Path, minutes: float) -> dict[str, dict[str, float]]:
    """Train and evaluate all variants; finished ones are kept, and an interrupted one continues.

    Args:
        on: "scenes" or "photos".
        root: folder of the photos, for "photos".
        out: folder for one run for each variant, `table.md`, `table.json` and `ablation.svg`.
        minutes: training time of each variant, over all sessions.
    Returns:
        the metrics of each variant, as in `table.json`.
    """
    base, phrases, captions, texts_per_image = experiment(on, root, out)
    table: dict[str, dict[str, float]] = {}
    check_report_files(out, ("table.md", "table.json", "ablation.svg"), out / "coarse")
    with folder_lock_on_main(out):
        for name, run in variants(base).items():
            folder = out / name.replace(" ", "-")
            path = folder / "metrics.json"
            check_report_files(folder, ("metrics.json",))
            if not path.exists():
                run = fit_steps(run, folder, minutes)
                log_on_main(f"--- {name}: {minutes:g} minutes of training, {run.optim.steps} steps")
                bundle, state = train(run, folder, resume=True)
                metrics, _ = evaluate_pretrained(bundle, state, phrases, captions, texts_per_image)
                write_json(path, metrics)
            table[name] = read_json(path, allow_nan=True)
            write_table(out, on, minutes, table)
    log_on_main((out / "table.md").read_text())
    return table


def experiment(on: str, root: Path, out: Path) -> tuple[PretrainRun, Source, Source, int | None]:
    """Return the multi-grained run, phrases and captions to evaluate it on, and the captions per image."""
    if on == "photos":
        run = photos_recipe.recipe(str(root))
        run = replace(run, data=replace(run.data, feature_cache=str(out / "stem")))
        return run, JsonSource(root / "dev_grounding.json"), JsonSource(root / "dev.jsonl"), None
    if on == "scenes":
        run = demo_recipe.recipe()
        unseen = Scenes("test", 500, image_size=run.model.vision.image_hw[0])
        return run, SceneGroundingRecords(unseen), unseen, 1
    raise InputError(f"on is {on!r}; it may be 'scenes' or 'photos'")


def fit_steps(run: PretrainRun, folder: Path, minutes: float) -> PretrainRun:
    """Set the number of steps that fit into `minutes`, so that the schedule ends with the budget.

    Steps are timed once; `folder/steps.json` keeps the number for a run that continues.
    """
    path = folder / "steps.json"
    if not path.exists():
        timing = folder / "timing"
        steps = WARMUP_STEPS + TIMED_STEPS
        train(replace(run, optim=replace(run.optim, steps=steps), save_every=0), timing, resume=True)
        times = [row["seconds"] for row in read_log(timing / "log.jsonl")]
        seconds = float(np.median(np.diff(times[WARMUP_STEPS:])))
        write_json(
            path, {"steps": max(TIMED_STEPS, round(60 * minutes / seconds)), "seconds_a_step": seconds}
        )
        remove_run(timing)
    return replace(run, optim=replace(run.optim, steps=read_json(path)["steps"]))


def write_table(out: Path, on: str, minutes: float, table: dict[str, dict[str, float]]) -> None:
    """Write `table.json`, `table.md` and `ablation.svg` of the variants evaluated so far."""
    write_json(out / "table.json", table)
    percentages = {name: [100 * metrics[key] for key in COLUMNS] for name, metrics in table.items()}
    lines = [
        f"Trained on {on}, {minutes:g} minutes for each variant; retrieval is reranked by matching.",
        "",
        f"| {' | '.join(['variant', *COLUMNS.values(), 'steps'])} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, metrics in table.items():
        cells = [name, *(f"{value:.1f} %" for value in percentages[name]), f"{metrics['train_steps']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    bars = Bars(f"Equal budget on {on}", list(COLUMNS.values()), percentages, unit=" %")
    write_svg(out / "ablation.svg", bars_svg(bars))
