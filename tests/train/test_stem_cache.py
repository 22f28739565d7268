"""Kept views are what the frozen stem makes of the pixels; an interrupted computation goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_disk import fill, small_disk
from tests.tiny import photo, tiny_config, tiny_run, write_photos
from tests.train.interrupt import rows
from xvlm.batch import Images
from xvlm.data.images import open_image
from xvlm.data.sources import JsonSource
from xvlm.data.stem_views import StemViews
from xvlm.errors import OutputError
from xvlm.model.vision import VisionConfig, VisionEncoder, build_vision
from xvlm.records import BadRecord
from xvlm.tasks._build import SourceConfig
from xvlm.train import stem_cache
from xvlm.train.start import train
from xvlm.train.stem_cache import keep_stem

__all__ = ["small_disk"]
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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Images that are computed."""
    names: list[str] = []

    def noting(image: Any, key: str) -> Any:
        names.append(Path(image).name)
        return open_image(image, key=key)

    monkeypatch.setattr(stem_cache, "open_image", noting)
    return names


def test_reordered_lines_bring_their_own_images(
    encoder: VisionEncoder, tmp_path: Path, opened: list[str]
) -> None:
    """Keys are places in the file: by key alone, a caption would be learnt with another image's features."""
    lines = write_photos(tmp_path / "photos", 4)
    keep_stem(encoder, [JsonSource(lines)], tmp_path / "stem", 2, SCALE, workers=0)
    first, second, *others = lines.read_text().splitlines()
    lines.write_text("\n".join([second, first, *others]) + "\n")
    opened.clear()
    keep_stem(encoder, [JsonSource(lines)], tmp_path / "stem", 2, SCALE, workers=0)
    assert opened == ["1.jpg", "0.jpg"]  # the others are as they were
    keep_stem(encoder, [JsonSource(lines)], tmp_path / "anew", 2, SCALE, workers=0)
    assert contents(tmp_path / "stem") == contents(tmp_path / "anew")
    record = JsonSource(lines)[0]
    assert isinstance(record.image, str) and record.image.endswith("1.jpg")
    features, _ = StemViews(tmp_path / "stem").draw(record.key, np.random.default_rng(0), False)
    whole = open_image(record.image, key=record.key)
    pixels = np.asarray(whole.resized((0.0, 0.0, float(whole.width), float(whole.height)), (64, 64))).copy()
    assert encoder.stem is not None
    with torch.no_grad():
        images = Images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        expected = encoder.stem(encoder.normalised(images))[0]
    torch.testing.assert_close(features.float(), expected, atol=0.02, rtol=0.02)


def test_a_replaced_image_and_damaged_files_are_noticed(
    encoder: VisionEncoder, tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_photos(tmp_path / "photos", 3)
    stem = tmp_path / "stem"
    keep_stem(encoder, [JsonSource(lines)], stem, 2, SCALE, workers=0)
    opened.clear()
    photo(50, 40, 99).save(tmp_path / "photos" / "1.jpg")
    keep_stem(encoder, [JsonSource(lines)], stem, 2, SCALE, workers=0)
    assert opened == ["1.jpg"] and "1 images are others than when they were kept" in capsys.readouterr().err
    good = contents(stem)
    for name in ("features.bf16", "crops.npy", "mirrored.npy", "progress.json"):
        (stem / name).write_bytes((stem / name).read_bytes()[:-3])
        opened.clear()
        keep_stem(encoder, [JsonSource(lines)], stem, 2, SCALE, workers=0)
        assert opened == ["0.jpg", "1.jpg", "2.jpg"] and contents(stem) == good


def test_a_full_disk_is_one_sentence_and_goes_on(
    encoder: VisionEncoder, photos: JsonSource, kept: Path, small_disk: Path
) -> None:
    for leave_bytes in (0, 40_000, 26 * 4096):
        ballast = fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match=r"stem/\S+ cannot be written.*No space left on device"):
            keep_stem(encoder, [photos], small_disk / "stem", 4, SCALE, workers=0)
        ballast.unlink()
        assert not (small_disk / "stem" / "views.json").exists()
    keep_stem(encoder, [photos], small_disk / "stem", 4, SCALE, workers=0)
    assert contents(small_disk / "stem") == contents(kept)


FILLING = """
import sys
from pathlib import Path
import torch
from tests.train.test_stem_cache import CONFIG, SCALE
from xvlm.data.sources import JsonSource
from xvlm.model.vision import build_vision
from xvlm.train import stem_cache
torch.set_num_threads(1)
stem_cache.BLOCK = 1
torch.manual_seed(0)
encoder = build_vision(CONFIG).eval()
stem_cache.keep_stem(encoder, [JsonSource(Path(sys.argv[1]))], Path(sys.argv[2]), 4, SCALE, workers=0)
"""


def test_killed_at_any_moment_it_goes_on(
    encoder: VisionEncoder, photos: JsonSource, kept: Path, tmp_path: Path
) -> None:
    lines = Path(photos[1].image).parent / "photos.jsonl"  # type: ignore[arg-type]
    for name in ("features.bf16", "crops.npy"):  # killed once each of these is there
        process = subprocess.Popen([sys.executable, "-c", FILLING, str(lines), str(tmp_path)])
        while not (tmp_path / name).exists() or not (tmp_path / name).stat().st_size:
            assert process.poll() is None
        process.kill()
        process.wait()
    keep_stem(encoder, [photos], tmp_path, 4, SCALE, workers=0)
    assert contents(tmp_path) == contents(kept)
    assert not list(tmp_path.glob("*.partial"))


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
