"""Evaluations on a handful of records for one process and for two, with tiny models in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import photo, phrase, tiny_config, tiny_tokenizer
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.captioning import evaluate_captioning
from xvlm.evaluation.common.skipped import SkippedSample, SkippedSamples
from xvlm.evaluation.entailment import evaluate_entailment
from xvlm.evaluation.grounding import evaluate_grounding
from xvlm.evaluation.layer_search import search_layers
from xvlm.evaluation.nlvr2 import evaluate_nlvr2
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.evaluation.weak_grounding import evaluate_weak_grounding
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.models.xvlm import build_model
from xvlm.predict import Predictor

Result = tuple[dict[str, float], Any]
PHOTOS = 6
LABELS = ("no", "yes")


def predictor(*heads: str) -> Predictor:
    """Return a predictor of a model with these heads, its weights large enough for distinct answers."""
    torch.manual_seed(3)
    tokenizer = tiny_tokenizer()
    model = build_model(
        replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), heads=heads, labels=LABELS)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("vision"):
                parameter.normal_(0, 0.2)
    return Predictor(ModelBundle(model.double().eval(), tokenizer, 30, 20, "a"))


def write(folder: Path) -> None:
    """Write images, and for each evaluation a list of records that show them.

    Records 2, 3 and 4 of 7 show one file, and the border between two ranks would fall between them.  On
    either side of it, some records are unusable.
    """
    rng = np.random.default_rng(8)
    for number in range(PHOTOS):
        width, height = (int(side) for side in rng.integers(40, 120, 2))
        photo(width, height, number).save(folder / f"{number}.png")
    files = [f"{number}.png" for number in (0, 1, 2, 2, 2, 3, 4)]

    def box() -> list[float]:
        return [float(one) for one in (*rng.integers(0, 15, 2), *rng.integers(5, 25, 2))]

    boxed = [{"image": file, "text": phrase(rng, 3), "bbox": box()} for file in files]
    boxed.insert(1, {"image": "gone.png", "text": "a dog", "bbox": box()})
    boxed.append({"image": "5.png", "text": ["?!", "the red tree"], "bbox": box()})
    captions = [
        {"image": file, "caption": [phrase(rng, 5), phrase(rng, 4)], "image_id": file} for file in files
    ]
    captions.insert(6, {"image": "gone.png", "caption": "a dog"})
    captions.append({"image": "5.png", "text": "no caption", "bbox": box()})
    questions = [
        {"image": file, "question": phrase(rng, 4), "answer": [phrase(rng, 1)] * 10, "question_id": number}
        for number, file in enumerate(files)
    ]
    questions.append({"image": "5.png", "question": " "})
    pairs = [
        {
            "images": [file, f"{number % PHOTOS}.png"],
            "sentence": phrase(rng, 4),
            "label": str(number % 2 == 0),
        }
        for number, file in enumerate(files)
    ]
    pairs.append({"images": ["5.png", "gone.png"], "sentence": "a dog", "label": "True"})
    hypotheses = [
        {"image": file, "sentence": phrase(rng, 4), "label": LABELS[number % 2]}
        for number, file in enumerate(files)
    ]
    hypotheses.append({"image": "5.png", "sentence": "a dog", "label": "-"})
    lists = {
        "boxed": boxed,
        "captions": captions,
        "questions": questions,
        "pairs": pairs,
        "hypotheses": hypotheses,
    }
    for name, items in lists.items():
        (folder / f"{name}.json").write_text(json.dumps(items))
        usable = [item for item in items if "gone.png" not in str(item)]
        interrupted = [*usable[:1], usable[2], {"image": "gone.png", "caption": "a dog"}, *usable[3:7]]
        (folder / f"{name}_interrupted.json").write_text(json.dumps(interrupted))
        (folder / f"{name}_apart.json").write_text(json.dumps([*items[::2], *items[1::2]]))
        of_one_image = [{**item, **first_image(item)} for item in usable]
        (folder / f"{name}_of_one_image.json").write_text(json.dumps(of_one_image))


def first_image(item: dict[str, Any]) -> dict[str, Any]:
    """Return the field of the image, or the pair, that all records show instead of their own."""
    return {"images": ["0.png", "1.png"]} if "images" in item else {"image": "0.png"}


EVALUATIONS: dict[str, Callable[[Callable[[str], JsonSource], int | None], Result]] = {
    "grounding": lambda source, limit: evaluate_grounding(
        predictor("box", "matching"), source("boxed"), limit, batch_size=2
    ),
    "weak grounding": lambda source, limit: evaluate_weak_grounding(
        predictor("contrastive", "matching"), source("boxed"), limit, batch_size=2
    ),
    "layers": lambda source, limit: (
        {},
        search_layers(predictor("matching"), source("boxed"), limit, powers=(0.0, 1.0), batch_size=2),
    ),
    "questions with candidate answers": lambda source, limit: evaluate_vqa(
        predictor("vqa_decoder"), source("questions"), limit, ["red dog", "tree", "car", "blue"], batch_size=3
    ),
    "questions": lambda source, limit: evaluate_vqa(
        predictor("vqa_decoder"), source("questions"), limit, batch_size=3
    ),
    "pairs": lambda source, limit: evaluate_nlvr2(
        predictor("pair_classifier"), source("pairs"), limit, batch_size=3
    ),
    "hypotheses": lambda source, limit: evaluate_entailment(
        predictor("classifier"), source("hypotheses"), limit, batch_size=2
    ),
    "captions": lambda source, limit: evaluate_captioning(
        predictor("caption_decoder"), source("captions"), limit, max_tokens=9, java=False, batch_size=3
    ),
    "retrieval": lambda source, limit: ranked(source, limit, rerank_top_k=2, batch_size=2),
    "retrieval without a cache": lambda source, limit: ranked(
        source, limit, rerank_top_k=2, batch_size=3, memory_gb=0
    ),
    "retrieval without reranking": lambda source, limit: ranked(source, limit, rerank_top_k=0),
    "skipped samples": lambda source, limit: ({}, skipped_samples(source("boxed"), limit)),
    "retrieval, every pair": lambda source, limit: ranked(source, limit, rerank_top_k=99, rerank="matching"),
}

PARTS: dict[str, tuple[str, int | None]] = {
    "uneven": ("", None),
    "nothing on rank 0": ("", 1),
    "nothing on rank 1": ("_of_one_image", None),
    "an unusable record at the border": ("_interrupted", None),
    "records of an image apart": ("_apart", None),
}


@dataclass(frozen=True)
class SkippedPrediction:
    """A skipped sample in the form of a prediction."""

    sample: SkippedSample

    def to_json(self) -> dict[str, Any]:
        return asdict(self.sample)


def skipped_samples(source: JsonSource, limit: int | None) -> list[SkippedPrediction]:
    """Return the samples that a grounding evaluation skips, in order."""
    skipped = SkippedSamples()
    evaluate_grounding(predictor("box", "matching"), source, limit, batch_size=2, skipped=skipped)
    return [SkippedPrediction(sample) for sample in skipped.samples]


def ranked(source: Callable[[str], JsonSource], limit: int | None, **options: Any) -> Result:
    return evaluate_retrieval(predictor("contrastive", "matching"), source("captions"), limit, **options)


def evaluated(name: str, part: str, folder: Path) -> dict[str, Any]:
    """Return metrics and predictions as plain values, with paths relative to the folder."""
    kind, limit = PARTS[part]
    metrics, result = EVALUATIONS[name](lambda data: JsonSource(folder / f"{data}{kind}.json"), limit)
    if isinstance(result, list):
        predictions: Any = [prediction.to_json() for prediction in result]
    else:
        predictions = sort_ties(result.to_json())
    plain = json.dumps({"metrics": metrics, "predictions": predictions}).replace(f"{folder}/", "")
    return json.loads(plain)


def sort_ties(result: dict[str, Any]) -> dict[str, Any]:
    """Order candidates with equal scores, such as an image that is listed twice, by their index."""
    for ranked_lists in (result["i2t"], result["t2i"]):
        for ranked_list in ranked_lists:
            ranked_list["best"].sort(key=lambda candidate: (-round(candidate[1], 9), candidate[0]))
    return result


def everything(folder: Path) -> dict[str, dict[str, Any]]:
    """Run every evaluation on every list."""
    return {f"{name}, {part}": evaluated(name, part, folder) for name in EVALUATIONS for part in PARTS}
