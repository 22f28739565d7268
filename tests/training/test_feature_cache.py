"""Cached features equal the frozen stem of the pixels; an interrupted computation is resumable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.small_disk import fill as fill_disk
from tests.small_disk import small_disk
from tests.tiny import photo, tiny_config, tiny_run, write_photos
from tests.training.interrupt import rows
from xvlm.batch import Images
from xvlm.common.errors import OutputError
from xvlm.data.images.decode import open_image
from xvlm.data.samples.cached_views import CachedFeatureViews
from xvlm.data.sources.json import JsonSource
from xvlm.models.vision.build import build_vision
from xvlm.models.vision.encoder import VisionConfig, VisionEncoder
from xvlm.records import BadRecord
from xvlm.tasks.common.sources import SourceConfig
from xvlm.training import feature_cache as feature_cache_module
from xvlm.training.feature_cache import feature_cache
from xvlm.training.train import train

__all__ = ["small_disk"]
CONFIG = VisionConfig("tf_efficientnet_lite0", (64, 64), frozen_stem_blocks=5, freeze_batch_norm=True)


def fill(
    encoder: VisionEncoder, sources: list[JsonSource], folder: Path, views: int = 4, **options: Any
) -> Path:
    """Fill a cache in this process."""
    with feature_cache(encoder, sources, folder, views, workers=0, **options):
        return folder


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return build_vision(CONFIG).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> JsonSource:
    """Return a source of five images, of which the first cannot be decoded."""
    return JsonSource(write_photos(tmp_path_factory.mktemp("photos"), 5, first_bad=True))


@pytest.fixture(scope="module")
def cached(encoder: VisionEncoder, photos: JsonSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(encoder, [photos], tmp_path_factory.mktemp("stem"))


def test_a_cached_view_is_the_stem_of_its_crop(
    encoder: VisionEncoder, photos: JsonSource, cached: Path
) -> None:
    views, rng = CachedFeatureViews(cached), np.random.default_rng(0)
    record = photos[2]
    opened = open_image(record.image, key=record.key)
    sampled = set()
    for is_flipped in (False, True) * 8:
        features, crop_xyxy = views.sample(record.key, rng, is_flipped)
        sampled.add((crop_xyxy, is_flipped))
        crop = np.asarray(opened.resized(crop_xyxy, (64, 64))).copy()
        picture = torch.from_numpy(crop).permute(2, 0, 1)
        picture = picture.flip(-1) if is_flipped else picture
        assert encoder.stem is not None
        with torch.no_grad():
            expected = encoder.stem(encoder.normalize(Images(picture[None])))[0]
        assert features.dtype == torch.bfloat16
        torch.testing.assert_close(features.float(), expected, atol=0.02, rtol=0.02)
    assert len(sampled) == 4
    whole = (0.0, 0.0, float(opened.width), float(opened.height))
    assert {(whole, False), (whole, True)} < sampled


def test_a_bad_image_is_left_out_and_named_when_it_is_sampled(photos: JsonSource, cached: Path) -> None:
    with pytest.raises(BadRecord, match="no kept views"):
        CachedFeatureViews(cached).sample(photos[0].key, np.random.default_rng(0), False)


def contents(folder: Path) -> list[Any]:
    about = json.loads((folder / "views.json").read_text())
    return [(folder / "features.bf16").read_bytes(), {k: v for k, v in about.items() if k != "seconds"}]


def test_interrupted_and_resumed(
    encoder: VisionEncoder, photos: JsonSource, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the first block, and between the last block and the list of keys."""
    monkeypatch.setattr(feature_cache_module, "BLOCK", 2)

    opened: list[str] = []

    def stopping(image: Any, key: str) -> Any:
        opened.append(Path(image).name)
        if opened == [f"{number}.jpg" for number in range(5)]:
            raise KeyboardInterrupt
        return open_image(image, key=key)

    monkeypatch.setattr(feature_cache_module, "open_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        fill(encoder, [photos], tmp_path)
    assert not (tmp_path / "views.json").exists()
    fill(encoder, [photos], tmp_path)
    assert opened == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "4.jpg"]
    assert contents(tmp_path) == contents(cached)
    (tmp_path / "views.json").unlink()
    fill(encoder, [photos], tmp_path)
    assert len(opened) == 6
    assert contents(tmp_path) == contents(cached)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the names of the images that are computed."""
    names: list[str] = []

    def noting(image: Any, key: str) -> Any:
        names.append(Path(image).name)
        return open_image(image, key=key)

    monkeypatch.setattr(feature_cache_module, "open_image", noting)
    return names


def test_reordered_lines_are_computed_again(
    encoder: VisionEncoder, tmp_path: Path, opened: list[str]
) -> None:
    """Keys are positions in the file: by key alone, a caption would get the features of another image."""
    lines = write_photos(tmp_path / "photos", 4)
    fill(encoder, [JsonSource(lines)], tmp_path / "stem", 2)
    first, second, *others = lines.read_text().splitlines()
    lines.write_text("\n".join([second, first, *others]) + "\n")
    opened.clear()
    fill(encoder, [JsonSource(lines)], tmp_path / "stem", 2)
    assert opened == ["1.jpg", "0.jpg"]  # the other lines did not change
    fill(encoder, [JsonSource(lines)], tmp_path / "anew", 2)
    assert contents(tmp_path / "stem") == contents(tmp_path / "anew")
    record = JsonSource(lines)[0]
    assert isinstance(record.image, str) and record.image.endswith("1.jpg")
    features, _ = CachedFeatureViews(tmp_path / "stem").sample(record.key, np.random.default_rng(0), False)
    whole = open_image(record.image, key=record.key)
    pixels = np.asarray(whole.resized((0.0, 0.0, float(whole.width), float(whole.height)), (64, 64))).copy()
    assert encoder.stem is not None
    with torch.no_grad():
        images = Images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        expected = encoder.stem(encoder.normalize(images))[0]
    torch.testing.assert_close(features.float(), expected, atol=0.02, rtol=0.02)


def test_another_url_in_the_same_line_is_another_image(tmp_path: Path) -> None:
    lines, fingerprints = tmp_path / "remote.jsonl", []
    for number in range(2):
        lines.write_text(json.dumps({"image": f"{number}.jpg", "caption": "a dog"}) + "\n")
        source = JsonSource(lines, "https://example.org")
        assert source[0].image == f"https://example.org/{number}.jpg"
        views = feature_cache_module._ViewDataset([source], (64, 64), 2, (0.4, 1.0))
        fingerprints += views.fingerprints()
    assert len(set(fingerprints)) == 2


def test_a_replaced_image_and_damaged_files_are_detected(
    encoder: VisionEncoder, tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_photos(tmp_path / "photos", 3)
    stem = tmp_path / "stem"
    fill(encoder, [JsonSource(lines)], stem, 2)
    opened.clear()
    photo(50, 40, 99).save(tmp_path / "photos" / "1.jpg")
    fill(encoder, [JsonSource(lines)], stem, 2)
    assert opened == ["1.jpg"] and "1 images have changed and are computed again" in capsys.readouterr().err
    opened.clear()
    for path in (tmp_path / "photos").iterdir():
        os.utime(path, (0, 0))  # as a copy of the data set has other times
    fill(encoder, [JsonSource(lines)], stem, 2)
    assert not opened
    good = contents(stem)
    for name in ("features.bf16", "crops.npy", "mirrored.npy", "progress.json"):
        (stem / name).write_bytes((stem / name).read_bytes()[:-3])
        opened.clear()
        fill(encoder, [JsonSource(lines)], stem, 2)
        assert opened == ["0.jpg", "1.jpg", "2.jpg"] and contents(stem) == good


def test_a_full_disk_is_an_error_and_filling_continues(
    encoder: VisionEncoder, photos: JsonSource, cached: Path, small_disk: Path
) -> None:
    for leave_bytes in (0, 40_000, 26 * 4096):
        ballast = fill_disk(small_disk, leave_bytes)
        with pytest.raises(OutputError, match=r"stem/\S+ cannot be written.*No space left on device"):
            fill(encoder, [photos], small_disk / "stem")
        ballast.unlink()
        assert not (small_disk / "stem" / "views.json").exists()
    fill(encoder, [photos], small_disk / "stem")
    assert contents(small_disk / "stem") == contents(cached)


FILLING = """
import sys
from pathlib import Path
import torch
from tests.training.test_feature_cache import CONFIG, fill
from xvlm.data.sources.json import JsonSource
from xvlm.models.vision.build import build_vision
from xvlm.training import feature_cache
torch.set_num_threads(1)
feature_cache.BLOCK = 1
torch.manual_seed(0)
encoder = build_vision(CONFIG).eval()
fill(encoder, [JsonSource(Path(sys.argv[1]))], Path(sys.argv[2]))
"""


def test_filling_continues_after_a_kill_at_any_moment(
    encoder: VisionEncoder, photos: JsonSource, cached: Path, tmp_path: Path
) -> None:
    lines = Path(photos[1].image).parent / "photos.jsonl"  # type: ignore[arg-type]
    for name in ("features.bf16", "crops.npy"):  # kill when each of these exists
        process = subprocess.Popen([sys.executable, "-c", FILLING, str(lines), str(tmp_path)])
        while not (tmp_path / name).exists() or not (tmp_path / name).stat().st_size:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
        process.wait()
    fill(encoder, [photos], tmp_path)
    assert contents(tmp_path) == contents(cached)
    assert not list(tmp_path.glob("*.partial"))


def test_another_stem_or_scale_is_computed_again(photos: JsonSource, cached: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = build_vision(CONFIG)
    assert contents(fill(other, [photos], tmp_path, 2)) != contents(cached)
    before = contents(tmp_path)
    assert contents(fill(other, [photos], tmp_path, 2, scale=(0.5, 1.0))) != before


def test_impossible_settings_are_errors(encoder: VisionEncoder, photos: JsonSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views is 3; it must be an even number"):
        fill(encoder, [photos], tmp_path, 3)
    plain = build_vision(tiny_config("cnn").vision)
    with pytest.raises(ValueError, match="no frozen stem"):
        fill(plain, [photos], tmp_path, 2)


def test_a_run_on_cached_views_is_resumable(photos: JsonSource, tmp_path: Path) -> None:
    run = tiny_run("cnn", steps=3, max_bad=1.0)
    source = (SourceConfig(str(Path(photos[1].image).parent / "photos.jsonl")),)  # type: ignore[arg-type]
    run = replace(
        run,
        model=replace(run.model, vision=CONFIG),
        data=replace(
            run.data, pairs=source, regions=source, cached_views=2, feature_cache=str(tmp_path / "stem")
        ),
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(run, whole)
    train(run, parts, minutes=0.0)
    train(run, parts, resume=True)
    assert rows(whole) == rows(parts) and len(rows(whole)) == 3
