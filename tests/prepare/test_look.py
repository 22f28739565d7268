"""The page of a source shows counts, problems and samples with their boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.prepare.many import run
from tests.published_data import write_lines
from tests.tiny import photo, write_photos
from xvlm.cli import main
from xvlm.common.errors import InputError
from xvlm.data.sources.open import open_source
from xvlm.prepare.look import write_look


def test_counts_and_samples(tmp_path: Path) -> None:
    source = open_source(str(write_photos(tmp_path, 9, first_bad=True)))
    page = write_look(tmp_path / "look.html", source, samples=4).read_text()
    assert page.count("<img") == 3, "one of four is damaged"
    for text in ("image does not decode", "words of a text", "box as a part of its image", "of 16"):
        assert text in page, text


@pytest.mark.parametrize("spec", ["scenes:test:6", "scene-questions:test:6", "scene-pairs:test:6"])
def test_every_kind_of_record(spec: str, tmp_path: Path) -> None:
    assert main(["data", "look", spec, "--out", str(tmp_path / "look.html")]) == 0
    assert "<img" in (tmp_path / "look.html").read_text()


def test_boxes_in_another_convention_are_hinted_at(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        photo(100, 80, number).save(tmp_path / f"{number}.png")
        elems = [{"caption": "a", "bb": [60, 50, 90, 75]}, {"caption": "b", "bb": [1, 1, 50, 50]}]
        rows.append({"image": f"{number}.png", "elems": elems})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_look(tmp_path / "look.html", open_source(str(path))).read_text()
    assert "if they were two corners" in page


def test_boxes_that_are_clipped_are_hinted_at(tmp_path: Path) -> None:
    """Read as x, y, width, height, corners often lie half outside and are clipped; the shards say it, too."""
    photo(100, 100, 1).save(tmp_path / "a.png")
    boxes = [[10, 10, 95, 95], [30, 5, 90, 60], [5, 40, 60, 96]]
    rows = [{"image": "a.png", "elems": [{"caption": "a dog", "bb": box} for box in boxes]}]
    write_lines(tmp_path / "in.jsonl", rows)
    page = write_look(tmp_path / "look.html", open_source(str(tmp_path / "in.jsonl"))).read_text()
    assert "3 of these 3 boxes would lie in their images if they were two corners" in page
    done = run(tmp_path / "in.jsonl", tmp_path / "out")
    assert "3 of these 3 boxes" in done.summary() and done.total("boxes") == 3
    page = write_look(tmp_path / "out.html", open_source(str(tmp_path / "out")), hint=done.box_hint())
    assert "3 of these 3 boxes" in page.read_text()


def test_nothing_to_see(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"image": "gone.png", "caption": "a"}\n')
    with pytest.raises(InputError, match=r"no record of .* can be used; first problem: .*missing"):
        write_look(tmp_path / "look.html", open_source(str(path)))
    assert main(["data", "lok", str(path)]) == 2
