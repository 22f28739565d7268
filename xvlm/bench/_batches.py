"""Steps of the shape that real data have, of noise: what is measured needs no data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from xvlm.batch import Texts
from xvlm.data.views import Row, Sample
from xvlm.model.xvlm import ModelConfig
from xvlm.records import BoxXYXY
from xvlm.tasks._batch import PretrainBatch, collate

CAPTION = (13.0, 3.0)
PHRASE = (7.5, 2.0)
"""Mean and deviation of lengths in tokens, as in the published data; at least `SHORTEST`."""
SHORTEST = 3
MASKED = 0.25


def lengths(mean_and_deviation: tuple[float, float], count: int, rng: np.random.Generator) -> list[int]:
    """(count,) whole numbers of tokens."""
    drawn = rng.normal(*mean_and_deviation, count)
    return [max(SHORTEST, round(float(length))) for length in drawn]


def row(length: int, box_xyxy: BoxXYXY | None, vocabulary: int, rng: np.random.Generator, number: int) -> Row:
    """A text of random tokens, a quarter of them hidden, at least one."""
    ids = [int(token) for token in rng.integers(vocabulary, size=length)]
    count = max(1, round(MASKED * (length - 1)))
    places = sorted(int(place) for place in 1 + rng.permutation(length - 1)[:count])
    hidden = [0 if place in places else token for place, token in enumerate(ids)]
    return Row(ids, hidden, places, [ids[place] for place in places], box_xyxy, number, number)


def box(rng: np.random.Generator) -> BoxXYXY:
    """Anywhere, from a tenth of the side to nearly all of it."""
    (x0, x1), (y0, y1) = np.sort(rng.uniform(0, 0.9, (2, 2)), axis=1).tolist()
    return x0, y0, x1 + 0.1, y1 + 0.1


def samples(
    config: ModelConfig,
    rows: Sequence[int],
    length: tuple[float, float],
    boxes: bool,
    rng: np.random.Generator,
) -> list[Sample]:
    """One image of noise with so many rows each."""
    height, width = config.vision.image_hw
    made = []
    for number, count in enumerate(rows):
        pixels = torch.from_numpy(rng.integers(256, size=(3, height, width), dtype=np.uint8))
        said = tuple(
            row(tokens, box(rng) if boxes else None, config.text.vocab_size, rng, 1000 * number + i)
            for i, tokens in enumerate(lengths(length, count, rng))
        )
        made.append(Sample(pixels, said))
    return made


def captions(config: ModelConfig, count: int, seed: int = 0) -> Texts:
    """Texts of the lengths of captions."""
    rng = np.random.default_rng(seed)
    several = lengths(CAPTION, count, rng)
    return Texts.pack([rng.integers(config.text.vocab_size, size=length).tolist() for length in several])


def image_batch(
    config: ModelConfig, pairs: int = 8, length: tuple[float, float] = CAPTION, seed: int = 0
) -> PretrainBatch:
    """Whole images with a caption each."""
    rng = np.random.default_rng(seed)
    return collate({"pairs": samples(config, [1] * pairs, length, False, rng)})


def region_batch(
    config: ModelConfig,
    rows: Sequence[int] = (4, 3, 3, 3, 3),
    length: tuple[float, float] = PHRASE,
    seed: int = 0,
) -> PretrainBatch:
    """Images with so many boxed phrases each (published: about 16 on 5 images)."""
    rng = np.random.default_rng(seed)
    return collate({"regions": samples(config, rows, length, True, rng)})
