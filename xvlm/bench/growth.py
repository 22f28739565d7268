"""Growth of time and memory with the number of images, concepts, tokens, pixels, candidates and ranks.

Each curve has several sizes and the exponent of a power law, time ~ size^exponent, which is fitted at the
largest of them: at small sizes, constant work such as the optimizer's update hides the growth.
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

from xvlm import distributed
from xvlm.batch import Images
from xvlm.bench.common.batches import PHRASE, caption_texts, image_batch, region_batch
from xvlm.bench.common.gemm_baseline import describe_device, peak_gb, reset_peak, seconds
from xvlm.bench.step import Step, new_task, pretraining
from xvlm.common.progress import progress_bar
from xvlm.common.ranges import PositiveInt
from xvlm.evaluation.common.candidates import CandidateSet, contrastive_candidates
from xvlm.evaluation.common.feature_cache import TextFeatureCache
from xvlm.evaluation.common.reranking import match_pairs
from xvlm.losses.contrastive import similarity, soft_cross_entropy
from xvlm.models.vision.build import build_vision
from xvlm.reports import write_svg
from xvlm.reports.growth import Growth, growth_svg
from xvlm.tasks.pretrain import PretrainRun


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Fit the exponent of a power law to the three largest sizes."""
    slope, _ = np.polyfit(np.log(sizes[-3:]), np.log(times[-3:]), 1)
    return float(slope)


def unit_vectors(count: int, width: int, device: torch.device) -> Tensor:
    """Return (count, width) random vectors of length 1."""
    return F.normalize(torch.randn(count, width, device=device), dim=-1)


class Curves:
    """Measurements of time and memory: a method for each curve of `SIZES`, with the size as its argument."""

    def __init__(self, run: PretrainRun, repeats: int) -> None:
        self.run, self.repeats, self.device = run, repeats, distributed.device()
        self.task = new_task(run, self.device)
        self.step = Step(self.task, run, "fp32", self.device)

    def timed(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return median seconds and peak gigabytes of a call."""
        reset_peak(self.device)
        return seconds(call, self.device, self.repeats), peak_gb(self.device)

    def images(self, count: int) -> tuple[float, float]:
        """Measure a step on `count` images with a caption each."""
        return self.timed(partial(self.step, self.task, image_batch(self.run.model, count).to(self.device)))

    def concepts(self, count: int) -> tuple[float, float]:
        """Measure a step on 4 images with `count` phrases each."""
        batch = region_batch(self.run.model, [count] * 4).to(self.device)
        return self.timed(partial(self.step, self.task, batch))

    def text_length(self, tokens: int) -> tuple[float, float]:
        """Measure a step on 4 images with a caption of `tokens` tokens each."""
        batch = image_batch(self.run.model, 4, (float(tokens), 0.0)).to(self.device)
        return self.timed(partial(self.step, self.task, batch))

    @torch.no_grad()
    def resolution(self, side: int) -> tuple[float, float]:
        """Measure the forward pass of the vision encoder on one image with sides of `side` pixels."""
        vision = replace(self.run.model.vision, image_hw=(side, side))
        encoder = build_vision(vision).to(self.device).eval()
        image = Images(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.device))
        return self.timed(partial(encoder, image))

    @torch.no_grad()
    def candidates(self, count: int) -> tuple[float, float]:
        """Measure the matching of `count` texts with one image."""
        model, config = self.task.model.eval(), self.run.model
        pixels = torch.zeros(1, 3, *config.vision.image_hw, dtype=torch.uint8, device=self.device)
        concepts, _ = model.encode_whole(model.encode_images(Images(pixels)))
        text_R = torch.arange(count, device=self.device)
        texts = TextFeatureCache(model, caption_texts(config, count).to(self.device), budget=2**40)
        measured = self.timed(partial(match_pairs, texts, concepts, torch.zeros_like(text_R), text_R))
        self.task.train()
        return measured

    def ranks(self, world: int) -> tuple[float, float]:
        """Measure one rank's part of the contrastive loss over `world` ranks with 128 rows each.

        The rest of a step depends on the rank's own rows alone.
        """
        rows, size = 128, (128 * world, self.run.model.embed_dim)
        concept_GE, text_GE = (unit_vectors(*size, self.device).requires_grad_() for _ in range(2))
        label_NG = torch.eye(rows, rows * world, device=self.device)
        temperature = torch.tensor(0.07, device=self.device)

        def loss_and_gradients() -> None:
            for a_GE, b_GE in ((concept_GE, text_GE), (text_GE, concept_GE)):
                soft_cross_entropy(similarity(a_GE[:rows], b_GE, temperature), label_NG).sum().backward()

        return self.timed(loss_and_gradients)

    @torch.no_grad()
    def index(self, count: int) -> tuple[float, float]:
        """Measure the search of the best 128 of `count` images for each of 8 queries."""
        width = self.run.model.embed_dim
        queries, images = (
            CandidateSet(unit_vectors(size, width, self.device), torch.arange(size, device=self.device))
            for size in (8, count)
        )
        temperature = torch.tensor(0.07, device=self.device)
        return self.timed(partial(contrastive_candidates, queries, images, temperature, 128))


SIZES: dict[str, tuple[int, ...]] = {
    "images": (1, 2, 4, 8),
    "concepts": (1, 2, 5, 8),
    "text_length": (5, 10, 20, 40),
    "resolution": (224, 384, 480),
    "candidates": (16, 32, 64, 128),
    "ranks": (1, 4, 16, 64),
    "index": (10_000, 100_000, 1_000_000),
}


def bench(
    recipe: str = "published/base_4m", repeats: PositiveInt = 3, pictures: Path | None = None
) -> dict[str, Any]:
    """Measure how time and memory grow with the size of the input.

    Args:
        recipe: pre-training recipe with the model and the losses.
        repeats: measurements that the median is taken of, after a warm-up.
        pictures: folder for an SVG picture of each curve.
    """
    run = pretraining(recipe)
    curves = Curves(run, repeats)
    result: dict[str, Any] = {
        "recipe": recipe,
        "device": describe_device(curves.device),
        "phrase_tokens": PHRASE[0],
    }
    cases = [(name, size) for name, sizes in SIZES.items() for size in sizes]
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in SIZES}
    for name, size in progress_bar(cases, "growth", len(cases)):
        measured[name].append(getattr(curves, name)(size))
    for name, sizes in SIZES.items():
        times, memory = zip(*measured[name], strict=True)
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
