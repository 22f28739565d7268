"""`xvlm demo`: pre-training on procedural scenes, evaluation on unseen ones, and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xvlm.distributed import folder_lock_on_main
from xvlm.evaluation import grounding
from xvlm.experiments.calibrated import calibrate, calibration_scenes
from xvlm.experiments.calibrated_search import calibrate_search, judged_scenes
from xvlm.experiments.pretraining_results import (
    LABELS,
    RESULT_FILES,
    evaluate_pretrained,
    write_pretraining_results,
)
from xvlm.inference.model import InferenceModel
from xvlm.recipes import demo as demo_recipe
from xvlm.reports import BoxAnnotation, GroundingExample, draw_boxes
from xvlm.reports.draw import PREDICTED_COLOUR, TRUE_COLOUR
from xvlm.reports.pictures import random_selection, save_picture
from xvlm.scenes import SceneDetectionRecords, SceneGroundingRecords, Scenes
from xvlm.training.run_folder import check_report_files
from xvlm.training.train import log_on_main, train

NUM_UNSEEN = 500
"""Number of scenes of an evaluation."""
TARGETS = {
    "grounding_acc50": 0.8,
    "grounding_acc50_heldout": 0.6,
    "t2i_r1": 0.6,
    "detection_n_acc": 0.9,
    "presence_auroc": 0.97,
}
LEAD = (
    "A small model has learned from procedural scenes alone, from scratch, which words mean which part of an "
    "image. Below are scenes that it has never seen."
)


def run_demo(out: Path) -> dict[str, float]:
    """Train, or continue an interrupted training, then evaluate and write the results.

    Args:
        out: folder for the run (`model/`, `log.jsonl`, `checkpoints/`) and its results: `metrics.json`,
            `predictions.json`, `report.html`, `unseen.jpg`.
    Returns:
        the metrics, as in `metrics.json`.
    """
    check_report_files(out, (*RESULT_FILES, "unseen.jpg"))
    with folder_lock_on_main(out):
        begin = time.monotonic()
        run = demo_recipe.recipe()
        bundle, state = train(run, out, resume=True)
        size = run.model.vision.image_hw[0]
        bundle, _ = calibrate(bundle, out, calibration_scenes(size))
        bundle = calibrate_search(bundle, out, judged_scenes(size))
        log_on_main(f"evaluating on {NUM_UNSEEN} unseen scenes")
        unseen = Scenes("test", NUM_UNSEEN, image_size=size)
        metrics, predictions = evaluate_pretrained(
            bundle,
            state,
            SceneGroundingRecords(unseen),
            unseen,
            {"texts_per_image": 1},
            SceneDetectionRecords(unseen),
        )
        log_on_main(f"evaluating on {NUM_UNSEEN} scenes with unseen combinations of shape and colour")
        heldout_metrics, heldout = grounding.evaluate_grounding(
            InferenceModel(bundle), SceneGroundingRecords(Scenes("heldout", NUM_UNSEEN, image_size=size))
        )
        metrics |= {f"{name}_heldout": value for name, value in heldout_metrics.items()}
        metrics["seconds"] = time.monotonic() - begin
        boxes = predictions.grounding
        shown = random_selection(grounding.finite_boxes(boxes), 8, seed=3)
        sheet = contact_sheet([grounding.example(prediction) for prediction in shown])
        save_picture(sheet, out / "unseen.jpg", quality=88)
        examples = [*boxes[: len(boxes) // 2], *heldout[: len(boxes) // 4]]
        predictions = replace(predictions, examples=examples)
        report = write_pretraining_results(
            out, "demo", metrics, predictions, f"xvlm demo --out {out}", LEAD, TARGETS
        )
    for name, label in LABELS.items():
        if name in metrics:
            log_on_main(f"  {100 * metrics[name]:5.1f} %  {label}")
    log_on_main(f"report: {report}")
    return metrics


def contact_sheet(examples: Sequence[GroundingExample]) -> Image.Image:
    """Draw examples in a grid, each under its phrase: the true box is dashed, the predicted one solid."""
    columns, side, caption = 4, 240, 24
    rows = -(-len(examples) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + caption)), "white")
    font = ImageFont.load_default(13)
    for number, example in enumerate(examples):
        x, y = number % columns * side, number // columns * (side + caption)
        scale_x, scale_y = side / example.image.width, side / example.image.height
        boxes = []
        for box, colour in ((example.true_xyxy, TRUE_COLOUR), (example.predicted_xyxy, PREDICTED_COLOUR)):
            if box is not None:
                x0, y0, x1, y1 = box
                scaled = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
                boxes.append(BoxAnnotation(scaled, "", colour, dashed=colour == TRUE_COLOUR))
        image = draw_boxes(example.image.resize((side, side), Image.Resampling.BICUBIC), boxes)
        sheet.paste(image, (x, y + caption))
        ImageDraw.Draw(sheet).text((x + 4, y + 4), example.phrase, fill="black", font=font)
    return sheet
