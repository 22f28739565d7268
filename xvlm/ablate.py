"""`xvlm ablate`: the claim of the paper.  One budget, four ways to spend it; one table and one picture.

- *coarse*: whole images with captions only;
- *fine*: objects and regions only, no caption;
- *multi-grained*: both;
- *no box loss*: both, without the box loss (its box head is never trained, so its grounding is by chance).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xvlm.data.scenes import Scenes
from xvlm.data.scenes.cases import SceneCases
from xvlm.data.sources import JsonSource, Source
from xvlm.errors import InputError
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.jsonfile import read_json
from xvlm.lock import locked_by_main
from xvlm.predict import Predictor
from xvlm.recipes import demo as demo_recipe
from xvlm.recipes import photos as photos_recipe
from xvlm.report import Bars, bars_svg, read_log, write_svg
from xvlm.run import write_json, write_text
from xvlm.tasks.pretrain import PretrainRun
from xvlm.train.run_folder import check_reports, remove_run
from xvlm.train.start import say, train

TIMED = 16
SHOWN = ("grounding_acc50", "i2t_r1", "t2i_r1")


def variants(run: PretrainRun) -> dict[str, PretrainRun]:
    """Four runs that see as many images a step; the batch of a missing part goes to the other one."""
    data = run.data
    images = data.pairs_batch + data.regions_batch
    return {
        "coarse": replace(run, data=replace(data, regions=(), pairs_batch=images)),
        "fine": replace(run, data=replace(data, pairs=(), regions_batch=images, region_captions=False)),
        "multi-grained": run,
        "no box loss": replace(run, losses=replace(run.losses, bbox=0.0, giou=0.0)),
    }


def run_ablation(on: str, root: Path, out: Path, minutes: float) -> dict[str, dict[str, float]]:
    """Train and measure all variants; a variant that is done is not done again, an interrupted one goes on.

    Args:
        on: "scenes" or "photos".
        root: with photos, their folder.
        minutes: of training for each variant, over all sittings.
    Returns:
        metrics by variant, as in `table.json`.
    """
    if on == "photos":
        base = photos_recipe.recipe(str(root))
        base = replace(base, data=replace(base.data, stem_cache=str(out / "stem")))
        retrieval: Source = JsonSource(root / "dev.jsonl")
        grounding: Source = JsonSource(root / "dev_grounding.json")
    elif on == "scenes":
        base = demo_recipe.recipe()
        size = base.model.vision.image_hw[0]
        retrieval, grounding = (
            Scenes("test", 500, image_size=size),
            SceneCases(Scenes("test", 500, image_size=size)),
        )
    else:
        raise InputError(f"on is {on!r}; it may be 'scenes' or 'photos'")
    table: dict[str, dict[str, float]] = {}
    check_reports(out, ("table.md", "table.json", "ablation.svg"), out / "coarse")
    with locked_by_main(out):
        for name, run in variants(base).items():
            folder = out / name.replace(" ", "-")
            done = folder / "metrics.json"
            check_reports(folder, ("metrics.json",))
            if not done.exists():
                run = fitted(run, folder, minutes)
                say(f"--- {name}: {minutes:g} minutes of training, {run.optim.steps} steps")
                write_json(done, measure(run, folder, retrieval, grounding, 1 if on == "scenes" else None))
            table[name] = read_json(done, allow_nan=True)
            write_table(out, on, minutes, table)
    say((out / "table.md").read_text())
    return table


def fitted(run: PretrainRun, folder: Path, minutes: float) -> PretrainRun:
    """The run with as many steps as fit into `minutes`, so that its schedule ends with its budget.

    A few steps are timed once; the number is kept in `folder/steps.json` for when the run goes on.
    """
    kept = folder / "steps.json"
    if not kept.exists():
        timing = folder / "timing"
        short = replace(run, optim=replace(run.optim, steps=TIMED + 4), save_every=0)
        train(short, timing, resume=True)
        at = [row["seconds"] for row in read_log(timing / "log.jsonl")]
        seconds = float(np.median(np.diff(at[4:])))
        write_json(kept, {"steps": max(TIMED, round(60 * minutes / seconds)), "seconds_a_step": seconds})
        remove_run(timing)
    return replace(run, optim=replace(run.optim, steps=read_json(kept)["steps"]))


def measure(
    run: PretrainRun, folder: Path, retrieval: Source, grounding: Source, texts: int | None
) -> dict[str, float]:
    """Train one variant and measure it in every way that is asked of all."""
    loaded, state = train(run, folder, resume=True)
    predictor = Predictor(loaded)
    found, _ = evaluate_grounding(predictor, grounding)
    ranked, _ = evaluate_retrieval(predictor, retrieval, texts_per_image=texts)
    return {**found, **ranked, "train_seconds": state.seconds, "train_steps": float(state.step)}


def write_table(out: Path, on: str, minutes: float, table: dict[str, dict[str, float]]) -> None:
    """`table.json`, `table.md` and `ablation.svg` of the variants measured so far."""
    write_json(out / "table.json", table)
    names = ["variant", "grounding, IoU 0.5", "image -> text R@1", "text -> image R@1", "steps"]
    header = f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"
    rows = "".join(
        f"| {name} | "
        + " | ".join(f"{100 * m[key]:.1f} %" for key in SHOWN)
        + f" | {m['train_steps']:.0f} |\n"
        for name, m in table.items()
    )
    text = (
        f"Trained on {on}, {minutes:g} minutes a variant, retrieval reranked by matching.\n\n{header}{rows}"
    )
    write_text(out / "table.md", text)
    write_svg(out / "ablation.svg", bars_svg(chart(on, table)))


def chart(on: str, table: dict[str, dict[str, float]]) -> Any:
    """Variants side by side for each measure."""
    return Bars(
        title=f"Same budget on {on}",
        groups=["grounding", "image to text R@1", "text to image R@1"],
        series={name: [100 * m[key] for key in SHOWN] for name, m in table.items()},
        unit=" %",
    )
