"""The best candidates of every query, out of any number of them: by contrastive score, then by matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm import dist
from xvlm.losses.contrastive import similarity
from xvlm.metrics.recall import rank_of_first_true

BLOCK = 2**20
"""Contrastive scores that are computed at a time; the whole matrix may be too large to exist."""


@dataclass(frozen=True)
class Ranked:
    """Of each of Q queries the k best candidates, best first.

    Attributes:
        index_Qk: (Q, k) int64, which ones.
        score_Qk: (Q, k).
        rank_Q3: (Q, 3) int64, where the best true candidate stands among all (`rank_of_first_true`).
    """

    index_Qk: Tensor
    score_Qk: Tensor
    rank_Q3: Tensor

    def reranked(self, score_Qk: Tensor, queries: Side, candidates: Side, pairs: Pairs) -> Ranked:
        """The first k candidates in the order of other scores, (Q, k); those behind stay where they are.

        Where none of the first is true, the best true one keeps its place: behind those that were better, and
        behind those of its equals that came among the first.
        """
        k = score_Qk.shape[1]
        score_Qk, order_Qk = score_Qk.sort(dim=1, descending=True, stable=True)
        index_Qk = self.index_Qk[:, :k].gather(1, order_Qk)
        true_Qk = pairs.listed(queries.thing_N, candidates.thing_N[index_Qk])
        better_Q, false_Q, true_Q = self.rank_Q3.unbind(1)
        ahead_Q = (k - better_Q).clamp(min=0)  # equals of the best true one that were reranked
        behind_Q3 = torch.stack((better_Q.clamp(min=k), false_Q - ahead_Q, true_Q), dim=1)
        return Ranked(
            torch.cat((index_Qk, self.index_Qk[:, k:]), 1),
            torch.cat((score_Qk, self.score_Qk[:, k:]), 1),
            torch.where(true_Qk.any(1, keepdim=True), rank_of_first_true(score_Qk, true_Qk), behind_Q3),
        )


@dataclass(frozen=True)
class Side:
    """Images or texts in the contrastive space.

    Attributes:
        embedding_NE: (N, E) of unit length.
        thing_N: (N,) int64 from 0, the number of the image or of the text; equal texts share theirs.
    """

    embedding_NE: Tensor
    thing_N: Tensor

    def __len__(self) -> int:
        return len(self.thing_N)


@dataclass(frozen=True)
class Pairs:
    """Which things of queries and of candidates belong together.

    Attributes:
        query_P, candidate_P: (P,) int64, the things of each pair.
    """

    query_P: Tensor
    candidate_P: Tensor

    @classmethod
    def same(cls, thing_N: Tensor) -> Pairs:
        """Each of the things (N,) belongs to itself alone."""
        thing_P = thing_N.unique()
        return cls(thing_P, thing_P)

    def turned(self) -> Pairs:
        """Candidates become queries."""
        return Pairs(self.candidate_P, self.query_P)

    def block(self, thing_q: Tensor, thing_C: Tensor) -> Tensor:
        """(q, C) bool: whether query q and candidate C belong together; things (q,) and (C,)."""
        used_u, row_q = thing_q.unique(return_inverse=True)
        row_P = torch.searchsorted(used_u, self.query_P).clamp(max=len(used_u) - 1)
        kept_P = used_u[row_P] == self.query_P
        width = int(torch.cat((thing_C, self.candidate_P)).max()) + 1
        true_uK = torch.zeros(len(used_u), width, dtype=torch.bool, device=thing_q.device)
        true_uK[row_P[kept_P], self.candidate_P[kept_P]] = True
        return true_uK[row_q][:, thing_C] if len(used_u) < len(thing_q) else true_uK[:, thing_C][row_q]

    def listed(self, thing_Q: Tensor, thing_Qk: Tensor) -> Tensor:
        """(Q, k) bool: whether query Q and each of its candidates belong together; things (Q,) and (Q, k)."""
        width = int(torch.cat((thing_Qk.flatten(), self.candidate_P)).max()) + 1
        code_P = (self.query_P * width + self.candidate_P).sort().values
        code_Qk = thing_Q[:, None] * width + thing_Qk
        place_Qk = torch.searchsorted(code_P, code_Qk).clamp(max=len(code_P) - 1)
        return code_P[place_Qk] == code_Qk


@torch.no_grad()
def contrastive_candidates(
    queries: Side,
    candidates: Side,
    temperature: Tensor,
    best: int,
    block: int = BLOCK,
    pairs: Pairs | None = None,
) -> Ranked:
    """The `best` candidates, or all if there are fewer, by cosine over `temperature`, a scalar.

    Each rank asks for a part of the queries; all ranks get all lists.  Scores are never in half precision.

    Args:
        pairs: what belongs together; by default equal things do.
    """
    pairs = pairs or Pairs.same(torch.cat((queries.thing_N, candidates.thing_N)))
    part = share(len(queries))
    rows_at_once = max(1, block // len(candidates))
    found: list[tuple[Tensor, ...]] = []
    splits = (side_N[part].split(rows_at_once) for side_N in (queries.embedding_NE, queries.thing_N))
    for embedding_qE, thing_q in zip(*splits, strict=True):
        score_qC = similarity(embedding_qE, candidates.embedding_NE, temperature)
        top = score_qC.topk(min(best, len(candidates)), dim=1)
        if len(thing_q):
            rank_q3 = rank_of_first_true(score_qC, pairs.block(thing_q, candidates.thing_N))
        else:
            rank_q3 = thing_q.new_empty(0, 3)
        found.append((top.indices, top.values, rank_q3))
    return Ranked(*(gathered(torch.cat(one)) for one in zip(*found, strict=True)))


def share(count: int) -> slice:
    """This rank's part of so many things, as many as any other's or one less."""
    return slice(count * dist.rank() // dist.world(), count * (dist.rank() + 1) // dist.world())


def gathered(x: Tensor) -> Tensor:
    """(N, ...) of each rank -> (sum of N, ...) on all, those of rank 0 first."""
    return dist.gather(x, dist.sizes(len(x), x))
