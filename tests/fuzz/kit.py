"""Files whose copies the cases damage: small models, a run, a published checkpoint, photographs."""

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
    "retrieval": "model", "grounding": "model", "weak_grounding": "model", "vqa": "vqa_decoder",
    "nlvr2": "pair_classifier", "captioning": "caption_decoder", "entailment": "classifier",
    "detection": "detection",
}  # fmt: skip
"""Model folder of each measure."""

LABELS = ("entailment", "neutral", "contradiction")


def write_kit(folder: Path) -> None:
    """Write all files into a folder, with an old modification time, so that a change is noticed."""
    import torch

    from xvlm.models.checkpoints.folder import save_model
    from xvlm.models.checkpoints.published_names import to_published
    from xvlm.models.xvlm import build_model
    from xvlm.training.train import train

    save_model(tiny_loaded("cnn"), folder / "model")
    for part in ("vqa_decoder", "caption_decoder", "pair_classifier", "detection"):
        save_model(tiny_loaded_for(part), folder / part)  # type: ignore[arg-type]
    save_model(tiny_loaded_for("classifier", LABELS), folder / "classifier")
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
    """Return the records of `photos.jsonl`, with absolute paths of their images."""
    lines = (kit / "photos" / "photos.jsonl").read_text().splitlines()
    return [{**one, "image": str(kit / "photos" / one["image"])} for one in map(json.loads, lines)]


def records(kit: Path, measure: str) -> list[dict[str, object]]:
    """Return a few good records for a measure."""
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
        "detection": [
            {"image": photos[0]["image"], "text": "red dogs", "bbox": [box, [1.0, 1.0, 9.0, 9.0]]},
            {"image": photos[1]["image"], "text": "a cat", "no_target": True},
            {"image": photos[1]["image"], "elems": [{"caption": "a cat", "bb": box}], "absent": ["a tree"]},
            {
                "filename": photos[2]["image"],
                "grounding": {"caption": "a dog", "regions": [{"bbox": [2, 3, 20, 15], "phrase": "dog"}]},
            },
            {
                "filename": photos[3]["image"],
                "detection": {"instances": [{"bbox": [2, 3, 20, 15], "category": "tree", "label": 0}]},
            },
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
