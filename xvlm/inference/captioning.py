"""Captioning: captions of images, searched or sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xvlm.batch import Concepts
from xvlm.inference.model import InferenceModel
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig
from xvlm.models.generation.generate import generate
from xvlm.models.vision.encoder import ImageFeatures


@torch.no_grad()
def caption_images(
    model: InferenceModel,
    features: ImageFeatures,
    config: GenerationConfig = CAPTION_GENERATION,
    seeds: Sequence[int] | None = None,
    regions: Concepts | None = None,
) -> list[list[str]]:
    """Generate captions of each of B images, or of regions of them, most probable first.

    Args:
        seeds: random seed of each image's, or region's, samples; by default `config.seed` for all.
        regions: boxes within the images; `None` for the whole images.
    Raises:
        MissingHead: the model has no caption decoder.
        InputError: captions may be longer than the model's positions, or no longer than its prompt.
    """
    decoder = model.model.caption_decoder
    prompt = model.tokenizer.encode(model.prompt, decoder.max_length, allow_empty=True)
    if regions is None:
        context = model.whole_images(features)
    else:
        concepts, _ = model.model.encode_concepts(features, regions)
        context = concepts.select_used(torch.arange(len(regions), device=model.device))
    generated = generate(decoder, context, prompt, model.tokenizer.sep_id, config, seeds)
    return [[model.decode(one.ids[len(prompt) :]) for one in several] for several in generated]
