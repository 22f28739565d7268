"""VQA v2 (Goyal et al., CVPR 2017): questions about COCO's images, with ten answers each.

The release is `v2_OpenEnded_mscoco_PART_questions.json` and `v2_mscoco_PART_annotations.json`, and COCO's
folders `train2014`, `val2014` and `test2015`.  An image with its questions is one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

PARTS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}


def read(release: Release) -> Samples:
    """Yield each image with its questions; those of the test sets have no answers."""
    part = PARTS[release.split]
    folder = part.replace("-dev", "")
    questions = release.json(f"v2_OpenEnded_mscoco_{part}_questions.json")["questions"]
    answers: dict[int, Mapping[str, Any]] = {}
    if release.split in ("train", "val"):
        found = release.json(f"v2_mscoco_{part}_annotations.json")["annotations"]
        answers = {one["question_id"]: one for one in found}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in questions:
        fields = {"question_id": one["question_id"], "question": one["question"]}
        if answers:
            annotation = answers.get(one["question_id"])
            if annotation is None:
                yield BadRecord("question without answers", f"question {one['question_id']}")
                continue
            fields["answers"] = [answer["answer"] for answer in annotation["answers"]]
        by_image.setdefault(one["image_id"], []).append(fields)
    for image_id, own in by_image.items():
        file = f"{folder}/COCO_{folder}_{image_id:012}.jpg"
        yield Sample(
            file, release.path(file), {"image_id": image_id, "questions": own}, {"coco": str(image_id)}
        )


DATASET = Dataset(
    "VQA v2",
    "https://visualqa.org/download.html",
    "CC BY 4.0; images under the terms of Flickr",
    tuple(PARTS),
    read,
    "lines",
    {"images": "82,783 / 40,504 / 81,434", "questions": "443,757 / 214,354 / 447,793"},
)
