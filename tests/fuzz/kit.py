"""What the cases read and damage copies of: small models, a run, a published checkpoint, photographs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from tests.tiny import (
    photo,
    tiny_config,
    tiny_loaded,
    tiny_loaded_for,
    tiny_run,
    tiny_tokenizer,
    write_photos,
)

MEASURES = {
    "retrieval": "model", "grounding": "model", "weak_grounding": "model", "vqa": "answers",
    "nlvr2": "pairs", "captioning": "captions", "entailment": "labels",
}  # fmt: skip
"""The folder of the model that each measure asks."""

LABELS = ("entailment", "neutral", "contradiction")


def write_kit(folder: Path) -> None:
    """Everything below a folder; its time of change is long ago, so that a change is seen."""
    import torch

    from xvlm.model.folder import save_model
    from xvlm.model.published import to_published
    from xvlm.model.xvlm import build_model
    from xvlm.train.start import train

    save_model(tiny_loaded("cnn"), folder / "model")
    for part in ("answers", "captions", "pairs"):
        save_model(tiny_loaded_for(part), folder / part)  # type: ignore[arg-type]
    save_model(tiny_loaded_for("labels", LABELS), folder / "labels")
    write_photos(folder / "photos", 4)
    photo(40, 30, 9).save(folder / "photos" / "plain.png")
    train(tiny_run("cnn", steps=2, save_every=1), folder / "run")
    (folder / "tokenizer").mkdir()
    tiny_tokenizer().save(folder / "tokenizer")
    vision = tiny_config("swin").vision
    options = {**vision.options, "img_size": 64, "window_size": 4, "patch_size": 4}
    vision = replace(vision, name="swin_base_patch4_window7_224", image_hw=(64, 64), options=options)
    text = replace(tiny_config("swin").text, vocab_size=tiny_tokenizer().vocab_size)
    model = build_model(replace(tiny_config("swin"), vision=vision, text=text))
    torch.save({"model": to_published(model), "config": {"max_tokens": 30}}, folder / "published.th")
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)


def photo_lines(kit: Path) -> list[dict[str, object]]:
    """The records of `photos.jsonl`, with whole paths of their images."""
    lines = (kit / "photos" / "photos.jsonl").read_text().splitlines()
    return [{**one, "image": str(kit / "photos" / one["image"])} for one in map(json.loads, lines)]


def records(kit: Path, measure: str) -> list[dict[str, object]]:
    """A few good records for a measure."""
    photos = photo_lines(kit)
    box = [2.0, 3.0, 20.0, 15.0]
    by_measure: dict[str, list[dict[str, object]]] = {
        "retrieval": [{"image": one["image"], "caption": one["caption"]} for one in photos],
        "captioning": [
            {"image": one["image"], "caption": one["caption"], "image_id": number}
            for number, one in enumerate(photos)
        ],
        "grounding": [
            {"image": one["image"], "text": "the red dog", "bbox": box, "ref_id": number}
            for number, one in enumerate(photos)
        ],
        "vqa": [
            {
                "image": one["image"],
                "question": "what is it?",
                "answer": ["dog", "cat"],
                "question_id": number,
            }
            for number, one in enumerate(photos)
        ],
        "nlvr2": [
            {"images": [one["image"], photos[0]["image"]], "sentence": "a dog", "label": "True"}
            for one in photos
        ],
        "entailment": [{"image": one["image"], "sentence": "a dog", "label": "neutral"} for one in photos],
        "regions": photos,
    }
    return by_measure["grounding" if measure == "weak_grounding" else measure]
