"""`hf:` opens a data set of a hub, or a folder, in each form that the package `datasets` has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from tests.tiny import photo
from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.images.decode import open_image
from xvlm.data.sources.open import open_source


def rows(folder: Path) -> datasets.Dataset:
    """Return two photos with texts."""
    for number in range(2):
        photo(40, 30, number).save(folder / f"{number}.png")
    columns = {"image": [str(folder / f"{number}.png") for number in range(2)], "caption": ["a dog", "a cat"]}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def saved(folder: Path) -> None:
    rows(folder).save_to_disk(folder / "set")


def saved_splits(folder: Path) -> None:
    every = rows(folder)
    datasets.DatasetDict({"train": every, "test": every.select([1])}).save_to_disk(folder / "set")


def parquet(folder: Path) -> None:
    (folder / "set").mkdir()
    rows(folder).cast_column("image", datasets.Image(decode=False)).map(embedded).to_parquet(
        folder / "set" / "train-00000-of-00001.parquet"
    )


def embedded(row: dict) -> dict:
    return {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}}


def images_with_metadata(folder: Path) -> None:
    (folder / "set").mkdir()
    rows(folder / "set")
    lines = [
        {"file_name": f"{number}.png", "caption": text} for number, text in enumerate(("a dog", "a cat"))
    ]
    (folder / "set" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the package caches out of the home folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("write", [saved, saved_splits, parquet, images_with_metadata])
def test_each_form_of_a_folder(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    source = open_source(f"hf:{tmp_path / 'set'}")
    assert [source[index].concepts[0].texts for index in range(len(source))] == [("a dog",), ("a cat",)]
    for index in range(2):
        assert open_image(source[index].image, key="k").image.tobytes() == photo(40, 30, index).tobytes()
    assert source[1].key == f"hf:{tmp_path / 'set'}/train[1]"


def test_splits_and_columns(tmp_path: Path) -> None:
    saved_splits(tmp_path)
    assert len(open_source(f"hf:{tmp_path / 'set'}?split=test")) == 1
    plain = rows(tmp_path).rename_columns({"image": "picture", "caption": "alt"})
    plain.save_to_disk(tmp_path / "renamed")
    source = open_source(f"hf:{tmp_path / 'renamed'}?image=picture&caption=alt")
    assert source[0].concepts[0].texts == ("a dog",)


def test_wrong_calls_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_splits(tmp_path)
    spec = f"hf:{tmp_path / 'set'}"
    with pytest.raises(InputError, match="has no split 'dev'; it has train, test"):
        open_source(f"{spec}?split=dev")
    with pytest.raises(InputError, match="has no column 'photo'; its columns are image, caption"):
        open_source(f"{spec}?image=photo")
    with pytest.raises(InputError, match="has no column 'txet'; its columns are image, caption"):
        open_source(f"{spec}?caption=txet")
    rows(tmp_path).save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match="has no split 'test'; it has "):
        open_source(f"hf:{tmp_path / 'one'}?split=test")
    with pytest.raises(InputError, match="unknown option 'spilt'; allowed are split, config, revision"):
        open_source(f"{spec}?spilt=train")
    with pytest.raises(InputError, match="there is no image_root"):
        open_source(spec, str(tmp_path))
    (tmp_path / "other").mkdir()
    images_with_metadata(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be loaded: Unknown split"):
        open_source(f"hf:{tmp_path / 'other' / 'set'}?split=dev")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="cannot be loaded"):
        open_source(f"hf:{tmp_path / 'empty'}")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingFileError, match=r"hf:nobody/nothing cannot be loaded: .*nobody/nothing"):
        open_source("hf:nobody/nothing")
