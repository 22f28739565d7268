"""Means over seeds, intervals over images, and the images that are held out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import write_photos
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import read_json
from xvlm.data.sources.json import JsonSource
from xvlm.experiments.held_out import held_out_split
from xvlm.experiments.seeds import OverSeeds, over_seeds, write_seeds
from xvlm.metrics.bootstrap import bootstrap_interval


def test_mean_and_deviation(tmp_path: Path) -> None:
    metrics = over_seeds([{"r1": 0.30}, {"r1": 0.36}, {"r1": 0.33}])
    assert metrics["r1"].mean == pytest.approx(0.33) and metrics["r1"].deviation == pytest.approx(0.03)
    write_seeds(tmp_path, metrics, {"r1": "recall", "absent": "nothing"}, "Three seeds.")
    assert read_json(tmp_path / "seeds.json")["r1"]["values"] == [0.30, 0.36, 0.33]
    assert (tmp_path / "seeds.md").read_text().splitlines()[-1] == "| recall | 33.0 ± 3.0 % |"


def test_a_metric_that_one_seed_lacks_has_no_mean() -> None:
    one = over_seeds([{"r1": 0.5}, {"r1": math.nan}])["r1"]
    assert math.isnan(one.mean) and math.isnan(one.deviation)


def test_one_seed_has_no_deviation() -> None:
    one = OverSeeds((0.5,))
    assert math.isnan(one.deviation) and one.percent() == "50.0 %"


@pytest.mark.parametrize("runs", [[], [{"a": 1.0}, {"b": 1.0}]])
def test_runs_that_cannot_be_compared(runs: list[dict[str, float]]) -> None:
    with pytest.raises(InputError, match=r"no run|different metrics: a, b"):
        over_seeds(runs)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Queries of an image are all right or all wrong, so there are only as many cases as images."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(150), 5)
    covered = 0
    for trial in range(200):
        values = np.repeat(rng.random(150) < 0.35, 5).astype(float)
        low, high = bootstrap_interval(values.tolist(), image.tolist(), seed=trial)
        covered += low <= 0.35 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_an_interval_over_images_is_wider_than_over_queries() -> None:
    values = [1.0, 1.0, 0.0, 0.0] * 50
    by_pairs = [query // 2 for query in range(200)]
    low, high = bootstrap_interval(values, by_pairs)
    narrow = bootstrap_interval(values, list(range(200)))
    assert high - low > 1.3 * (narrow[1] - narrow[0])
    assert bootstrap_interval([1.0] * 4, [0, 0, 1, 2]) == (1.0, 1.0)
    with pytest.raises(InputError, match="0 values of 0 queries"):
        bootstrap_interval([], [])


def region_lines(folder: Path, images: int, lines_per_image: int = 1) -> Path:
    """Write lines in the region form: the phrase "dog" has one box, "cat" has two."""
    rows = []
    for image in range(images):
        elems = [
            {"caption": ["dog", "cat"], "bb": [1, 2, 3, 4]},
            {"caption": "cat", "bb": [5, 6, 7, 8]},
        ]
        rows += [{"image": f"images/{image}.png", "caption": ["a dog"], "elems": elems}] * lines_per_image
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_held_out_images_are_in_one_part_only(tmp_path: Path) -> None:
    path = region_lines(tmp_path, 20, lines_per_image=2)
    split = held_out_split(path, tmp_path / "split", 6)
    train, choose = ({record.image for record in JsonSource(file)} for file in (split.train, split.choose))
    assert (len(train), len(choose)) == (14, 6) and not train & choose
    assert len(JsonSource(split.train)) == 28
    phrases = read_json(split.choose_phrases, list)
    assert {row["text"] for row in phrases} == {"dog"} and len(phrases) == 12
    assert phrases[0]["bbox"] == [1, 2, 3, 4]


def test_which_images_are_held_out_does_not_depend_on_their_order(tmp_path: Path) -> None:
    path = region_lines(tmp_path, 20)
    first = held_out_split(path, tmp_path / "a", 6).choose.read_text().splitlines()
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    again = held_out_split(path, tmp_path / "b", 6).choose.read_text().splitlines()
    assert sorted(first) == sorted(again) and first != again
    more = held_out_split(path, tmp_path / "c", 9).choose.read_text().splitlines()
    assert set(again) < set(more)


def test_what_cannot_be_held_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"train.jsonl is missing"):
        held_out_split(tmp_path / "train.jsonl", tmp_path, 1)
    path = region_lines(tmp_path, 3)
    with pytest.raises(InputError, match="has 3 images, and 3 are to be held out"):
        held_out_split(path, tmp_path, 3)
    path.write_text('{"image": "a.png"}\n[1]\n')
    with pytest.raises(InputError, match="line 2 is not an object with the path"):
        held_out_split(path, tmp_path, 1)


def test_the_photos_of_both_parts_are_found(tmp_path: Path) -> None:
    photos = write_photos(tmp_path, 5)
    split = held_out_split(photos, tmp_path / "out" / "split", 2)
    for file in (split.train, split.choose):
        for record in JsonSource(file, str(photos.parent)):
            assert Path(str(record.image)).is_file()
