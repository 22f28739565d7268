"""A few samples in each of the published files' formats, as the recipes read them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tests.refcoco_data import write_refcoco
from tests.tiny import photo, phrase

COUNT = 4
SIZE = (80, 64)
BOXES = [[4, 6, 40, 30], [30, 20, 44, 40]]
IMAGE_FOLDERS = (".", "coco", "visualgenome", "nlvr2")
PAIRS = ("coco", "vg", "sbu", "cc3m", "cc12m")
REGIONS = ("coco_objs", "vg_objs", "vg_regions", "openimages", "obj365", "refcoco_rm_leak")


def write_all(root: Path) -> None:
    """`pretrain`, `finetune` and `images` below `root`."""
    rng = np.random.default_rng(3)
    names = [f"{number}.jpg" for number in range(COUNT)]
    for folder in IMAGE_FOLDERS:
        (root / "images" / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            photo(*SIZE, number).save(root / "images" / folder / name)
    write_pretraining(root / "pretrain", rng)
    write_finetuning(root / "finetune", names, rng)
    write_refcoco(root / "finetune" / "refcoco+", root / "images" / "coco" / "train2014")


def write_pretraining(root: Path, rng: np.random.Generator) -> None:
    """Folders of files without a suffix, JSON lines with the image in base64."""
    file = io.BytesIO()
    photo(*SIZE, 0).save(file, "JPEG")
    binary = base64.b64encode(file.getvalue()).decode()
    for name in PAIRS:
        captions = (phrase(rng, 5) for _ in range(COUNT))
        write_lines(root / name / "part-0", ({"binary": binary, "caption": text} for text in captions))
    for name in REGIONS:
        elems = [{"caption": phrase(rng, 2), "attributes": ["old"], "bb": box} for box in BOXES]
        one: dict[str, Any] = {"binary": binary, "elems": elems}
        if name == "coco_objs":
            one["caption"] = [phrase(rng, 4), phrase(rng, 5)]
        write_lines(root / name / "part-0", [one] * COUNT)


def write_finetuning(root: Path, names: list[str], rng: np.random.Generator) -> None:
    """One JSON list a file."""
    said = [[phrase(rng, 4) for _ in range(5)] for _ in names]
    single = [
        {"image": name, "caption": text, "image_id": f"{n}"}
        for n, (name, texts) in enumerate(zip(names, said, strict=True))
        for text in texts
    ]
    several = [{"image": name, "caption": texts} for name, texts in zip(names, said, strict=True)]
    asked = [
        {"question_id": n, "question": f"what is {phrase(rng, 2)}?", "image": name, "dataset": "vqa"}
        for n, name in enumerate(names)
    ]
    people = [{**one, "answer": ["red"] * 6 + ["light blue"] * 4} for one in asked]
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
        "vqa_train": people,
        "vqa_val": people,
        "vg_qa": [{**one, "dataset": "vg", "answer": "green"} for one in asked],
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


def write_lines(path: Path, items: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
