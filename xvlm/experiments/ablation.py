"""`xvlm ablate`: ablation of the paper's claim, over several seeds.

- *coarse*: whole images with captions only;
- *fine*: objects and regions only, no captions;
- *multi-grained*: both;
- *no box loss*: both, without the box loss; the box head is not trained, so its accuracy is that of chance.

All are given the same time; then those that saw more or fewer images than multi-grained are given as many.
Multi-grained divides its images between two kinds of texts, so two more variants have one kind alone, as much
of it as multi-grained sees: they say what the other kind of texts adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json, write_json, write_text
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.source import Source
from xvlm.distributed import folder_lock_on_main, run_on_main
from xvlm.experiments.chosen_weights import choose_score_weights
from xvlm.experiments.held_out import HeldOutSplit, held_out_split
from xvlm.experiments.pretraining_results import evaluate_pretrained
from xvlm.experiments.seeds import OverSeeds, over_seeds
from xvlm.models.xvlm import PRETRAINING
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
NEARLY_EQUAL = 0.08
"""Share of multi-grained's images by which another variant's may differ without a second training."""
COLUMNS = {
    "grounding_acc50": "grounding, IoU 0.5",
    "i2t_r1": "image to text, R@1",
    "t2i_r1": "text to image, R@1",
}
"""Metrics in the table and the chart."""
MULTI_GRAINED = "multi-grained"
TABLE_FILES = ("table.md", "table.json", "ablation.svg")


@dataclass(frozen=True)
class Experiment:
    """What an ablation trains and evaluates.

    Attributes:
        run: the multi-grained run.
        phrases, captions: data to evaluate on.
        choose: images that are neither trained nor evaluated on, which choose the weights of scores; `None`
            leaves these as they are.
        retrieval: options of `evaluate_retrieval`.
    """

    run: PretrainRun
    phrases: Source
    captions: Source
    choose: Source | None
    retrieval: Mapping[str, Any]


def variants(run: PretrainRun) -> dict[str, PretrainRun]:
    """Return four runs with equally many images in a step; a dropped stream leaves its batch to the other."""
    images = run.data.pairs_batch_size + run.data.regions_batch_size
    coarse, fine = single_streams(run)
    return {
        "coarse": replace(coarse, data=replace(coarse.data, pairs_batch_size=images)),
        "fine": replace(fine, data=replace(fine.data, regions_batch_size=images)),
        MULTI_GRAINED: run,
        "no box loss": replace(run, losses=replace(run.losses, bbox=0.0, giou=0.0)),
    }


def single_streams(run: PretrainRun) -> tuple[PretrainRun, PretrainRun]:
    """Return a run with captions alone and one with regions alone, each with its part of every step."""
    regions = replace(without_stream(run.data, "pairs"), region_captions=False)
    return (
        replace(run, data=without_stream(run.data, "regions")),
        replace(run, data=regions, losses=replace(run.losses, phrases=0.0)),
    )


def run_ablation(
    on: str, root: Path, out: Path, minutes: float, seeds: int = 1
) -> dict[str, dict[str, OverSeeds]]:
    """Train and evaluate all variants; finished ones are kept, and an interrupted one continues.

    Args:
        on: "scenes" or "photos".
        root: folder of the photos, for "photos".
        out: folder for one run for each variant and seed, `table.md`, `table.json` and `ablation.svg`.
        minutes: training time of each variant, over all sessions.
        seeds: number of runs of each variant that differ in their seed alone.
    Returns:
        the metrics of each variant, as in `table.json`; a name with "equal images" is a variant that saw as
        many images as multi-grained (if it did not anyway, see `NEARLY_EQUAL`), one with "same" a variant of
        `single_streams`.
    """
    table: dict[str, dict[str, OverSeeds]] = {}
    check_report_files(out, TABLE_FILES, out / "coarse" / "seed0")
    with folder_lock_on_main(out):
        parts = experiment(on, root, out)
        runs = variants(parts.run)
        fitted = {name: fit_steps(run, out / folder_name(name), minutes) for name, run in runs.items()}
        common = fitted[MULTI_GRAINED].optim
        equal = {
            f"{name}, equal images": replace(run, optim=common)
            for name, run in runs.items()
            if abs(fitted[name].optim.steps - common.steps) > NEARLY_EQUAL * common.steps
        }
        coarse, fine = single_streams(fitted[MULTI_GRAINED])
        same = {"coarse, same captions": coarse, "fine, same phrases": fine}
        for name, run in {**fitted, **equal, **same}.items():
            metrics = []
            for seed in range(seeds):
                folder = out / folder_name(name) / f"seed{seed}"
                log_on_main(f"--- {name}, seed {seed}: {run.optim.steps} steps")
                metrics.append(run_variant(replace(run, seed=run.seed + seed), folder, parts))
            table[name] = over_seeds(metrics)
            write_table(out, on, minutes, table)
    log_on_main((out / "table.md").read_text())
    return table


def folder_name(variant: str) -> str:
    """Return the name of a variant's folder."""
    return variant.replace(",", "").replace(" ", "-")


