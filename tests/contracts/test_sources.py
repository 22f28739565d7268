"""Every scheme of sources: random access, the same records every time, usable by both views."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.refcoco_data import write_refcoco
from xvlm.data.checks import usable_concepts
from xvlm.data.fields import images_of, questions_of, statements_of
from xvlm.data.images import open_image
from xvlm.data.sources import SCHEMES, open_source

TOYS = {
    "refcoco": "refcoco:refcoco+:unc",
    "scenes": "scenes:train:5?image_size=64&seed=3",
    "scene-cases": "scene-cases:heldout:5?image_size=64",
    "scene-questions": "scene-questions:train:5?image_size=64",
    "scene-pairs": "scene-pairs:test:5?image_size=64",
}
ASKED = {"scene-questions": (questions_of,), "scene-pairs": (statements_of, images_of)}
"""What records say that hold no concepts."""


@pytest.fixture(autouse=True)
def toy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For schemes that read files: they lie in the current folder."""
    write_refcoco(tmp_path / "refcoco+", tmp_path / "refcoco+")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_access_to_usable_records(scheme: str) -> None:
    assert scheme in TOYS, f"scheme {scheme} has no toy yet; add one here"
    source = open_source(TOYS[scheme])
    assert len(source) == sum(source.shards) > 0 and source.name
    keys = []
    for index in range(len(source)):
        record = source[index]
        opened = open_image(record.image, key=record.key)
        usable, bad = usable_concepts(record, opened)
        assert not bad and all(read(record) is not None for read in ASKED.get(scheme, ()))
        assert usable or scheme in ASKED
        keys.append(record.key)
    assert len(set(keys)) == len(keys)
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_workers_read_the_same(scheme: str) -> None:
    """Opened again, and sent to another process."""
    source = open_source(TOYS[scheme])
    for other in (open_source(TOYS[scheme]), pickle.loads(pickle.dumps(source))):
        assert len(other) == len(source)
        for index in (3, 0):
            one, two = source[index], other[index]
            assert (one.key, one.concepts) == (two.key, two.concepts)
            assert np.array_equal(np.asarray(one.image), np.asarray(two.image))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nonsense_says_what_is_expected(scheme: str) -> None:
    expected = r"expected scenes:SPLIT:SIZE|split is|No such file.*nowhere/refs\(many\)\.p"
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        open_source(f"{scheme}:nowhere:many")
