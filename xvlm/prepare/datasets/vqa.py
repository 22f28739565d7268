"""VQA v2 (Goyal et al., CVPR 2017): questions about COCO's images, with ten answers each.

The release is `v2_OpenEnded_mscoco_PART_questions.json` and `v2_mscoco_PART_annotations.json`, and COCO's
folders `train2014`, `val2014` and `test2015`.  An image with its questions is one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xvlm.prepare.entries import read_parts
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.sample import Sample, Samples
from xvlm.records import BadRecord

PARTS = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}


def read(release: Release) -> Samples:
    """Yield each image with its questions; those of the test sets have no answers."""
    part = PARTS[release.split]
    folder = part.replace("-dev", "")
    bad: list[BadRecord] = []
    answers: dict[int, list[str]] | None = None
    if release.split in ("train", "val"):
        file = f"v2_mscoco_{part}_annotations.json"
        answers = dict(read_parts(_answers, release.json_list("annotations", file), file, bad))

    def question(one: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        number = int(one["question_id"])
        fields = {"question_id": number, "question": one["question"]}
        if answers is not None:
            if number not in answers:
                raise BadRecord("question without answers", f"question {number}")
            fields["answers"] = answers[number]
        return int(one["image_id"]), fields

    file = f"v2_OpenEnded_mscoco_{part}_questions.json"
    by_image: dict[int, list[dict[str, Any]]] = {}
    for image_id, fields in read_parts(question, release.json_list("questions", file), file, bad):
        by_image.setdefault(image_id, []).append(fields)
    yield from bad
    for image_id, own in by_image.items():
        file = f"{folder}/COCO_{folder}_{image_id:012}.jpg"
        yield Sample(
            file, release.path(file), {"image_id": image_id, "questions": own}, {"coco": str(image_id)}
        )


def _answers(one: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return a question's id and its answers."""
    return int(one["question_id"]), [answer["answer"] for answer in one["answers"]]


DATASET = Dataset(
    "VQA v2",
    "https://visualqa.org/download.html",
    "CC BY 4.0; images under the terms of Flickr",
    tuple(PARTS),
    read,
    "lines",
    {"images": "82,783 / 40,504 / 81,434", "questions": "443,757 / 214,354 / 447,793"},
)
