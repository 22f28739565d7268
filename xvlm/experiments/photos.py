"""`xvlm photos`: the photo recipe, from a folder of photographs to its report, for one seed or several.

Some images of `train.jsonl` are held out of training: on them alone the weights of scores are chosen, and
whatever a study compares.  `dev.jsonl` chooses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xvlm.common.errors import InputError
from xvlm.data.sources.absent import WithAbsentTexts
from xvlm.data.sources.json import JsonSource
from xvlm.distributed import folder_lock_on_main, run_on_main
from xvlm.experiments.calibrated import calibrate
from xvlm.experiments.calibrated_search import MIN_IMAGES, calibrate_search, judged_captions
from xvlm.experiments.chosen_weights import ChosenWeights, choose_score_weights, recalls_at_1
from xvlm.experiments.held_out import HELD_OUT_IMAGES, HeldOutSplit, held_out_split
from xvlm.experiments.pretraining_results import (
    LABELS,
    RESULT_FILES,
    PretrainingPredictions,
    evaluate_pretrained,
    write_pretraining_results,
)
from xvlm.experiments.seeds import over_seeds, write_seeds
from xvlm.metrics.bootstrap import bootstrap_interval
from xvlm.metrics.recall import recall_at
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.recipes.photos import align as photos_align
from xvlm.recipes.photos import pretrain as photos
from xvlm.training.checkpoint import TrainingState
from xvlm.training.feature_cache import feature_cache_seconds
from xvlm.training.run_folder import check_report_files
from xvlm.training.train import log_on_main, train

TARGETS = {"i2t_r1": 0.4, "t2i_r1": 0.31, "grounding_acc50": 0.54}
SEED_FILES = ("seeds.json", "seeds.md")


def run_photos(
    root: Path,
    out: Path,
    minutes: float | None = None,
    seeds: int = 1,
    held_out: int = HELD_OUT_IMAGES,
) -> dict[str, float]:
    """Train both stages with each seed, or continue them, evaluate them, and write the results.

    Args:
        root: folder with the files that the recipe describes; `dev.jsonl` and `dev_grounding.json` are
            evaluated.
        out: folder of the first seed's run (`model/`, `log.jsonl`, `checkpoints/`), of its first stage
            (`align/`) and its results (`metrics.json`, `predictions.json`, `report.html`); of what all seeds
            share (`split300/`, `stem/`); of the other seeds (`seed1/`, ...); of `seeds.json` and `seeds.md`.
        minutes: time of each seed for caching features and training, over both stages and all sessions; the
            schedule remains the recipe's.
        seeds: number of runs that differ in their seed alone.
        held_out: number of images of `train.jsonl` that are not trained on, but choose the weights of scores.
    Returns:
        the metrics of the first seed, or the means over several.
    """
    if seeds < 1 or held_out < 1:
        raise InputError(f"seeds is {seeds} and held_out is {held_out}; both must be at least 1")
    check_report_files(out, (*RESULT_FILES, *SEED_FILES))
    folders = [out, *(out / f"seed{seed}" for seed in range(1, seeds))]
    with folder_lock_on_main(out):
        dev = DevData(JsonSource(root / "dev.jsonl"), JsonSource(root / "dev_grounding.json"))
        split = HeldOutSplit(out / f"split{held_out}")
        run_on_main(lambda: held_out_split(root / "train.jsonl", split.folder, held_out))
        runs = [
            run_seed(root, split, dev, folder, out / "stem", seed, minutes)
            for seed, folder in enumerate(folders)
        ]
        metrics = over_seeds(runs)
        if seeds > 1:
            lead = (
                f"`xvlm photos --seeds {seeds}` on `{root.name}`: trained without {held_out} images, which "
                "chose the weights of scores; evaluated on dev, which chose nothing."
            )
            run_on_main(lambda: write_seeds(out, metrics, LABELS, lead))
            log_on_main((out / "seeds.md").read_text())
    return {name: one.mean for name, one in metrics.items()}


@dataclass(frozen=True)
class DevData:
    """Unseen images with captions, and unseen phrases with a box each."""

    captions: JsonSource
    phrases: JsonSource


def run_seed(
    root: Path, split: HeldOutSplit, dev: DevData, out: Path, cache: Path, seed: int, minutes: float | None
) -> dict[str, float]:
    """Train both stages with one seed, choose the weights of scores, evaluate, and write the results.

    Args:
        out: folder of the run.
        cache: folder of the cached features.
    Returns:
        the metrics, as in `metrics.json`.
    """
    check_report_files(out, RESULT_FILES)
    stages = 2  # each has a seed of its own
    align = split.trained_on(photos_align.recipe(str(root)), root, cache)
    align = replace(align, seed=stages * seed)
    _, state = train(align, out / "align", resume=True, minutes=minutes)
    seconds = state.seconds + feature_cache_seconds(cache)
    run = photos.recipe(str(root), str(out / "align" / "model"))
    run = replace(split.trained_on(run, root, cache), seed=stages * seed + 1)
    left = None if minutes is None else minutes - seconds / 60
    bundle, state = train(run, out, resume=True, minutes=left)
    held_out = JsonSource(split.choose, str(root))
    bundle, chosen = choose_score_weights(bundle, out, held_out)
    bundle, _ = calibrate(bundle, out, WithAbsentTexts(held_out))
    if len(held_out) >= MIN_IMAGES:
        bundle = calibrate_search(bundle, out, judged_captions(held_out))
    metrics, predictions = evaluate_on_dev(dev, bundle, state, chosen)
    metrics["train_seconds"] += seconds
    lead = (
        f"Trained on {root.name} without {len(held_out)} of its images, which chose the "
        "weights of matching and of phrases; evaluated on dev, which chose nothing."
    )
    command = f"xvlm photos {root} --out {out}"
    report = write_pretraining_results(out, "photos", metrics, predictions, command, lead, TARGETS)
    for name, value in metrics.items():
        log_on_main(f"  {name:28} {value:.4f}")
    log_on_main(f"report: {report}")
    return metrics


def evaluate_on_dev(
    dev: DevData, bundle: ModelBundle, state: TrainingState, chosen: ChosenWeights
) -> tuple[dict[str, float], PretrainingPredictions]:
    """Evaluate on `dev`; the metrics include intervals over images, and what was chosen elsewhere."""
    log_on_main(f"evaluating on {len(dev.captions)} unseen images and {len(dev.phrases)} unseen phrases")
    wanted = WithAbsentTexts(dev.captions)
    metrics, predictions = evaluate_pretrained(bundle, state, dev.phrases, dev.captions, wanted=wanted)
    result = predictions.retrieval
    for name in ("matching", "phrases"):
        recalls = recalls_at_1(result.scores, chosen.fitted[name])
        metrics |= {f"{key}_{name}": value for key, value in recalls.items()}
    right = {
        "i2t_r1": (recall_at(result.i2t.rank_Q3, 1).tolist(), list(range(len(result.images)))),
        "t2i_r1": (recall_at(result.t2i.rank_Q3, 1).tolist(), result.image_N.tolist()),
        "grounding_acc50": (
            [float(one.iou >= 0.5) for one in predictions.grounding],
            [str(one.image) for one in predictions.grounding],
        ),
    }
    for name, (values, images) in right.items():
        metrics[f"{name}_low"], metrics[f"{name}_high"] = bootstrap_interval(values, images)
    return metrics | chosen.metrics, predictions
