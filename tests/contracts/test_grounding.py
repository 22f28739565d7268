"""Samples of grounding: after all transforms, box and text belong to the object in the pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.contracts import toys
from tests.refcoco_data import write_refcoco
from tests.tiny import photo, tiny_config
from xvlm.data.samples.builders import Sample
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import MissingHead
from xvlm.predict import Predictor
from xvlm.records import Concept, Record
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task
from xvlm.training.train import train

SIDE = 96
TEXTS = {
    "red thing on the {}": True,
    "the {}most red thing": True,
    "red thing on the far {} side": True,
    "red thing": True,
    "{} red thing": False,
    "red thing has {} the table": False,
    "red thing is all {}": False,
}
"""Phrases, and whether they can be flipped."""

SampleBuilder = Callable[[Record, np.random.Generator], Sample]


@pytest.fixture(scope="module", params=["grounding", "weak_grounding"])
def trained_on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a task, its sample builder and its tokenizer, without colour augmentation."""
    folder = tmp_path_factory.mktemp("boxes")
    photo(40, 30, 0).save(folder / "a.jpg")
    texts = [text.format(side) for text in TEXTS for side in ("left", "right")]
    records = [{"image": "a.jpg", "text": text, "bbox": [2, 2, 20, 20]} for text in texts]
    (folder / "a.json").write_text(json.dumps(records))
    run = toys.RUNS[request.param]()
    weak = request.param == "weak_grounding"
    source = (SourceConfig(str(folder / "a.json")),)
    data = replace(run.data, random_crop=find_task(request.param).run().data.random_crop, random_flip=True)
    data = replace(data, **{"pairs" if weak else "regions": source}, max_regions=1)
    model = tiny_config("cnn", (SIDE, SIDE), vocab_size=TextConfig.vocab_size)
    run = replace(run, data=data, model=replace(model, heads=run.model.heads))
    built = find_task(request.param).build(replace(run, init=InitConfig(vocab_size=200)), folder / "out")
    yield request.param, built.steps.streams[0].build_sample, built.bundle.tokenizer


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_boxes_and_sides_follow_the_picture(trained_on: Any, data: st.DataObject) -> None:
    """A red object has a blue one beside it; with boxes, every crop contains the whole red one."""
    task, view, tokenizer = trained_on
    width, height = data.draw(st.integers(100, 200)), data.draw(st.integers(80, 200))
    split = data.draw(st.integers(width // 2 - 10, width // 2 + 10))
    left = data.draw(st.booleans())
    x0, x1 = (data.draw(st.integers(2, split - 30)), split - 4) if left else (split + 4, width - 2)
    y0 = data.draw(st.integers(2, height - 40))
    red, blue = (x0, y0, x1, y0 + 36), ((split + 2, 0, width, height) if left else (0, 0, split - 2, height))
    pixels = Image.new("RGB", (width, height), (0, 60, 0))
    pixels.paste((0, 0, 255), blue)
    pixels.paste((255, 255, 0), red)  # its yellow rim shows whether the crop cuts a side off
    pixels.paste((255, 0, 0), (red[0] + 5, red[1] + 5, red[2] - 5, red[3] - 5))
    pattern = data.draw(st.sampled_from(sorted(TEXTS)))
    text = pattern.format("left" if left else "right")
    record = Record("k", np.asarray(pixels), (Concept((text,), tuple(map(float, red))),))
    sample = view(record, np.random.default_rng(data.draw(st.integers(0, 2**32))))

    (row,) = sample.rows
    said = tokenizer.decode(row.ids)
    seen_3HW = sample.pixels.numpy()
    is_red, is_blue = seen_3HW[0] > 128, seen_3HW[2] > 128
    columns, rows = np.nonzero(is_red.any(0))[0], np.nonzero(is_red.any(1))[0]
    if task == "grounding":
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SIDE
        assert np.abs(np.array(row.box_xyxy) - edges).max() * SIDE <= 1.5
        across, down = (columns[0] + columns[-1]) // 2, (rows[0] + rows[-1]) // 2
        rims = [(rows[0], across), (rows[-1], across), (down, columns[0]), (down, columns[-1])]
        assert all(seen_3HW[1][rim] > 70 for rim in rims), "the crop contains the whole object"
    else:
        assert row.box_xyxy is None and is_blue.any()
    if is_blue.any():
        seen_left = columns.mean() < np.nonzero(is_blue.any(0))[0].mean()
        assert said == pattern.format("left" if seen_left else "right")
        assert TEXTS[pattern] or seen_left == left, "a text that cannot be flipped forbids the flip"
    else:
        assert TEXTS[pattern] or said == text


def test_both_sides_are_seen(trained_on: Any) -> None:
    """Otherwise the test above could not fail."""
    _, view, tokenizer = trained_on
    pixels = np.asarray(photo(90, 80, 3))
    for text, is_flipped in (("red thing on the left", True), ("left red thing", False)):
        record = Record("k", pixels, (Concept((text,), (5.0, 5.0, 40.0, 40.0)),))
        said = {tokenizer.decode(view(record, np.random.default_rng(seed)).rows[0].ids) for seed in range(30)}
        assert said == ({text, text.replace("left", "right")} if is_flipped else {text})


@pytest.mark.parametrize("task", ["grounding", "weak_grounding"])
def test_trains_on_the_released_files(task: str, tmp_path: Path) -> None:
    """One step on files in the form of RefCOCO; a missing head is named."""
    write_refcoco(tmp_path / "refcoco+", tmp_path / "train2014")
    run = toys.RUNS[task]()
    source = (SourceConfig(f"refcoco:{tmp_path}/refcoco+:unc:train", str(tmp_path / "train2014")),)
    name = "pairs" if task == "weak_grounding" else "regions"
    run = replace(run, data=replace(run.data, **{name: source, f"{name}_batch_size": 2}))
    _, state = train(run, tmp_path / "out", minutes=0.0)
    assert state.bad["counts"] == {} and state.step == 1
    predictor = Predictor.load(tmp_path / "out")
    if task == "weak_grounding":
        with pytest.raises(MissingHead, match="no head 'box'"):
            predictor.image(tmp_path / "train2014" / "COCO_train2014_000000000058.jpg").ground("red dog")
