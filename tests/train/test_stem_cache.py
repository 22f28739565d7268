"""Kept views are what the frozen stem makes of the pixels; an interrupted computation goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import tiny_config, tiny_run, write_photos
from tests.train.interrupt import rows
from xvlm.batch import Images
from xvlm.data.images import open_image
from xvlm.data.sources import JsonSource
from xvlm.data.stem_views import StemViews
from xvlm.model.vision import VisionConfig, VisionEncoder, build_vision
from xvlm.records import BadRecord
from xvlm.tasks._build import SourceConfig
from xvlm.train import stem_cache
from xvlm.train.start import train
from xvlm.train.stem_cache import keep_stem

CONFIG = VisionConfig("tf_efficientnet_lite0", (64, 64), stem_blocks=5, freeze_norm=True)
SCALE = (0.4, 1.0)


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return build_vision(CONFIG).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> JsonSource:
    """Five, of which the first does not decode."""
    return JsonSource(write_photos(tmp_path_factory.mktemp("photos"), 5, first_bad=True))


@pytest.fixture(scope="module")
def kept(encoder: VisionEncoder, photos: JsonSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keep_stem(encoder, [photos], tmp_path_factory.mktemp("stem"), 4, SCALE, workers=0)


def test_a_view_is_the_stem_of_its_crop(encoder: VisionEncoder, photos: JsonSource, kept: Path) -> None:
    views, rng = StemViews(kept), np.random.default_rng(0)
    record = photos[2]
    opened = open_image(record.image, key=record.key)
    seen = set()
    for mirrored in (False, True) * 8:
        features, where = views.draw(record.key, rng, mirrored)
        seen.add((where.crop_xyxy, where.mirrored))
        picture = torch.from_numpy(np.asarray(opened.resized(where.crop_xyxy, (64, 64))).copy()).permute(
            2, 0, 1
        )
        picture = picture.flip(-1) if mirrored else picture
        assert encoder.stem is not None
        with torch.no_grad():
            expected = encoder.stem(encoder.normalised(Images(picture[None])))[0]
        assert features.dtype == torch.bfloat16 and where.mirrored == mirrored
        torch.testing.assert_close(features.float(), expected, atol=0.02, rtol=0.02)
    assert len(seen) == 4
    whole = (0.0, 0.0, float(opened.width), float(opened.height))
    assert {(whole, False), (whole, True)} < seen


def test_a_bad_image_is_left_out_and_named_when_asked_for(photos: JsonSource, kept: Path) -> None:
    with pytest.raises(BadRecord, match="no kept views"):
        StemViews(kept).draw(photos[0].key, np.random.default_rng(0), False)


def contents(folder: Path) -> list[Any]:
    about = json.loads((folder / "views.json").read_text())
    return [(folder / "features.bf16").read_bytes(), {k: v for k, v in about.items() if k != "seconds"}]


def test_interrupted_and_resumed(
    encoder: VisionEncoder, photos: JsonSource, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first block, and between the last block and the list of keys."""
    monkeypatch.setattr(stem_cache, "BLOCK", 2)

    opened: list[str] = []

    def stopping(image: Any, key: str) -> Any:
        opened.append(Path(image).name)
        if opened == [f"{number}.jpg" for number in range(5)]:
            raise KeyboardInterrupt
        return open_image(image, key=key)

    monkeypatch.setattr(stem_cache, "open_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        keep_stem(encoder, [photos], tmp_path, 4, SCALE, workers=0)
    assert not (tmp_path / "views.json").exists()
    keep_stem(encoder, [photos], tmp_path, 4, SCALE, workers=0)
    assert opened == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "4.jpg"]
    assert contents(tmp_path) == contents(kept)
    (tmp_path / "views.json").unlink()
    keep_stem(encoder, [photos], tmp_path, 4, SCALE, workers=0)
    assert len(opened) == 6
    assert contents(tmp_path) == contents(kept)


def test_another_stem_computes_anew(photos: JsonSource, kept: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = build_vision(CONFIG)
    assert contents(keep_stem(other, [photos], tmp_path, 2, SCALE, workers=0)) != contents(kept)
    before = contents(tmp_path)
    assert contents(keep_stem(other, [photos], tmp_path, 2, (0.5, 1.0), workers=0)) != before


def test_what_cannot_be_kept_is_named(encoder: VisionEncoder, photos: JsonSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views is 3; it must be an even number"):
        keep_stem(encoder, [photos], tmp_path, 3)
    plain = build_vision(tiny_config("cnn").vision)
    with pytest.raises(ValueError, match="no frozen stem"):
        keep_stem(plain, [photos], tmp_path, 2)


def test_a_run_on_kept_views_trains_and_goes_on(photos: JsonSource, tmp_path: Path) -> None:
    run = tiny_run("cnn", steps=3, max_bad=1.0)
    source = (SourceConfig(str(Path(photos[1].image).parent / "photos.jsonl")),)  # type: ignore[arg-type]
    run = replace(
        run,
        model=replace(run.model, vision=CONFIG),
        data=replace(run.data, pairs=source, regions=source, stem_views=2, stem_cache=str(tmp_path / "stem")),
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(run, whole)
    train(run, parts, minutes=0.0)
    train(run, parts, resume=True)
    assert rows(whole) == rows(parts) and len(rows(whole)) == 3
