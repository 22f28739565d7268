"""Checks before a run begins: image paths, names of fields; and the counters of bad records and notes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.data import make
from xvlm.common.errors import MissingFileError, TooManyBadRecordsError
from xvlm.data.loading.bad_records import BadRecordCounter
from xvlm.data.sources.open import open_source
from xvlm.data.sources.probe import check_image_paths
from xvlm.records import BadRecord, Concept, Note
from xvlm.tasks.common.sources import SourceConfig, open_sources


def lines(folder: Path, images: list[str]) -> str:
    return make.write_lines(folder / "a.jsonl", [{"image": image, "caption": "a"} for image in images])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(50):
        make.photo(8, 8).save(tmp_path / f"{number}.png")
    return tmp_path


def test_missing_images_are_one_sentence(folder: Path) -> None:
    path = lines(folder, [f"pictures/{number}.png" for number in range(50)])
    start = f"{path}: 32 of 32 images that were checked cannot be opened, for example {folder}/pictures/0.png"
    sentence = re.escape(start) + ".*image_root.* no pictures/0.png in it"
    with pytest.raises(MissingFileError, match=sentence):
        open_sources({"train": [SourceConfig(path)]})
    with pytest.raises(MissingFileError, match="32 of 32"):
        open_sources({"train": [SourceConfig(path, cache_in_memory=True)]})
    assert open_sources({"train": [SourceConfig(lines(folder, ["0.png"]), str(folder))]})


def test_some_missing_images_are_left_to_the_loader(folder: Path) -> None:
    check_image_paths(open_source(lines(folder, [f"{n}.png" if n % 4 else "none.png" for n in range(50)])))
    (folder / "bad.png").write_bytes(b"no image")
    check_image_paths(open_source(lines(folder, ["bad.png"] * 9)))
    check_image_paths(open_source("scenes:train:5?image_size=64"))


def test_second_images_are_checked_too(folder: Path) -> None:
    pairs = [
        {"images": [f"left/{n}.png", f"right/{n}.png"], "sentence": "a", "label": "True"} for n in range(9)
    ]
    (folder / "a.json").write_text(json.dumps(pairs))
    with pytest.raises(MissingFileError, match="18 of 18 images"):
        check_image_paths(open_source(str(folder / "a.json")))


def test_a_run_configures_the_names_of_fields(folder: Path) -> None:
    path = make.write_lines(folder / "b.jsonl", [{"picture": "1.png", "alt": "two back ##pack ##s"}])
    config = SourceConfig(path, image_key="picture", caption_key="alt", is_image_rpath=True, tokenized=True)
    ((source,),) = open_sources({"pairs": [config]}).values()
    assert source[0].concepts == (Concept(("two backpacks",)),) and source[0].image == str(folder / "1.png")


def test_notes_are_counted_but_not_as_bad(tmp_path: Path) -> None:
    counter = BadRecordCounter(tmp_path / "bad.jsonl", max_fraction=0.01, min_read=10)
    counter.add(100, [], [Note("box clipped", "k", "box ...")] * 40)
    counter.check()
    other = BadRecordCounter(tmp_path / "bad.jsonl")
    other.load_state_dict(counter.state_dict())
    assert other.note_lines() == [f"40 x box clipped (used); see {tmp_path}/bad.jsonl"]
    (line, *_) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {"note": "box clipped", "key": "k", "detail": "box ..."}


def test_too_many_bad_boxes_come_with_a_hint() -> None:
    counter = BadRecordCounter(max_fraction=0.01, min_read=10)
    bad = [BadRecord("box outside the image", "k", "box (90, 10, 210, 60) in an image of 128 x 128")] * 5
    counter.add(20, bad, [])
    hint = "5 of these 5 boxes would lie in their images if they were two"
    with pytest.raises(TooManyBadRecordsError, match=hint):
        counter.check()
