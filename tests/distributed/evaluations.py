"""Every evaluation on a few records, as one process and as two: float64, tiny models, uneven parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.tiny import photo, phrase, tiny_config, tiny_tokenizer
from xvlm.data.sources import JsonSource
from xvlm.evaluate._layers import search_layers
from xvlm.evaluate._skipped import Skipped, SkippedSample
from xvlm.evaluate.captioning import evaluate_captions
from xvlm.evaluate.entailment import evaluate_entailment
from xvlm.evaluate.grounding import evaluate_grounding
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.model.folder import Loaded
from xvlm.model.xvlm import Part, build_model
from xvlm.predict import Predictor

Found = tuple[dict[str, float], Any]
PHOTOS = 6
LABELS = ("no", "yes")


def predictor(*parts: Part) -> Predictor:
    """A model of these parts, its weights large enough that answers differ."""
    torch.manual_seed(3)
    tokenizer = tiny_tokenizer()
    model = build_model(
        replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), parts=parts, labels=LABELS)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("vision"):
                parameter.normal_(0, 0.2)
    return Predictor(Loaded(model.double().eval(), tokenizer, 30, 20, "a"))


def write(folder: Path) -> None:
    """Photos, and for each evaluation a list of records about them.

    Records 2, 3 and 4 of 7 show one file: the border between two ranks would fall between them.  Some
    records cannot be used, on either side of it.
    """
    rng = np.random.default_rng(8)
    for number in range(PHOTOS):
        width, height = (int(one) for one in rng.integers(40, 120, 2))
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
        good = [item for item in items if "gone.png" not in str(item)]
        middle = [*good[:1], good[2], {"image": "gone.png", "caption": "a dog"}, *good[3:7]]
        (folder / f"{name}_interrupted.json").write_text(json.dumps(middle))
        (folder / f"{name}_apart.json").write_text(json.dumps([*items[::2], *items[1::2]]))
        alike = [{**item, **one_file(item)} for item in good]
        (folder / f"{name}_of_one_image.json").write_text(json.dumps(alike))


def one_file(item: dict[str, Any]) -> dict[str, Any]:
    """Which file is shown if all records show the same."""
    return {"images": ["0.png", "1.png"]} if "images" in item else {"image": "0.png"}


EVALUATIONS: dict[str, Callable[[Callable[[str], JsonSource], int | None], Found]] = {
    "grounding": lambda source, limit: evaluate_grounding(
        predictor("box", "matching"), source("boxed"), limit, batch=2
    ),
    "weak grounding": lambda source, limit: evaluate_maps(
        predictor("contrastive", "matching"), source("boxed"), limit, batch=2
    ),
    "layers": lambda source, limit: (
        {},
        search_layers(predictor("matching"), source("boxed"), limit, powers=(0.0, 1.0), batch=2),
    ),
    "questions, answers given": lambda source, limit: evaluate_questions(
        predictor("answers"), source("questions"), limit, ["red dog", "tree", "car", "blue"], batch=3
    ),
    "questions": lambda source, limit: evaluate_questions(
        predictor("answers"), source("questions"), limit, batch=3
    ),
    "pairs": lambda source, limit: evaluate_pairs(predictor("pairs"), source("pairs"), limit, batch=3),
    "hypotheses": lambda source, limit: evaluate_entailment(
        predictor("labels"), source("hypotheses"), limit, batch=2
    ),
    "captions": lambda source, limit: evaluate_captions(
        predictor("captions"), source("captions"), limit, max_tokens=9, java=False, batch=3
    ),
    "retrieval": lambda source, limit: ranked(source, limit, top=2, batch=2),
    "retrieval, all encoded again": lambda source, limit: ranked(source, limit, top=2, batch=3, memory=0),
    "retrieval, not reranked": lambda source, limit: ranked(source, limit, top=0),
    "what is skipped": lambda source, limit: ({}, skipped_in(source("boxed"), limit)),
    "retrieval, every pair": lambda source, limit: ranked(source, limit, top=99, rerank="matching"),
}

PARTS: dict[str, tuple[str, int | None]] = {
    "uneven": ("", None),
    "nothing on rank 0": ("", 1),
    "nothing on rank 1": ("_of_one_image", None),
    "a bad record at the border, within an image": ("_interrupted", None),
    "records of an image apart": ("_apart", None),
}


@dataclass(frozen=True)
class Told:
    """One sample that was skipped, as a prediction."""

    sample: SkippedSample

    def to_json(self) -> dict[str, Any]:
        return asdict(self.sample)


def skipped_in(source: JsonSource, limit: int | None) -> list[Told]:
    """Which samples a grounding evaluation skips, in order."""
    skipped = Skipped()
    evaluate_grounding(predictor("box", "matching"), source, limit, batch=2, skipped=skipped)
    return [Told(one) for one in skipped.samples]


def ranked(source: Callable[[str], JsonSource], limit: int | None, **options: Any) -> Found:
    return evaluate_retrieval(predictor("contrastive", "matching"), source("captions"), limit, **options)


def evaluated(name: str, part: str, folder: Path) -> dict[str, Any]:
    """Metrics and predictions as plain values, paths without the folder."""
    kind, limit = PARTS[part]
    metrics, found = EVALUATIONS[name](lambda data: JsonSource(folder / f"{data}{kind}.json"), limit)
    predictions = [one.to_json() for one in found] if isinstance(found, list) else settled(found.to_json())
    plain = json.dumps({"metrics": metrics, "predictions": predictions}).replace(f"{folder}/", "")
    return json.loads(plain)


def settled(ranked: dict[str, Any]) -> dict[str, Any]:
    """Ranked lists in which candidates of one score, such as one image that counts twice, have one order."""
    for lists in (ranked["i2t"], ranked["t2i"]):
        for one in lists:
            one["best"] = sorted(one["best"], key=lambda found: (-round(found[1], 9), found[0]))
    return ranked


def everything(folder: Path) -> dict[str, dict[str, Any]]:
    """Every evaluation of every list."""
    return {f"{name}, {part}": evaluated(name, part, folder) for name in EVALUATIONS for part in PARTS}
