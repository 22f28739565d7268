"""`xvlm photos`: the photo recipe, from a folder of photographs to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xvlm.data.sources.json import JsonSource
from xvlm.distributed import folder_lock_on_main
from xvlm.experiments.pretraining_results import RESULT_FILES, evaluate_pretrained, write_pretraining_results
from xvlm.recipes.photos import align as photos_align
from xvlm.recipes.photos import pretrain as photos
from xvlm.training.feature_cache import feature_cache_seconds
from xvlm.training.run_folder import check_report_files
from xvlm.training.train import log_on_main, train

TARGETS = {"i2t_r1": 0.4, "t2i_r1": 0.3, "grounding_acc50": 0.5}


def run_photos(root: Path, out: Path, minutes: float | None = None) -> dict[str, float]:
    """Train both stages, or continue them, evaluate on the development split, and write the results.

    Args:
        root: folder with the files that the recipe describes; `dev.jsonl` and `dev_grounding.json` are
            evaluated.
        out: folder for the run (`model/`, `log.jsonl`, `checkpoints/`), its first stage (`align/`), and its
            results: `metrics.json`, `predictions.json`, `report.html`.
        minutes: time for caching features and training, over both stages and all sessions; the schedule
            remains the recipe's.
    Returns:
        the metrics, as in `metrics.json`.
    """
    check_report_files(out, RESULT_FILES)
    with folder_lock_on_main(out):
        captions, phrases = JsonSource(root / "dev.jsonl"), JsonSource(root / "dev_grounding.json")
        cache = out / "stem"
        align = photos_align.recipe(str(root))
        align = replace(align, data=replace(align.data, feature_cache=str(cache)))
        _, state = train(align, out / "align", resume=True, minutes=minutes)
        seconds = state.seconds + feature_cache_seconds(cache)
        run = photos.recipe(str(root), str(out / "align" / "model"))
        run = replace(run, data=replace(run.data, feature_cache=str(cache)))
        left = None if minutes is None else minutes - seconds / 60
        bundle, state = train(run, out, resume=True, minutes=left)
        log_on_main(f"evaluating on {len(captions)} unseen images and {len(phrases)} unseen phrases")
        metrics, predictions = evaluate_pretrained(bundle, state, phrases, captions)
        metrics["train_seconds"] += seconds
        lead = f"Trained on {root.name}, evaluated on unseen photographs."
        command = f"xvlm photos {root} --out {out}"
        report = write_pretraining_results(out, "photos", metrics, predictions, command, lead, TARGETS)
    for name, value in metrics.items():
        log_on_main(f"  {name:28} {value:.4f}")
    log_on_main(f"report: {report}")
    return metrics
