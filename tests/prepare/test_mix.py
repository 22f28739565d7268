"""A mix says what is in it and what training on it means; recipes read it; a leak stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prepare.many import run, write_many
from xvlm.cli.prepare import command_for
from xvlm.common.errors import InputError, MissingFileError
from xvlm.prepare.leaks import LeakError
from xvlm.prepare.mix import describe_mix, read_mix
from xvlm.recipes.published import base_4m

MIX = """
steps = 100
pairs_batch_size = 8
regions_batch_size = 4
images_per_second = 10.0

[[pairs]]
path = "shards"
weight = 3.0

[[pairs]]
path = "scenes:train:40?image_size=64"
weight = 1.0

[[regions]]
path = "shards"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run(write_many(tmp_path / "in"), tmp_path / "shards")
    (tmp_path / "mix.toml").write_text(MIX)
    return tmp_path


def test_what_a_mix_means(folder: Path) -> None:
    lines = describe_mix(folder / "mix.toml").splitlines()
    assert lines[2] == f"| pairs: {folder}/shards | 22 | 66 | 22 | {100 * 8 * 0.75 / 22:.2f} |"
    assert lines[3] == "| pairs: scenes:train:40?image_size=64 | 40 |  |  | 5.00 |"
    assert lines[4].startswith(f"| regions: {folder}/shards | 22 |")
    assert lines[-1] == "100 steps, 1,200 images, 0.0 hours at 10 images/s"
    assert "0.1 hours at 5 images/s" in describe_mix(folder / "mix.toml", images_per_second=5)


def test_a_recipe_reads_it(folder: Path) -> None:
    data = base_4m.recipe(mix=str(folder / "mix.toml")).data
    assert [(one.path, one.weight) for one in data.pairs] == [
        (str(folder / "shards"), 3.0),
        ("scenes:train:40?image_size=64", 1.0),
    ]
    assert [one.path for one in data.regions] == [str(folder / "shards")]


def test_a_leak_stops_it(folder: Path) -> None:
    mix = folder / "mix.toml"
    mix.write_text(MIX + '[[evaluation]]\npath = "in/many.jsonl"\n')
    with pytest.raises(LeakError, match=r"22 images are also elsewhere"):
        describe_mix(mix)
    assert "| pairs" in describe_mix(mix, check_leaks=False)


def test_images_are_found_by_the_image_root(folder: Path) -> None:
    mix = folder / "mix.toml"
    (folder / "in/many.jsonl").rename(folder / "eval.jsonl")
    mix.write_text(MIX + '[[evaluation]]\npath = "eval.jsonl"\nimage_root = "in"\n')
    with pytest.raises(LeakError, match=r"22 images are also elsewhere"):
        describe_mix(mix)


def test_the_table_is_printed_as_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_for(["mix", str(folder / "mix.toml")])()
    said = capsys.readouterr()
    assert said.out.splitlines() == describe_mix(folder / "mix.toml").splitlines() and not said.err


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("steps = 3", InputError, r"has neither \[\[pairs\]\] nor \[\[regions\]\]"),
        ("steps == 3", InputError, "mix.toml is not TOML"),
        ('[[pairs]]\npth = "x"', InputError, "pth"),
        ('[[pairs]]\npath = "gone"', MissingFileError, "gone"),
        ('[[pairs]]\npath = "scenes:train:4"\nweight = -1.0', InputError, "weight is -1"),
        ('steps = -1\n[[pairs]]\npath = "scenes:train:4"', InputError, "steps is -1"),
        ('pairs_batch_size = 0\n[[pairs]]\npath = "scenes:train:4"', InputError, "pairs_batch_size is 0"),
    ],
)
def test_wrong_mixes(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(error, match=message):
        describe_mix(tmp_path / "mix.toml")


def test_a_mix_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_mix(tmp_path / "gone.toml")
