"""Small files in each of the published formats, as the recipes read them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.grefcoco_data import write_grefcoco
from tests.refcoco_data import write_refcoco
from tests.tiny import photo, phrase, write_photos

COUNT = 4
SIZE = (80, 64)
BOXES = [[4, 6, 40, 30], [30, 20, 44, 40]]
IMAGE_FOLDERS = (".", "coco", "visualgenome", "nlvr2", "flickr30k-images")
PAIRS = ("coco", "vg", "sbu", "cc3m", "cc12m")
MARVL = ("ta/images/73-கரிக்கோல்/73-13.jpg", "sw/images/79-Karatasi/79-1.jpg")
"""Names of images in the files of VLUE."""
REGIONS = ("coco_objs", "vg_objs", "vg_regions", "openimages", "obj365", "refcoco_rm_leak")


def write_all(root: Path) -> None:
    """Write `pretrain`, `finetune` and `images` below `root`."""
    rng = np.random.default_rng(3)
    names = [f"{number}.jpg" for number in range(COUNT)]
    for folder in IMAGE_FOLDERS:
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            photo(*SIZE, number).save(root / "images" / folder / name)
    write_pretraining(root / "pretrain", rng)
    write_finetuning(root / "finetune", names, rng)
    write_refcoco(root / "finetune" / "refcoco+", root / "images" / "coco" / "train2014")
    write_grefcoco(root / "finetune" / "grefcoco")
    write_entailment(root / "finetune", names, rng)


def write_own(root: Path) -> None:
    """Write `photos` and `questions` below `root`, the folders that recipes for own data read."""
    photos, questions = root / "photos", root / "questions"
    records = [json.loads(line) for line in write_photos(photos, COUNT).read_text().splitlines()]
    for name in ("train", "dev"):
        write_lines(photos / f"{name}.jsonl", records)
    phrases = [
        {"image": record["image"], "text": elem["caption"], "bbox": elem["bb"]}
        for record in records
        for elem in record["elems"]
    ]
    (photos / "dev_grounding.json").write_text(json.dumps(phrases))
    question = {"question": "what is it?", "answer": ["a dog"], "question_id": 1}
    questions.mkdir(exist_ok=True)
    for name in ("train", "dev"):
        items = [
            {"image": f"../photos/{record['image']}", **question} for record in records for _ in range(2)
        ]
        (questions / f"{name}.json").write_text(json.dumps(items))


def write_pretraining(root: Path, rng: np.random.Generator) -> None:
    """Write folders of files without a suffix: JSON lines with the image in base64."""
    file = io.BytesIO()
    photo(*SIZE, 0).save(file, "JPEG")
    binary = base64.b64encode(file.getvalue()).decode()
    for name in PAIRS:
        captions = (phrase(rng, 5) for _ in range(COUNT))
        write_lines(root / name / "part-0", ({"binary": binary, "caption": text} for text in captions))
    for name in REGIONS:
        elems = [{"caption": phrase(rng, 2), "attributes": ["old"], "bb": box} for box in BOXES]
        line: dict[str, Any] = {"binary": binary, "elems": elems}
        if name == "coco_objs":
            line["caption"] = [phrase(rng, 4), phrase(rng, 5)]
        write_lines(root / name / "part-0", [line] * COUNT)


def write_finetuning(root: Path, names: list[str], rng: np.random.Generator) -> None:
    """Write files of one JSON list each."""
    captions = [[phrase(rng, 4) for _ in range(5)] for _ in names]
    single = [
        {"image": name, "caption": text, "image_id": f"{n}"}
        for n, (name, texts) in enumerate(zip(names, captions, strict=True))
        for text in texts
    ]
    several = [{"image": name, "caption": texts} for name, texts in zip(names, captions, strict=True)]
    questions = [
        {"question_id": n, "question": f"what is {phrase(rng, 2)}?", "image": name, "dataset": "vqa"}
        for n, name in enumerate(names)
    ]
    answered = [{**question, "answer": ["red"] * 6 + ["light blue"] * 4} for question in questions]
    refs = [
        {"image": name, "text": phrase(rng, 3), "bbox": box, "ref_id": n, "width": SIZE[0], "height": SIZE[1]}
        for n, name in enumerate(names)
        for box in BOXES
    ]
    pairs = [
        {"sentence": phrase(rng, 5), "label": label, "images": [names[0], names[1]]}
        for label in ("True", "False", "True", "False")
    ]
    files: dict[str, list[Any]] = {
        "coco_train": single,
        "coco_val": several,
        "flickr30k_train": single,
        "flickr30k_val": several,
        "coco_karpathy/coco_karpathy_train": single,
        "coco_karpathy/coco_karpathy_val": several,
        "vqa_train": answered,
        "vqa_val": answered,
        "vg_qa": [{**question, "dataset": "vg", "answer": "green"} for question in questions],
        "answer_list": ["red", "light blue", "green"],
        "nlvr_train": pairs,
        "nlvr_dev": pairs,
        "refcoco+_train": refs,
        "refcoco+_val": refs,
    }
    for name, items in files.items():
        path = root / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(items))


def snli_ve(names: list[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return lines of SNLI-VE as released; those of one image are consecutive."""
    return [
        {
            "Flickr30K_ID": Path(name).stem,
            "annotator_labels": [label] * 3,
            "captionID": f"{name}#0",
            "gold_label": label,
            "pairID": f"{name}#0r1{label[0]}",
            "sentence1": phrase(rng, 6),
            "sentence2": f"{phrase(rng, 3)} {word}.",
        }
        for name in names
        for label, word in (("entailment", "dog"), ("neutral", "cat"), ("contradiction", "tree"))
    ]


