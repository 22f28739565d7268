"""Batches of noise with the sizes of real ones, so that benchmarks need no data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from xvlm.batch import Texts
from xvlm.data.samples.builders import Sample
from xvlm.data.samples.text_rows import TextRow
from xvlm.models.xvlm import ModelConfig
from xvlm.records import BoxXYXY
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate

CAPTION = (13.0, 3.0)
PHRASE = (7.5, 2.0)
"""Mean and standard deviation of the number of tokens, as in the published data."""
MIN_TOKENS = 3
MASK_RATIO = 0.25


def sample_lengths(length: tuple[float, float], count: int, rng: np.random.Generator) -> list[int]:
    """Sample the numbers of tokens of `count` texts; `length` is their mean and standard deviation."""
    return [max(MIN_TOKENS, round(float(tokens))) for tokens in rng.normal(*length, count)]


def sample_row(
    length: int, box_xyxy: BoxXYXY | None, vocab_size: int, rng: np.random.Generator, key: int
) -> TextRow:
    """Sample a text of random tokens, a quarter of them masked, but at least one."""
    ids = [int(token) for token in rng.integers(vocab_size, size=length)]
    count = max(1, round(MASK_RATIO * (length - 1)))
    positions = sorted(int(position) for position in 1 + rng.permutation(length - 1)[:count])
    masked = [0 if position in positions else token for position, token in enumerate(ids)]
    return TextRow(ids, masked, positions, [ids[position] for position in positions], box_xyxy, key, key)


def sample_box(rng: np.random.Generator) -> BoxXYXY:
    """Sample a box anywhere in the image, whose sides are at least a tenth of the image's."""
    (x0, x1), (y0, y1) = np.sort(rng.uniform(0, 0.9, (2, 2)), axis=1).tolist()
    return x0, y0, x1 + 0.1, y1 + 0.1


def noise_samples(
    config: ModelConfig, rows_per_image: Sequence[int], length: tuple[float, float], boxes: bool
) -> list[Sample]:
    """Return an image of noise for each number of rows; `length` is as in `sample_lengths`."""
    rng = np.random.default_rng(0)
    height, width = config.vision.image_hw
    samples = []
    for image, count in enumerate(rows_per_image):
        pixels = torch.from_numpy(rng.integers(256, size=(3, height, width), dtype=np.uint8))
        rows = tuple(
            sample_row(
                tokens, sample_box(rng) if boxes else None, config.text.vocab_size, rng, 1000 * image + index
            )
            for index, tokens in enumerate(sample_lengths(length, count, rng))
        )
        samples.append(Sample(pixels, rows))
    return samples


def caption_texts(config: ModelConfig, count: int) -> Texts:
    """Return texts with the lengths of captions."""
    rng = np.random.default_rng(0)
    lengths = sample_lengths(CAPTION, count, rng)
    return Texts.pack([rng.integers(config.text.vocab_size, size=length).tolist() for length in lengths])


def image_batch(config: ModelConfig, pairs: int = 8, length: tuple[float, float] = CAPTION) -> PretrainBatch:
    """Return whole images with a caption each."""
    return collate({"pairs": noise_samples(config, [1] * pairs, length, False)})


def region_batch(config: ModelConfig, phrases_per_image: Sequence[int] = (4, 3, 3, 3, 3)) -> PretrainBatch:
    """Return images with phrases of regions (published: about 16 on 5 images)."""
    return collate({"regions": noise_samples(config, phrases_per_image, PHRASE, True)})
