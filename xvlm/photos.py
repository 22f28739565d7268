"""`xvlm photos`: the photo recipe from a folder of photographs to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xvlm.data.sources import JsonSource
from xvlm.demo import summary_tiles, write_predictions
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.gallery._run import write_gallery
from xvlm.lock import locked_by_main
from xvlm.predict import Predictor
from xvlm.recipes import photos, photos_align
from xvlm.run import write_json
from xvlm.tasks.pretrain import PretrainRun
from xvlm.train.run_folder import check_reports
from xvlm.train.start import say, train
from xvlm.train.stem_cache import stem_seconds

TARGETS = {"i2t_r1": 0.4, "t2i_r1": 0.3, "grounding_acc50": 0.5}


def run_photos(
    root: Path, out: Path, minutes: float | None = None, run: PretrainRun | None = None
) -> dict[str, float]:
    """Train both stages (or go on), measure on `dev.jsonl` and `dev_grounding.json`, report.

    Args:
        root: folder as the recipe describes it.
        out: gets `metrics.json`, `report.html`, `predictions.json`, `model/`, `log.jsonl`, `checkpoints/`,
            and the first stage's in `align/`.
        minutes: of keeping the stem and training, over both stages and all sittings; the schedule stays the
            recipe's.
        run: another run than the recipe's second stage.
    """
    check_reports(out, ("metrics.json", "predictions.json", "report.html"))
    with locked_by_main(out):
        return _run_photos(root, out, minutes, run)


def _run_photos(root: Path, out: Path, minutes: float | None, run: PretrainRun | None) -> dict[str, float]:
    dev, phrases = JsonSource(root / "dev.jsonl"), JsonSource(root / "dev_grounding.json")
    spent = 0.0
    if run is None:
        first = photos_align.recipe(str(root))
        first = replace(first, data=replace(first.data, stem_cache=str(out / "stem")))
        _, aligned = train(first, out / "align", resume=True, minutes=minutes)
        spent = aligned.seconds + stem_seconds(out / "stem")
        run = photos.recipe(str(root), str(out / "align" / "model"))
        run = replace(run, data=replace(run.data, stem_cache=str(out / "stem")))
    left = None if minutes is None else minutes - spent / 60
    loaded, state = train(run, out, resume=True, minutes=left)
    predictor = Predictor(loaded)
    say(f"measuring on {len(dev)} images and {len(phrases)} phrases never trained on")
    grounding, cases = evaluate_grounding(predictor, phrases)
    retrieval, ranked = evaluate_retrieval(predictor, dev)
    metrics = {
        **grounding,
        **retrieval,
        "train_seconds": spent + state.seconds,
        "train_steps": float(state.step),
    }
    write_json(out / "metrics.json", metrics)
    write_predictions(out / "predictions.json", [c.to_json() for c in cases], ranked.to_json())
    report = write_gallery(
        out / "report.html",
        "xvlm on photographs",
        f"Trained on {root.name}, asked about photographs that it has never seen.",
        summary_tiles(metrics, TARGETS),
        metrics,
        cases,
        ranked,
        out / "log.jsonl",
        [f"Trained for {(spent + state.seconds) / 60:.1f} minutes, {state.step} steps in the second stage."],
    )
    for name, value in metrics.items():
        say(f"  {name:28} {value:.4f}")
    say(f"report: {report}")
    return metrics