def write_entailment(root: Path, names: list[str], rng: np.random.Generator) -> None:
    """Write SNLI-VE as released and in ALBEF's form."""
    lines = snli_ve(names, rng)
    for split in ("train", "dev"):
        write_lines(root / f"snli_ve_{split}.jsonl", lines)
    usual = {"Flickr30K_ID": "image", "sentence2": "sentence", "gold_label": "label"}
    items = [{usual[name]: value for name, value in line.items() if name in usual} for line in lines]
    (root / "ve_dev.json").write_text(json.dumps(items))


def write_vlue(root: Path) -> dict[str, Path]:
    """Write VLUE's test files and their images below `root/marvl`; return the files by name."""
    rng = np.random.default_rng(4)
    for number, name in enumerate(MARVL):
        path = root / "marvl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(*SIZE, number).save(path)
    captions = [
        {"image": name, "caption": [f"{phrase(rng, 5).capitalize()}." for _ in range(count)]}
        for name, count in zip(MARVL, (5, 8), strict=True)
    ]
    refs = [
        {"image": name, "text": phrase(rng, 3), "bbox": box, "ref_id": f"{number}_{place}"}
        | {"height": SIZE[1], "width": SIZE[0]}
        for number, name in enumerate(MARVL)
        for place, box in enumerate(BOXES)
    ]
    detections = [[*box, 0.9] for box in BOXES] + [[0.0, 0.0, 12.5, 9.25, 0.4]]  # x, y, w, h, score
    files: dict[str, list[dict[str, Any]]] = {
        "itr_vlue_test": captions,
        "caption_vlue_test": [{**item, "image_id": number} for number, item in enumerate(captions)],
        "vqa_vlue_test": [
            {"question_id": n, "question": f"Is it a {phrase(rng, 1)}? ", "image": name, "answer": answer}
            for n, (name, answer) in enumerate(zip(MARVL * 2, ("yes", "2", "light blue", "no"), strict=True))
        ],
        "nlvr2_vlue_test": [
            {"sentence": f"The picture on the left shows {phrase(rng, 2)}", "images": images, "label": label}
            for images, label in ((MARVL, "True"), (MARVL[::-1], "False"))
        ],
        "refcoco+_vlue_test": refs,
        "refcoco+_bbox100_vlue_test": [{**ref, "dets": detections} for ref in refs],
    }
    written = {}
    for name, items in files.items():
        written[name] = root / f"{name}.json"
        written[name].write_text(json.dumps(items))
    return written


def write_lines(path: Path, items: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
