"""How fast and how exact exported graphs are, beside PyTorch on the same CPU.

A base model of each published size (with random weights, on which times do not depend)
is exported, compared with the model, and timed: an image, and a phrase that is found in an encoded image.
With `--model` a trained one is measured on photos as well.  For example:

    python benchmarks/onnx_speed.py --out runs/onnx-speed --image-sizes 224 384
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from onnx_parity import SWIN, write_model

from xvlm.data.sources.open import open_source
from xvlm.export.export import export
from xvlm.export.predictor import OnnxPredictor
from xvlm.models.xvlm import PRETRAINING
from xvlm.predict import Predictor

PHRASES = ("the dog on the left of the bench", "a red car", "two people who wait", "the sky")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        out: folder for models and graphs.
        image_sizes: sides of the images of base models, in pixels.
        model: a trained model that is measured as well.
        data: grounding data for it.
        limit: phrases of them.
        repeats: times of each that the median is taken of, alternating.
    """

    out: Path
    image_sizes: tuple[int, ...] = (224, 384)
    model: str = ""
    data: str = ""
    limit: int = 300
    repeats: int = 7


def milliseconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median time of each call, alternating."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def accuracy(predictor: Predictor | OnnxPredictor, data: str, limit: int) -> float:
    """Return the share of phrases whose box has an IoU of at least 0.5."""
    right, count, source = 0, 0, open_source(data)
    for index in range(len(source)):
        record = source[index]
        photo = predictor.image(record.image)
        for concept in record.concepts:
            if concept.box_xyxy is None or count >= limit:
                continue
            found, true = np.array(photo.ground(concept.texts[0]).box_xyxy), np.array(concept.box_xyxy)
            inner = np.minimum(found[2:], true[2:]) - np.maximum(found[:2], true[:2])
            shared = inner.clip(0).prod()
            union = (found[2:] - found[:2]).prod() + (true[2:] - true[:2]).prod() - shared
            right, count = right + (shared >= 0.5 * union), count + 1
        if count >= limit:
            break
    return right / count


def measure(study: Study, model: Path, name: str, data: str = "") -> None:
    """Print differences, times and perhaps accuracies of a model."""
    predictors: dict[str, Predictor | OnnxPredictor] = {"PyTorch": Predictor.load(model)}
    for precision in PRECISIONS if data else ("fp32", "int8"):  # fp16 is not meant for CPUs
        folder = study.out / f"{name}-{precision}"
        differing = export(model, folder, precision)  # type: ignore[arg-type]
        print(
            f"{name} {precision}: " + ", ".join(f"{key} {one:.2g}" for key, one in differing.items()),
            flush=True,
        )
        predictors[f"onnxruntime {precision}"] = OnnxPredictor.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    photos = {key: one.image(image) for key, one in predictors.items()}
    for what, calls in (
        ("an image", {key: lambda one=one: one.image(image) for key, one in predictors.items()}),
        ("a phrase", {key: lambda one=one: one.ground(PHRASES[0]) for key, one in photos.items()}),
        ("ten phrases", {key: lambda one=one: one.ground_many(ten()) for key, one in photos.items()}),
    ):
        times = milliseconds(calls, study.repeats)  # type: ignore[arg-type]
        print(
            f"{name}, {what}: " + ", ".join(f"{key} {one:.1f} ms" for key, one in times.items()), flush=True
        )
    if data:
        for key, predictor in predictors.items():
            print(
                f"{name}, {key}: {100 * accuracy(predictor, data, study.limit):.1f} % of phrases", flush=True
            )


def ten() -> Sequence[str]:
    """Ten different phrases."""
    return [f"{PHRASES[number % 4]} {'the dog ' * (number // 4)}" for number in range(10)]


def main(study: Study) -> None:
    """Measure all models."""
    study.out.mkdir(parents=True, exist_ok=True)
    for size in study.image_sizes:
        model = write_model(SWIN, size, PRETRAINING, PHRASES, study.out / f"base{size}")
        measure(study, model, f"base{size}")
    if study.model:
        measure(study, Path(study.model), "trained", study.data)


if __name__ == "__main__":
    main(tyro.cli(Study))