def run_variant(run: PretrainRun, folder: Path, parts: Experiment) -> dict[str, float]:
    """Train and evaluate one variant with one seed, unless `folder` holds its metrics, and return these."""
    path = folder / "metrics.json"
    check_report_files(folder, ("metrics.json",))
    if not path.exists():
        bundle, state = train(run, folder, resume=True)
        if parts.choose is not None:
            bundle, _ = choose_score_weights(bundle, folder, parts.choose)
        metrics, _ = evaluate_pretrained(bundle, state, parts.phrases, parts.captions, parts.retrieval)
        images = sum(run.batch_sizes().values()) * run.optim.steps
        write_json(path, {**metrics, "train_images": float(images)})
    return read_json(path, allow_nan=True)


def experiment(on: str, root: Path, out: Path) -> Experiment:
    """Return what is trained and evaluated; raises InputError if `on` is neither "scenes" nor "photos"."""
    if on == "photos":
        phrases, captions = JsonSource(root / "dev_grounding.json"), JsonSource(root / "dev.jsonl")
        split = HeldOutSplit(out / "split")
        run_on_main(lambda: held_out_split(root / "train.jsonl", split.folder))
        run = split.trained_on(without_detection(photos_recipe.recipe(str(root))), root, out / "stem")
        choose = JsonSource(split.choose, str(root))
        # All variants are evaluated alike, and half of the usual candidates take half the time.
        return Experiment(run, phrases, captions, choose, {"rerank_top_k": 16})
    if on == "scenes":
        run = without_detection(demo_recipe.recipe())
        unseen = Scenes("test", 500, image_size=run.model.vision.image_hw[0])
        return Experiment(run, SceneGroundingRecords(unseen), unseen, None, {"texts_per_image": 1})
    raise InputError(f"on is {on!r}; it may be 'scenes' or 'photos'")


def without_detection(run: PretrainRun) -> PretrainRun:
    """Return a run with the losses of the paper alone."""
    return replace(
        run,
        model=replace(run.model, heads=PRETRAINING),
        data=replace(run.data, absent_texts=0),
        losses=replace(run.losses, detection=0.0),
    )


def fit_steps(run: PretrainRun, folder: Path, minutes: float) -> PretrainRun:
    """Set the number of steps that fit into `minutes`, so that the schedule ends with the budget.

    Steps are timed once; `folder/steps.json` keeps the number for a run that continues.  A warm-up is
    shortened to a quarter of the steps if it is longer.
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
    steps = read_json(path)["steps"]
    warmup_steps = min(run.optim.warmup_steps, steps // 4)
    return replace(run, optim=replace(run.optim, steps=steps, warmup_steps=warmup_steps))


def write_table(out: Path, on: str, minutes: float, table: Mapping[str, Mapping[str, OverSeeds]]) -> None:
    """Write `table.json`, `table.md` and `ablation.svg` of the variants evaluated so far."""
    write_json(
        out / "table.json",
        {
            variant: {name: vars(one) | {"mean": one.mean} for name, one in metrics.items()}
            for variant, metrics in table.items()
        },
    )
    lines = [
        f"Trained on {on}, {minutes:g} minutes for each variant, or as many images as {MULTI_GRAINED} sees "
        "in them, or as many of them as have the same kind of text; mean ± standard deviation of a seed; "
        "retrieval is reranked.",
        "",
        f"| {' | '.join(['variant', *COLUMNS.values(), 'images seen', 'minutes'])} |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for variant, metrics in table.items():
        seen, spent = metrics["train_images"].mean, metrics["train_seconds"].mean / 60
        cells = [variant, *(metrics[key].percent() for key in COLUMNS), f"{seen:,.0f}", f"{spent:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(out / "table.md", "\n".join(lines) + "\n")
    percentages = {
        variant: [100 * metrics[key].mean for key in COLUMNS] for variant, metrics in table.items()
    }
    deviations = {
        variant: [100 * metrics[key].deviation for key in COLUMNS] for variant, metrics in table.items()
    }
    bars = Bars(f"Equal budget on {on}", list(COLUMNS.values()), percentages, " %", deviations)
    write_svg(out / "ablation.svg", bars_svg(bars))
