"""Generated shards are what the data streams of pre-training read, and rates count all that was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from xvlm.bench import data as bench_data
from xvlm.bench.common import photo_shards
from xvlm.bench.common.photo_shards import HEIGHT, REGIONS, WIDTH, noise_jpeg, write_shards
from xvlm.bench.common.reading import data_streams, reading_rates
from xvlm.common.errors import InputError
from xvlm.data.images.decode import open_image
from xvlm.data.loading.loader import StepDataset
from xvlm.data.sources.tar import TarSource
from xvlm.tasks.common.pretraining_batch import PretrainCollate

FILES = [noise_jpeg(seed) for seed in range(3)]


def test_shards_hold_photographs_with_captions_and_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_shards, "SHARD_IMAGES", 2)
    for regions in (False, True):
        source = TarSource(write_shards(tmp_path / str(regions), FILES, regions))
        assert list(source.shards) == [2, 1]
        for index, file in enumerate(FILES):
            record = source[index]
            assert record.image == file and 60e3 < len(file) < 150e3
            image = open_image(file, key="")
            assert (image.width, image.height) == (WIDTH, HEIGHT)
            boxes = [one.box_xyxy for one in record.concepts if one.box_xyxy is not None]
            assert len(boxes) == REGIONS * regions == len(record.concepts) - 1
            assert all(
                0 <= x0 < x1 <= WIDTH + 0.1 and 0 <= y0 < y1 <= HEIGHT + 0.1 for x0, y0, x1, y1 in boxes
            )


def test_no_sample_is_bad(tmp_path: Path) -> None:
    streams = data_streams(tmp_path, FILES, 32, {"pairs": 4, "regions": 3})
    step = StepDataset(streams, PretrainCollate(), seed=0)[0]
    assert not step.bad and not step.notes
    assert step.batches[0].pairs == 4 and len(step.batches[0].images) == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_every_rate_is_measured(workers: int, tmp_path: Path) -> None:
    rates = reading_rates(tmp_path, FILES, 32, {"pairs": 0, "regions": 2}, workers, 1, 1)
    assert rates.keys() == {
        "regions_images_per_s_and_core",
        "step_images_per_s",
        "step_images_per_s_and_core",
        "cores",
    }
    assert all(rate > 0 for rate in rates.values())


def test_a_step_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="a step needs an image"):
        bench_data.bench(pairs=0, region_images=0)
