"""Captions of regions: the decoder attends to the patches of a box, in training and for a user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.contracts import toys
from tests.evaluation.kit import predictor_of
from tests.tiny import write_photos
from xvlm.cli import main
from xvlm.common.errors import InputError
from xvlm.models.generation.config import GenerationConfig
from xvlm.predict import Predictor
from xvlm.records import BadRecord, Concept, Record
from xvlm.tasks import captioning
from xvlm.tasks.common.sources import SourceConfig

GREEDY = GenerationConfig(num_beams=1, min_tokens=0, max_tokens=12)
LEFT, RIGHT = (0.0, 0.0, 32.0, 64.0), (32.0, 0.0, 64.0, 64.0)


def halves() -> Record:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0], pixels[:, 32:, 2] = 255, 255
    concepts = (Concept(("large tree",)), Concept(("red dog",), LEFT), Concept(("blue cat",), RIGHT))
    return Record("halves", pixels, concepts)


def regions_run(folder: Path) -> captioning.CaptioningRun:
    write_photos(folder, 4)
    run = toys.RUNS["captioning"]()
    source = (SourceConfig(str(folder / "photos.jsonl")),)
    return replace(run, regions=True, captions_per_image=3, data=replace(run.data, train=source))


def test_learns_what_each_box_shows(tmp_path: Path) -> None:
    """One image, three texts: only the box tells which of them is meant."""
    built = captioning.build(regions_run(tmp_path / "photos"), tmp_path / "out")
    build_sample = built.steps.streams[0].build_sample
    tokenizer = built.bundle.tokenizer
    assert all(tokenizer.encode(word, 9)[1:] for word in ("red", "blue", "large", "tree"))
    batch = built.steps.collate({"train": [build_sample(halves(), np.random.default_rng(0))]})
    assert batch.concepts is not None and len(batch.concepts) == len(batch.captions) == 3
    task = built.loss_module
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    task.train()
    for _ in range(80):
        loss = task(batch)["caption"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = Predictor(replace(built.bundle, model=built.bundle.model.eval())).image(
        Image.fromarray(halves().image)
    )
    assert seen.caption(GREEDY, LEFT) == "red dog"
    assert seen.caption(GREEDY, RIGHT) == "blue cat"
    assert seen.caption(GREEDY) == "large tree"


def test_samples_have_boxes_and_captions(tmp_path: Path) -> None:
    built = captioning.build(regions_run(tmp_path / "photos"), tmp_path / "out")
    stream = built.steps.streams[0]
    sample = stream.build_sample(stream.sources[0][0], np.random.default_rng(0))
    assert len(sample.captions) == len(sample.boxes_xyxy) == 3
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in sample.boxes_xyxy)
    nothing = Record("k", np.zeros((9, 9, 3), dtype=np.uint8), ())
    with pytest.raises(BadRecord, match="there is no text to learn"):
        stream.build_sample(nothing, np.random.default_rng(0))


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 9), (5, 5, 3, 9), (-1, 0, 9, 9), (0, 0, 41, 9), (0, 0, float("nan"), 9)]
)
def test_a_box_outside_the_image_is_named(box: tuple[float, ...]) -> None:
    seen = predictor_of("caption_decoder").image(Image.new("RGB", (40, 30)))
    with pytest.raises(InputError, match="within an image of 40 x 30 pixels"):
        seen.caption(GREEDY, box)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import tiny_loaded_for
    from xvlm.models.checkpoints.folder import save_model

    model = save_model(tiny_loaded_for("caption_decoder"), tmp_path / "model")
    Image.effect_noise((60, 40), 90).convert("RGB").save(tmp_path / "a.png")
    words = ["caption", str(tmp_path / "a.png"), "--model", str(model), "--box", "10", "5", "40", "30"]
    assert main(words) == 0
    shown = capsys.readouterr().out.strip()
    assert shown == Predictor.load(model).image(tmp_path / "a.png").caption(box_xyxy=(10, 5, 40, 30))
    assert main([*words[:-1], "90"]) == 2
    assert "within an image of 60 x 40 pixels" in capsys.readouterr().err
