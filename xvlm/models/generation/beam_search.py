"""Beam search that returns what `generate` of Hugging Face transformers returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xvlm.models.generation.incremental import IncrementalDecoder, next_scores
from xvlm.models.generation.search import ContextSearch, Generation, LengthLimits


def beam_search(
    decoder: IncrementalDecoder,
    prompt: Sequence[int],
    limits: LengthLimits,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> list[Generation]:
    """Search for the best text of each of S contexts.

    Every step considers the best 2 * `num_beams` continuations of a context.  Finished texts are scored by
    their log-probability divided by length ** `length_penalty`.  The search of a context ends when no
    unfinished text can become better than the worst of `num_beams` finished ones.

    Args:
        decoder: decoder with `num_beams` rows for each context.
        prompt: token ids that every text begins with.
    """
    decoder.check_length(limits.max_length)
    device = decoder.device
    searches = [
        ContextSearch(context * num_beams, num_beams, length_penalty, limits.end)
        for context in range(decoder.contexts)
    ]
    ids_RL = torch.tensor([list(prompt)], device=device).expand(decoder.rows, -1)
    total_Sk = torch.full((decoder.contexts, num_beams), -1e9, device=device, dtype=torch.float64)
    total_Sk[:, 0] = 0.0  # the beams of a context are equal at first, so only one of them is continued
    logits_RV = decoder.step(ids_RL)
    while True:
        scores_RV = next_scores(logits_RV, ids_RL, limits)
        vocab_size = scores_RV.shape[1]
        candidates = (scores_RV + total_Sk.view(-1, 1)).view(decoder.contexts, num_beams * vocab_size)
        top = candidates.topk(min(2 * num_beams, num_beams * vocab_size), dim=1)
        beams = [
            beam
            for search, totals, indices in zip(
                searches, top.values.tolist(), top.indices.tolist(), strict=True
            )
            for beam in search.step(totals, indices, vocab_size, ids_RL)
        ]
        row_R = torch.tensor([beam.row for beam in beams], device=device)
        token_R1 = torch.tensor([[beam.token] for beam in beams], device=device)
        ids_RL = torch.cat((ids_RL[row_R], token_R1), dim=1)
        total_Sk = torch.tensor([beam.total for beam in beams], device=device, dtype=torch.float64)
        total_Sk = total_Sk.view(decoder.contexts, num_beams)
        if all(search.is_done for search in searches) or ids_RL.shape[1] >= limits.max_length:
            break
        decoder.reorder(row_R)
        logits_RV = decoder.step(ids_RL[:, -1:])
    ids = ids_RL.view(decoder.contexts, num_beams, -1).tolist()
    for search, rows, totals in zip(searches, ids, total_Sk.tolist(), strict=True):
        if not search.is_done:
            for row, total in zip(rows, totals, strict=True):
                search.add(row, total)
    return [max(search.finished, key=lambda one: one[0])[1] for search in searches]
