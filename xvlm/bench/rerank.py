"""Time of matching one candidate in the second stage of retrieval.

It includes the projection of an image's keys and values, which serve all its texts, but neither the first
stage nor the encoding of images and texts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xvlm import distributed
from xvlm.batch import Images
from xvlm.bench.common.batches import caption_texts
from xvlm.bench.common.flops import pair_work
from xvlm.bench.common.gemm_baseline import DTYPES, GemmBaseline, describe_device, precisions, seconds
from xvlm.bench.common.padded import PUBLISHED_LENGTH, encode, fuse, padded_context
from xvlm.bench.step import pretraining
from xvlm.common.hardware import autocast
from xvlm.common.progress import progress_bar
from xvlm.common.ranges import NonNegativeInt, PositiveInt
from xvlm.evaluation.common.feature_cache import TextFeatureCache
from xvlm.evaluation.common.reranking import match_pairs
from xvlm.models.xvlm import build_model


@torch.no_grad()
def bench(
    recipe: str = "published/base_4m",
    size: NonNegativeInt = 384,
    images: PositiveInt = 4,
    candidates: PositiveInt = 64,
    repeats: PositiveInt = 5,
    plain: bool = True,
) -> dict[str, Any]:
    """Measure the matching of texts with images.

    Args:
        recipe: pre-training recipe with the model.
        size: side of the images in pixels; 0: the recipe's.
        images: number of images.
        candidates: number of texts that are matched with each image.
        repeats: measurements that the median is taken of, after a warm-up.
        plain: whether padded texts are measured too, on an eighth of the pairs.
    """
    device = distributed.device()
    config = replace(pretraining(recipe).model, heads=("contrastive", "matching"))
    if size:
        config = replace(config, vision=replace(config.vision, image_hw=(size, size)))
    baseline = GemmBaseline(device)
    torch.manual_seed(0)
    model = build_model(config).to(device).eval()
    pairs = images * candidates
    texts = caption_texts(config, pairs).to(device)
    pixels = torch.randint(256, (images, 3, *config.vision.image_hw), dtype=torch.uint8)
    concepts, _ = model.encode_whole(model.encode_images(Images(pixels).to(device)))
    text_R = torch.arange(pairs, device=device)
    image_R = text_R // candidates
    features = TextFeatureCache(model, texts, budget=2**40)
    result: dict[str, Any] = {
        "recipe": recipe,
        "image_size": config.vision.image_hw,
        "pairs": pairs,
        "tokens_a_text": len(texts.ids_T) / pairs,
        "device": describe_device(device),
        "torch": torch.__version__,
        **dict.fromkeys(DTYPES),
    }
    gflop = pair_work(model, result["tokens_a_text"]) / 1e9
    padded_R = text_R[::8]
    padded_texts = encode(model, texts, PUBLISHED_LENGTH)[0].select(padded_R)

    def match_packed() -> None:
        match_pairs(features, concepts, image_R, text_R)

    def match_padded() -> None:
        for index_R in torch.arange(len(padded_R), device=device).split(8):
            context = padded_context(concepts, image_R[padded_R[index_R]])
            model.match(fuse(model, padded_texts.select(index_R), context)[:, 0])

    supported = precisions(device)
    for precision in progress_bar(supported, "reranking", len(supported)):
        with autocast(device, precision):
            quantities = {
                "ms_per_pair": 1e3 * seconds(match_packed, device, repeats, baseline.sample) / pairs
            }
            if plain:
                padded_s = seconds(match_padded, device, repeats, baseline.sample)
                quantities["padded_ms_per_pair"] = 1e3 * padded_s / len(padded_R)
                quantities["speedup"] = quantities["padded_ms_per_pair"] / quantities["ms_per_pair"]
        quantities["useful_gflop_per_pair"] = gflop
        result[precision] = quantities
    for precision in supported:
        quantities = result[precision]
        quantities["gemm_fraction"] = 1e3 * gflop / quantities["ms_per_pair"] / baseline.gflops(precision)
    return result | baseline.rates()
