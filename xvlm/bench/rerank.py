"""Reranking: the time of matching one candidate, as the second stage of retrieval does it.

Keys and values of every image are made once and serve all its texts; that time is in it.  The first stage,
and the encoding of images and texts, are not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xvlm import dist
from xvlm.batch import Images
from xvlm.bench._batches import captions
from xvlm.bench._padded import PUBLISHED_LENGTH, encode, fuse, padded
from xvlm.bench._work import pair_work
from xvlm.bench._yardstick import DTYPES, Yardstick, precisions, seconds, told
from xvlm.bench.step import pretraining
from xvlm.evaluate._states import TextStates
from xvlm.evaluate.retrieval import match_pairs
from xvlm.model.xvlm import build_model
from xvlm.progress import tracked
from xvlm.ranges import NonNegativeInt, PositiveInt
from xvlm.train.loop import autocast


@torch.no_grad()
def bench(
    recipe: str = "base_4m",
    size: NonNegativeInt = 384,
    images: PositiveInt = 4,
    candidates: PositiveInt = 64,
    repeats: PositiveInt = 5,
    plain: bool = True,
) -> dict[str, Any]:
    """Matching of texts with images.

    Args:
        recipe: whose model.
        size: side of the images, in pixels; 0: the recipe's own.
        images: of noise.
        candidates: texts matched with each of them.
        repeats: of which the median is taken, after one that does not count.
        plain: measure the padded path too, on an eighth of the pairs.
    """
    device = dist.device()
    config = replace(pretraining(recipe).model, parts=("contrastive", "matching"))
    if size:
        config = replace(config, vision=replace(config.vision, image_hw=(size, size)))
    yardstick = Yardstick(device)
    torch.manual_seed(0)
    model = build_model(config).to(device).eval()
    pairs = images * candidates
    texts = captions(config, pairs).to(device)
    pixels = torch.randint(256, (images, 3, *config.vision.image_hw), dtype=torch.uint8)
    concepts, _ = model.encode_whole(model.encode_images(Images(pixels).to(device)))
    text_R = torch.arange(pairs, device=device)
    image_R = text_R // candidates
    states = TextStates(model, texts, budget=2**40)
    result: dict[str, Any] = {
        "recipe": recipe,
        "image_size": config.vision.image_hw,
        "pairs": pairs,
        "tokens_a_text": len(texts.ids_T) / pairs,
        "device": told(device),
        "torch": torch.__version__,
        **dict.fromkeys(DTYPES),
    }
    gflop = pair_work(model, result["tokens_a_text"]) / 1e9
    few = text_R[::8]

    def shared() -> None:
        match_pairs(states, concepts, image_R, text_R)

    rows = encode(model, padded(texts, PUBLISHED_LENGTH))[0].rows(few)

    def unshared() -> None:
        for row_R, at in zip(few.split(8), range(0, len(few), 8), strict=True):
            part = rows.rows(torch.arange(at, at + len(row_R), device=device))
            model.match(fuse(model, part, concepts, image_R[row_R])[:, 0])

    known = precisions(device)
    for precision in tracked(known, "reranking", len(known)):
        with autocast(device, precision):
            found = {"ms_per_pair": 1e3 * seconds(shared, device, repeats, yardstick.sample) / pairs}
            if plain:
                slow = seconds(unshared, device, repeats, yardstick.sample)
                found["padded_ms_per_pair"] = 1e3 * slow / len(few)
                found["speedup"] = found["padded_ms_per_pair"] / found["ms_per_pair"]
        found["useful_gflop_per_pair"] = gflop
        result[precision] = found
    for precision in known:
        found = result[precision]
        found["gemm_fraction"] = 1e3 * gflop / found["ms_per_pair"] / yardstick.gflops(precision)
    return result | yardstick.rates()
