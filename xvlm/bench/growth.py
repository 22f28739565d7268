"""How time and memory grow: with images, concepts, text length, resolution, candidates, ranks.

Each curve is measured at a few sizes and fitted by a power, time ~ size^exponent, at the largest of them: at
small sizes what does not grow, such as the optimiser's pass over the weights, hides the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm import dist
from xvlm.batch import Images
from xvlm.bench._batches import PHRASE, captions, image_batch, region_batch
from xvlm.bench._yardstick import forget_peak, peak_gb, seconds, told
from xvlm.bench.step import Step, new_task, pretraining
from xvlm.evaluate._candidates import Side, contrastive_candidates
from xvlm.evaluate._states import TextStates
from xvlm.evaluate.retrieval import match_pairs
from xvlm.losses.contrastive import similarity, soft_cross_entropy
from xvlm.model.vision import build_vision
from xvlm.progress import tracked
from xvlm.ranges import PositiveInt
from xvlm.report import write_svg
from xvlm.report.growth import Growth, growth_svg
from xvlm.tasks.pretrain import PretrainRun

Measure = Callable[[int], tuple[float, float]]
"""Size -> (seconds, gigabytes at the peak)."""


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Of the power law through the three points of the largest sizes, or the two that there are."""
    slope, _ = np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)
    return float(slope)


def unit(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width) vectors of length 1."""
    return F.normalize(torch.randn(count, width, device=device), dim=-1)


class Curves:
    """What is measured: each method maps a size to time and memory."""

    def __init__(self, run: PretrainRun, repeats: int) -> None:
        self.run, self.repeats, self.device = run, repeats, dist.device()
        self.task = new_task(run, self.device)
        self.step = Step(self.task, run.optim, "fp32", self.device)

    def timed(self, call: Callable[[], object]) -> tuple[float, float]:
        """Median seconds, and the peak."""
        forget_peak(self.device)
        return seconds(call, self.device, self.repeats), peak_gb(self.device)

    def images(self, count: int) -> tuple[float, float]:
        """A step on so many images with a caption each."""
        return self.timed(partial(self.step, self.task, image_batch(self.run.model, count).to(self.device)))

    def concepts(self, count: int) -> tuple[float, float]:
        """A step on 4 images with so many phrases each."""
        batch = region_batch(self.run.model, [count] * 4).to(self.device)
        return self.timed(partial(self.step, self.task, batch))

    def text_length(self, tokens: int) -> tuple[float, float]:
        """A step on 4 images with a caption of so many tokens each."""
        batch = image_batch(self.run.model, 4, (float(tokens), 0.0)).to(self.device)
        return self.timed(partial(self.step, self.task, batch))

    @torch.no_grad()
    def resolution(self, side: int) -> tuple[float, float]:
        """One image of so many pixels a side through the vision encoder, forward."""
        config = replace(self.run.model, vision=replace(self.run.model.vision, image_hw=(side, side)))
        encoder = build_vision(config.vision).to(self.device).eval()
        image = Images(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.device))
        return self.timed(partial(encoder, image))

    @torch.no_grad()
    def candidates(self, count: int) -> tuple[float, float]:
        """Matching so many texts with one image."""
        model, config = self.task.model.eval(), self.run.model
        pixels = torch.zeros(1, 3, *config.vision.image_hw, dtype=torch.uint8, device=self.device)
        concepts, _ = model.encode_whole(model.encode_images(Images(pixels)))
        text_R = torch.arange(count, device=self.device)
        states = TextStates(model, captions(config, count).to(self.device), budget=2**40)
        found = self.timed(partial(match_pairs, states, concepts, torch.zeros_like(text_R), text_R))
        self.task.train()
        return found

    def ranks(self, world: int) -> tuple[float, float]:
        """What one rank computes on the gathered rows of `world` ranks with 128 rows each: its part of the
        contrastive loss, forward and backward.  All else in a step depends on its own rows alone."""
        own, width = 128, self.run.model.embed_dim
        concept_ME, text_ME = (unit(own * world, width, self.device).requires_grad_() for _ in range(2))
        label_NM = torch.eye(own, own * world, device=self.device)
        temperature = torch.tensor(0.07, device=self.device)

        def both_ways() -> None:
            for a_ME, b_ME in ((concept_ME, text_ME), (text_ME, concept_ME)):
                soft_cross_entropy(similarity(a_ME[:own], b_ME, temperature), label_NM).sum().backward()

        return self.timed(both_ways)

    @torch.no_grad()
    def index(self, photos: int) -> tuple[float, float]:
        """The contrastive scores of 8 queries against so many photographs, and the best 128 of them."""
        width = self.run.model.embed_dim
        sides = [
            Side(unit(count, width, self.device), torch.arange(count, device=self.device))
            for count in (8, photos)
        ]
        temperature = torch.tensor(0.07, device=self.device)
        return self.timed(partial(contrastive_candidates, sides[0], sides[1], temperature, 128))


SIZES: dict[str, tuple[int, ...]] = {
    "images": (1, 2, 4, 8),
    "concepts": (1, 2, 5, 8),
    "text_length": (5, 10, 20, 40),
    "resolution": (224, 384, 480),
    "candidates": (16, 32, 64, 128),
    "ranks": (1, 4, 16, 64),
    "index": (10_000, 100_000, 1_000_000),
}


def bench(recipe: str = "base_4m", repeats: PositiveInt = 3, pictures: Path | None = None) -> dict[str, Any]:
    """Time and memory against size.

    Args:
        recipe: whose model and losses.
        repeats: of which the median is taken, after one that does not count.
        pictures: folder for one drawing a curve.
    """
    run = pretraining(recipe)
    curves = Curves(run, repeats)
    result: dict[str, Any] = {"recipe": recipe, "device": told(curves.device), "phrase_tokens": PHRASE[0]}
    todo = [(name, size) for name, sizes in SIZES.items() for size in sizes]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SIZES}
    for name, size in tracked(todo, "growth", len(todo)):
        measure: Measure = getattr(curves, name)
        found[name].append(measure(size))
    for name, sizes in SIZES.items():
        times, memory = zip(*found[name], strict=True)
        result[name] = {
            "sizes": sizes,
            "seconds": times,
            "peak_gb": memory,
            "exponent": exponent(sizes, times),
        }
        if pictures:
            title = f"{name.replace('_', ' ')}: time ~ size^{result[name]['exponent']:.2f}"
            write_svg(pictures / f"growth_{name}.svg", growth_svg(Growth(title, sizes, times)))
    return result
