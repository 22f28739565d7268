"""Every built-in scheme has random access and gives the same usable records every time."""

from __future__ import annotations

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest

from tests.grefcoco_data import write_grefcoco
from tests.refcoco_data import write_refcoco
from tests.tiny import write_photos
from xvlm.data.images.decode import open_image
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.sources.open import builtin_schemes, open_source
from xvlm.data.sources.task_fields import image_pair_of, questions_of, statements_of

SPECS = {
    "hf": "hf:rows?caption=text",
    "refcoco": "refcoco:refcoco+:unc",
    "grefcoco": "grefcoco:grefcoco:unc:val",
    "absent": "absent:photos/photos.jsonl?absent_texts=3",
    "scenes": "scenes:train:5?image_size=64&seed=3",
    "scene-cases": "scene-cases:heldout:5?image_size=64",
    "scene-phrases": "scene-phrases:test:5?image_size=64",
    "scene-questions": "scene-questions:train:5?image_size=64",
    "scene-pairs": "scene-pairs:test:5?image_size=64",
}
READERS = {"scene-questions": (questions_of,), "scene-pairs": (statements_of, image_pair_of)}
"""Readers of records without concepts."""


def write_rows(folder: Path, paths: list[Path]) -> None:
    """Write a data set as `save_to_disk` does."""
    images = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    rows = datasets.Dataset.from_dict({"image": images, "text": [path.stem for path in paths]})
    rows.cast_column("image", datasets.Image()).save_to_disk(folder)


@pytest.fixture(autouse=True)
def toy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files of `refcoco`, of `grefcoco`, of `absent` and of `hf` into the current folder."""
    write_refcoco(tmp_path / "refcoco+", tmp_path / "refcoco+")
    write_refcoco(tmp_path / "grefcoco", tmp_path / "grefcoco")
    write_grefcoco(tmp_path / "grefcoco")
    write_photos(tmp_path / "photos", 4)
    write_rows(tmp_path / "rows", [tmp_path / "photos" / f"{number}.jpg" for number in range(4)])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scheme", builtin_schemes())
def test_random_access_to_usable_records(scheme: str) -> None:
    assert scheme in SPECS, f"add a specification of the scheme {scheme} here"
    source = open_source(SPECS[scheme])
    assert len(source) == sum(source.shards) > 0 and source.name
    keys = []
    for index in range(len(source)):
        record = source[index]
        opened = open_image(record.image, key=record.key)
        usable, bad = usable_concepts(record, opened)
        assert not bad and all(read(record) is not None for read in READERS.get(scheme, ()))
        assert usable or scheme in READERS
        keys.append(record.key)
    assert len(set(keys)) == len(keys)
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("scheme", builtin_schemes())
def test_workers_read_the_same(scheme: str) -> None:
    """The source may be opened again, or pickled."""
    source = open_source(SPECS[scheme])
    for other in (open_source(SPECS[scheme]), pickle.loads(pickle.dumps(source))):
        assert len(other) == len(source)
        for index in (len(source) - 1, 0):
            expected, record = source[index], other[index]
            assert (record.key, record.concepts) == (expected.key, expected.concepts)
            assert np.array_equal(np.asarray(record.image), np.asarray(expected.image))


@pytest.mark.parametrize("scheme", builtin_schemes())
def test_wrong_specifications_say_what_is_expected(scheme: str) -> None:
    expected = r"expected (scenes:SPLIT:SIZE|hf:FOLDER)|split is|no file matches"
    expected += r"|No such file.*nowhere/g?refs\(many\)\."
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        open_source(f"{scheme}:nowhere:many")
