"""Before a run begins: are the images where the file says, and does a file say its names?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.data import make
from xvlm.data.loader import BadRecords, Fed
from xvlm.data.probe import check_images
from xvlm.data.sources import open_source
from xvlm.errors import MissingFileError, TooManyBadRecordsError
from xvlm.records import BadRecord, Concept, Note
from xvlm.tasks._build import SourceConfig, open_parts


def lines(folder: Path, images: list[str]) -> str:
    return make.write_lines(folder / "a.jsonl", [{"image": image, "caption": "a"} for image in images])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(50):
        make.photo(8, 8).save(tmp_path / f"{number}.png")
    return tmp_path


def test_images_that_are_not_there_are_one_sentence(folder: Path) -> None:
    path = lines(folder, [f"pictures/{number}.png" for number in range(50)])
    sentence = (
        f"{path}: 32 of 32 images that were looked for cannot be opened, for example {folder}/pictures/0.png"
    )
    with pytest.raises(
        MissingFileError, match=re.escape(sentence) + ".*image_root.* no pictures/0.png in it"
    ):
        open_parts({"train": [SourceConfig(path)]})
    with pytest.raises(MissingFileError, match="32 of 32"):
        open_parts({"train": [SourceConfig(path, cache=True)]})
    assert open_parts({"train": [SourceConfig(lines(folder, ["0.png"]), str(folder))]})


def test_some_that_are_missing_are_left_to_the_loader(folder: Path) -> None:
    check_images(open_source(lines(folder, [f"{n}.png" if n % 4 else "none.png" for n in range(50)])))
    (folder / "bad.png").write_bytes(b"no image")
    check_images(open_source(lines(folder, ["bad.png"] * 9)))
    check_images(open_source("scenes:train:5?image_size=64"))


def test_second_images_are_looked_for_too(folder: Path) -> None:
    pairs = [
        {"images": [f"left/{n}.png", f"right/{n}.png"], "sentence": "a", "label": "True"} for n in range(9)
    ]
    (folder / "a.json").write_text(json.dumps(pairs))
    with pytest.raises(MissingFileError, match="18 of 18 images"):
        check_images(open_source(str(folder / "a.json")))


def test_a_run_names_the_fields_of_its_files(folder: Path) -> None:
    path = make.write_lines(folder / "b.jsonl", [{"picture": "1.png", "alt": "two back ##pack ##s"}])
    config = SourceConfig(path, image_key="picture", caption_key="alt", is_image_rpath=True, tokenized=True)
    ((source,),) = open_parts({"pairs": [config]}).values()
    assert source[0].concepts == (Concept(("two backpacks",)),) and source[0].image == str(folder / "1.png")


def test_notes_are_counted_and_are_not_bad(tmp_path: Path) -> None:
    ledger = BadRecords(tmp_path / "bad.jsonl", max_share=0.01, least_read=10)
    ledger.add(Fed(0, [], {}, 100, [], notes=[Note("box clipped", "k", "box ...")] * 40))
    ledger.check()
    other = BadRecords(tmp_path / "bad.jsonl")
    other.load_state_dict(ledger.state_dict())
    assert other.note_lines() == [f"40 x box clipped (used); see {tmp_path}/bad.jsonl"]
    (line, *_) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line) == {"note": "box clipped", "key": "k", "detail": "box ..."}


def test_too_many_bad_boxes_come_with_a_hint() -> None:
    ledger = BadRecords(max_share=0.01, least_read=10)
    bad = [BadRecord("box outside the image", "k", "box (90, 10, 210, 60) in an image of 128 x 128")] * 5
    ledger.add(Fed(0, [], {}, 20, bad))
    with pytest.raises(
        TooManyBadRecordsError, match="5 of these 5 boxes would lie in their images if they were two"
    ):
        ledger.check()
