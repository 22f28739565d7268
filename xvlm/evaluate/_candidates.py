"""The best candidates of every query, out of any number of them: by contrastive score, then by matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm import dist
from xvlm.metrics.recall import rank_of_first_true

BLOCK = 2**20
"""Contrastive scores that are computed at a time; the whole matrix may be too large to exist."""


@dataclass(frozen=True)
class Ranked:
    """Of each of Q queries the k best candidates, best first.

    Attributes:
        index_Qk: (Q, k) int64, which ones.
        score_Qk: (Q, k).
        rank_Q: (Q,) int64 how many false candidates, of all there are, stand before the best true one
            (`rank_of_first_true`).
    """

    index_Qk: Tensor
    score_Qk: Tensor
    rank_Q: Tensor

    def reranked(self, score_Qk: Tensor, queries: Side, candidates: Side) -> Ranked:
        """The first k candidates in the order of other scores, (Q, k); those behind stay where they are.

        Where none of the first is true, the rank of the best true one is what it was.
        """
        k = score_Qk.shape[1]
        score_Qk, order_Qk = score_Qk.sort(dim=1, descending=True, stable=True)
        index_Qk = self.index_Qk[:, :k].gather(1, order_Qk)
        true_Qk = candidates.thing_N[index_Qk] == queries.thing_N[:, None]
        rank_Q = rank_of_first_true(score_Qk, true_Qk)
        return Ranked(
            torch.cat((index_Qk, self.index_Qk[:, k:]), 1),
            torch.cat((score_Qk, self.score_Qk[:, k:]), 1),
            torch.where(true_Qk.any(1), rank_Q, self.rank_Q),
        )


@dataclass(frozen=True)
class Side:
    """Images or texts in the contrastive space.

    Attributes:
        embedding_NE: (N, E) of unit length.
        thing_N: (N,) int64; an image and a text belong together where this is the same.
    """

    embedding_NE: Tensor
    thing_N: Tensor

    def __len__(self) -> int:
        return len(self.thing_N)


@torch.no_grad()
def contrastive_candidates(
    queries: Side, candidates: Side, temperature: Tensor, best: int, block: int = BLOCK
) -> Ranked:
    """The `best` candidates, or all if there are fewer, by cosine over `temperature`, a scalar.

    Each rank asks for a part of the queries; all ranks get all lists.
    """
    part = share(len(queries))
    rows_at_once = max(1, block // len(candidates))
    found: list[tuple[Tensor, ...]] = []
    splits = (side_N[part].split(rows_at_once) for side_N in (queries.embedding_NE, queries.thing_N))
    for embedding_qE, thing_q in zip(*splits, strict=True):
        score_qC = embedding_qE @ candidates.embedding_NE.T / temperature
        true_qC = thing_q[:, None] == candidates.thing_N
        top = score_qC.topk(min(best, len(candidates)), dim=1)
        found.append((top.indices, top.values, rank_of_first_true(score_qC, true_qC)))
    return Ranked(*(gathered(torch.cat(one)) for one in zip(*found, strict=True)))


def share(count: int) -> slice:
    """This rank's part of so many things, as many as any other's or one less."""
    return slice(count * dist.rank() // dist.world(), count * (dist.rank() + 1) // dist.world())


def gathered(x: Tensor) -> Tensor:
    """(N, ...) of each rank -> (sum of N, ...) on all, those of rank 0 first."""
    return dist.gather(x, dist.sizes(len(x), x))
