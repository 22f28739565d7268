"""Text generation for each context: beam search, greedy or sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xvlm.common.errors import InputError
from xvlm.models.generation.beam_search import beam_search
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.generation.decoder import Decoder
from xvlm.models.generation.incremental import IncrementalDecoder
from xvlm.models.generation.sampling import generate_tokens, sampling
from xvlm.models.generation.search import Generation, LengthLimits
from xvlm.models.text.attention import ConceptTokens


def generate(
    decoder: Decoder,
    context: ConceptTokens,
    prompt: Sequence[int],
    end: int,
    config: GenerationConfig,
    seeds: Sequence[int] | None = None,
) -> list[list[Generation]]:
    """Generate texts for each concept of the context, most probable first: `num_sampled`, or one by search.

    Args:
        prompt: token ids that every text begins with.
        end: id of the token that ends a text.
        seeds: random seed of each concept's samples, which do not depend on the other concepts; by default
            `config.seed` for all.
    Raises:
        InputError: the prompt is no shorter than `max_tokens`, or `max_tokens` exceeds the decoder's
            positions.
    """
    if len(prompt) >= config.max_tokens:
        raise InputError(f"max_tokens is {config.max_tokens}; the prompt alone has {len(prompt)}")
    limits = LengthLimits(end, config.max_tokens, config.min_tokens, config.repetition_penalty)
    concept_S = torch.arange(len(context.set_C), device=context.set_C.device)
    count = config.num_sampled
    rows = IncrementalDecoder(decoder, context, concept_S, count or config.num_beams)
    if not count:
        return [[one] for one in beam_search(rows, prompt, limits, config.num_beams)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or [config.seed] * rows.contexts]
    choose = sampling(config.top_k, config.top_p, config.temperature, generators)
    texts = generate_tokens(rows, prompt, limits, choose)
    groups = [texts[start : start + count] for start in range(0, len(texts), count)]
    return [sorted(group, key=lambda one: -one.log_probability) for group in groups]
