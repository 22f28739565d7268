"""Every public data set goes from its release to a training step, and what cannot be used is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contracts import toys
from tests.prepare.releases import RELEASES, dump, picture
from xvlm.data.images.decode import open_image
from xvlm.data.sources.open import open_source
from xvlm.prepare.prepare import Prepared, prepare
from xvlm.prepare.settings import Settings
from xvlm.prepare.shard import find_dataset
from xvlm.registry import names
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import DataConfig
from xvlm.training.train import train

ROOT = Path(__file__).resolve().parents[2]
DATASETS = names("prepare.datasets")
TASKS = {
    "vqa": "vqa",
    "nlvr2": "nlvr2",
    "snli_ve": "entailment",
    "nocaps": "captioning",
    "grefcoco": "detection",
}
"""Tasks that train on a data set alone; others have captions or regions to pre-train on."""

# Samples, captions, texts of regions, boxes and task items; samples, texts and boxes left out, by reason.
EXPECTED: dict[str, tuple[tuple[int, ...], dict[str, int], dict[str, int]]] = {
    "coco": ((3, 15, 3, 3, 0), {"image file missing": 1, "crowd annotation": 4}, {}),
    "visual_genome": (
        (3, 0, 9, 9, 0),
        {"image file missing": 1},
        {"box is empty": 3, "value is null": 3},
    ),
    "sbu": ((7, 7, 0, 0, 0), {"not downloaded": 1, "image does not decode": 1, "no text left": 1}, {}),
    "cc3m": ((7, 7, 0, 0, 0), {"not downloaded": 1, "image does not decode": 1, "no text left": 1}, {}),
    "cc12m": ((4, 4, 0, 0, 0), {"image file missing": 2, "row is not two columns": 1}, {}),
    "objects365": ((2, 0, 2, 2, 0), {"image file missing": 1, "crowd annotation": 3}, {}),
    "openimages": ((2, 2, 2, 2, 0), {"image without annotation": 1, "box of a group": 2}, {}),
    "flickr30k": ((2, 10, 0, 0, 0), {}, {}),
    "flickr30k_entities": ((1, 2, 2, 2, 0), {"not XML": 1}, {}),
    "refcoco": ((3, 0, 3, 3, 0), {}, {}),
    "refcoco_plus": ((3, 0, 3, 3, 0), {}, {}),
    "refcocog": ((3, 0, 3, 3, 0), {}, {}),
    "grefcoco": ((1, 0, 2, 3, 0), {}, {}),
    "vqa": ((2, 0, 0, 0, 3), {"question without answers": 1}, {}),
    "nlvr2": ((2, 0, 0, 0, 2), {"image file missing": 1}, {}),
    "snli_ve": ((2, 0, 0, 0, 10), {}, {}),
    "nocaps": ((1, 10, 0, 0, 0), {"image without annotation": 1}, {}),
    "vlue": ((2, 10, 0, 0, 0), {}, {}),
    "finehard": ((3, 6, 4, 2, 0), {"image file missing": 1, "entry is not as released": 1}, {}),
}


def prepared(name: str, folder: Path, **options: Any) -> Prepared:
    """Write the release of a data set, and prepare it by one process."""
    RELEASES[name](folder / "release")
    return prepare(name, str(folder / "release"), str(folder / "out"), workers=1, **options)


def training_run(name: str, out: Path) -> Any:
    """A toy run that trains on the data set."""
    source = (SourceConfig(str(out)),)
    task = TASKS.get(name)
    if task is not None and task != "detection":
        run = toys.RUNS[task]()
        return replace(run, data=replace(run.data, train=source, batch_size=2))
    found = [open_source(str(out))[number] for number in range(len(open_source(str(out))))]
    regions = any(one.box_xyxy is not None for record in found for one in record.concepts)
    run = toys.RUNS[task or "pretrain"]()
    if regions:
        data = replace(run.data, pairs=(), regions=source, regions_batch_size=2)
    else:
        data = DataConfig(pairs=source, pairs_batch_size=2, **toys.NO_AUGMENTATION)
    return replace(run, data=data)


@pytest.mark.parametrize("name", DATASETS)
def test_from_the_release_to_a_training_step(name: str, tmp_path: Path) -> None:
    assert name in RELEASES, f"data set {name} has no release yet; add one to tests/prepare/releases.py"
    done = prepared(name, tmp_path)
    counts, left_out, parts = EXPECTED[name]
    totals = ("samples", "captions", "region_texts", "boxes", "task_items")
    assert tuple(done.total(one) for one in totals) == counts
    assert done.tally("left_out").counts == left_out
    assert done.tally("parts_left_out").counts == parts
    described = json.loads((tmp_path / "out/dataset.json").read_text())
    assert described["counts"] == dict(zip(totals, counts, strict=True))
    assert len(open_source(str(tmp_path / "out"))) == counts[0]
    train(replace(training_run(name, tmp_path / "out"), seed=1), tmp_path / "run")


def test_sbu_as_it_was_released(tmp_path: Path) -> None:
    """Two lists beside each other, and images named by their place in them."""
    urls = [f"http://static.flickr.com/2723/438505896{number}_b0f291553e.jpg" for number in range(3)]
    dump(
        tmp_path / "in/sbu-captions-all.json",
        {"image_urls": urls, "captions": ["a", "b", "c"], "user_ids": [1] * 3},
    )
    for number in (0, 2):
        picture(tmp_path / f"in/images/{number:09}.jpg", number)
    done = prepare("sbu", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert done.tally("left_out").counts == {"image file missing": 1}
    found = [open_source(str(tmp_path / "out"))[number] for number in range(2)]
    assert [one.concepts[0].texts[0] for one in found] == ["a", "c"]
    assert found[1].extra["ids"] == {"flickr": "4385058962"}


def test_parts_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    RELEASES["cc3m"](tmp_path / "in")
    for number, part in enumerate(("train", "validation")):
        (tmp_path / f"in/0000{number}.tar").rename(tmp_path / f"in/cc3m-{part}-0000.tar")
    done = prepare("cc3m", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert (done.total("samples"), len(done.shards)) == (5, 1)


@pytest.mark.parametrize(("split", "items"), [("nlvr2", 1), ("vqa", 1), ("retrieval", 0)])
def test_every_task_of_vlue(split: str, items: int, tmp_path: Path) -> None:
    done = prepared("vlue", tmp_path, split=split)
    assert (done.total("samples"), done.total("task_items")) == (1 if items else 2, items)
    record = open_source(str(tmp_path / "out"))[0]
    assert open_image(record.image, key="k").width == 80
    if split == "nlvr2":
        assert open_image(record.extra["right"], key="k").width == 80


@pytest.mark.parametrize("name", DATASETS)
def test_what_every_data_set_says(name: str) -> None:
    dataset = find_dataset("prepare.datasets", name)
    assert dataset.link.startswith("https://") and dataset.licence and dataset.published and dataset.splits


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no |No such file"):
        prepare(name, str(tmp_path), str(tmp_path / "out"), workers=1)


def test_boxes_move_with_a_smaller_image(tmp_path: Path) -> None:
    full, small = tmp_path / "a", tmp_path / "b"
    prepared("visual_genome", full)
    prepared("visual_genome", small, settings=Settings(resize=30))
    for number in range(3):
        one, two = (open_source(str(folder / "out"))[number] for folder in (full, small))
        assert two.extra["width"] == one.extra["width"] / 2
        for a, b in zip(one.concepts, two.concepts, strict=True):
            assert a.texts == b.texts and a.attributes == b.attributes
            assert b.box_xyxy == pytest.approx([side / 2 for side in a.box_xyxy or ()], abs=0.01)


def test_regions_of_an_image_that_is_unknown_are_counted(tmp_path: Path) -> None:
    RELEASES["visual_genome"](tmp_path / "in")
    path = tmp_path / "in/region_descriptions.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps([*value, {**value[0], "id": 987654}]))
    done = prepare("visual_genome", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert done.tally("left_out").counts["image is not in image_data.json"] == 1
    assert "987654.jpg" in done.tally("left_out").examples["image is not in image_data.json"][0]


@pytest.mark.parametrize("data", [b"", b"no tar" * 300])
def test_one_damaged_shard_does_not_stop_the_others(data: bytes, tmp_path: Path) -> None:
    RELEASES["cc3m"](tmp_path / "in")
    (tmp_path / "in/00007.tar").write_bytes(data)
    done = prepare("cc3m", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert done.total("samples") == 7
    assert done.tally("left_out").counts["shard of the release is damaged"] == 1


def test_a_wrong_row_of_openimages_is_lost_alone(tmp_path: Path) -> None:
    RELEASES["openimages"](tmp_path / "in")
    path = next((tmp_path / "in").glob("*annotations-bbox.csv"))
    head, first, *rest = path.read_text().splitlines()
    wrong = ",".join("x" if one.startswith("0.") else one for one in first.split(","))
    path.write_text("\n".join([head, wrong, first, *rest]) + "\n")
    done = prepare("openimages", str(tmp_path / "in"), str(tmp_path / "out"), workers=1)
    assert done.total("samples") == EXPECTED["openimages"][0][0]
    assert done.tally("left_out").counts["entry is not as released"] == 1


def test_the_layout_of_a_release_is_where_the_error_says(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has no .* see docs/datasets\.md for its layout"):
        prepare("vqa", str(tmp_path), str(tmp_path / "out"), workers=1)
    assert "v2_OpenEnded_mscoco_PART_questions.json" in (ROOT / "docs/datasets.md").read_text(
        encoding="utf-8"
    )
