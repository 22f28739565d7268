"""Generation token by token: greedy, or sampled from the most probable tokens (top-k, top-p)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xvlm.models.generation.incremental import IncrementalDecoder, next_scores
from xvlm.models.generation.search import Generation, LengthLimits

TokenChoice = Callable[[Tensor], Tensor]
"""Maps (R, V) log-probabilities to the next token (R,) of each row."""


def generate_tokens(
    decoder: IncrementalDecoder, prompt: Sequence[int], limits: LengthLimits, choose: TokenChoice
) -> list[Generation]:
    """Generate one text for each row of the decoder.

    Args:
        prompt: token ids that every text begins with.
    """
    decoder.check_length(limits.max_length)
    ids_RL = torch.tensor([list(prompt)], device=decoder.device).expand(decoder.rows, -1)
    open_R = torch.ones(decoder.rows, dtype=torch.bool, device=decoder.device)
    total_R = torch.zeros(decoder.rows, dtype=torch.float64, device=decoder.device)
    newest = ids_RL
    while ids_RL.shape[1] < limits.max_length and open_R.any():
        scores_RV = next_scores(decoder.step(newest), ids_RL, limits)
        token_R = torch.where(open_R, choose(scores_RV), limits.end)
        total_R += torch.where(open_R, scores_RV.gather(1, token_R[:, None])[:, 0], 0.0)
        open_R = open_R & (token_R != limits.end)
        newest = token_R[:, None]
        ids_RL = torch.cat((ids_RL, newest), dim=1)
    start = len(prompt)
    ids = [
        row[: row.index(limits.end, start)] if limits.end in row[start:] else row for row in ids_RL.tolist()
    ]
    return [Generation(row, total) for row, total in zip(ids, total_R.tolist(), strict=True)]


def greedy_choice(scores_RV: Tensor) -> Tensor:
    """(R, V) -> the most probable token (R,) of each row."""
    return scores_RV.argmax(1)


def sampling(
    top_k: int = 0,
    top_p: float = 1.0,
    temperature: float = 1.0,
    generators: Sequence[torch.Generator] = (),
) -> TokenChoice:
    """Return a function that samples the next tokens (R,) from scores (R, V).

    It samples from the `top_k` most probable tokens, and among these from the smallest set whose share of
    their probability is at least `top_p` (nucleus sampling, Holtzman et al. 2020).

    Args:
        generators: each samples for an equal number of adjacent rows; without any, torch's default generator
            does for all.
    """

    def choose(scores_RV: Tensor) -> Tensor:
        probability_RV, token_RV = (scores_RV / temperature).softmax(1), None
        if top_k or top_p < 1:
            k = min(top_k or probability_RV.shape[1], probability_RV.shape[1])
            probability_RV, token_RV = probability_RV.topk(k, dim=1)
            probability_RV = probability_RV / probability_RV.sum(1, keepdim=True)
            before_RV = probability_RV.cumsum(1) - probability_RV
            probability_RV = probability_RV * (before_RV < top_p)
        cumulative_RV = probability_RV.cumsum(1)
        # Strictly below the total after rounding, so that no token of probability 0 is ever sampled.
        sources: Sequence[torch.Generator | None] = generators or [None]
        rows = len(cumulative_RV) // len(sources)
        uniform = [torch.rand(rows, 1, dtype=torch.float64, generator=source) for source in sources]
        threshold_R1 = torch.cat(uniform).to(cumulative_RV) * cumulative_RV[:, -1:] * (1 - 1e-12)
        index_R1 = torch.searchsorted(cumulative_RV, threshold_R1, right=True)
        return (index_R1 if token_RV is None else token_RV.gather(1, index_R1))[:, 0]

    return choose
