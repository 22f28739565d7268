"""The best candidates of every query by contrastive score, and reranking of the first ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.evaluation.common.ranks import gather_rows, rank_slice
from xvlm.losses.contrastive import similarity
from xvlm.metrics.recall import rank_of_first_true

BLOCK_SIZE = 2**20
"""Contrastive scores that are computed at a time; the full matrix may not fit into memory."""


@dataclass(frozen=True)
class CandidateSet:
    """N images or texts in the contrastive space.

    Attributes:
        embedding_NE: (N, E) of unit length.
        id_N: (N,) int64 ids from 0 of the images or of the texts; equal texts share one.
    """

    embedding_NE: Tensor
    id_N: Tensor

    def __len__(self) -> int:
        return len(self.id_N)


@dataclass(frozen=True)
class TruePairs:
    """The Z true pairs of a query and a candidate.

    Attributes:
        query_Z, candidate_Z: (Z,) int64 ids of each pair.
    """

    query_Z: Tensor
    candidate_Z: Tensor

    @classmethod
    def of_equal_ids(cls, id_N: Tensor) -> TruePairs:
        """Pair each of the (N,) ids with itself alone."""
        unique_Z = id_N.unique()
        return cls(unique_Z, unique_Z)

    def swapped(self) -> TruePairs:
        """Return the pairs with queries and candidates exchanged."""
        return TruePairs(self.candidate_Z, self.query_Z)

    def mask(self, query_q: Tensor, candidate_N: Tensor) -> Tensor:
        """Return a (q, N) mask of the true pairs among queries and candidates with (q,) and (N,) ids."""
        unique_query, row_q = query_q.unique(return_inverse=True)
        row_Z = torch.searchsorted(unique_query, self.query_Z).clamp(max=len(unique_query) - 1)
        present_Z = unique_query[row_Z] == self.query_Z
        num_ids = int(torch.cat((candidate_N, self.candidate_Z)).max()) + 1
        table = torch.zeros(len(unique_query), num_ids, dtype=torch.bool, device=query_q.device)
        table[row_Z[present_Z], self.candidate_Z[present_Z]] = True
        repeats = len(unique_query) < len(query_q)
        return table[row_q][:, candidate_N] if repeats else table[:, candidate_N][row_q]

    def contains(self, query_Q: Tensor, candidate_Qk: Tensor) -> Tensor:
        """Return a (Q, k) mask of the true pairs among queries with (Q,) ids and their (Q, k) candidates."""
        num_ids = int(torch.cat((candidate_Qk.flatten(), self.candidate_Z)).max()) + 1
        code_Z = (self.query_Z * num_ids + self.candidate_Z).sort().values
        code_Qk = query_Q[:, None] * num_ids + candidate_Qk
        position_Qk = torch.searchsorted(code_Z, code_Qk).clamp(max=len(code_Z) - 1)
        return code_Z[position_Qk] == code_Qk


@dataclass(frozen=True)
class RankedCandidates:
    """The k best candidates of each of Q queries, best first.

    Attributes:
        index_Qk: (Q, k) int64 indices of the candidates.
        score_Qk: (Q, k) scores.
        rank_Q3: (Q, 3) int64 rank of the best true candidate among all (see `rank_of_first_true`).
    """

    index_Qk: Tensor
    score_Qk: Tensor
    rank_Q3: Tensor

    def true_among(self, k: int, queries: CandidateSet, candidates: CandidateSet, pairs: TruePairs) -> Tensor:
        """Return a (Q, k) mask of the true ones among the first k candidates."""
        return pairs.contains(queries.id_N, candidates.id_N[self.index_Qk[:, :k]])

    def reranked(self, score_Qk: Tensor, true_Qk: Tensor) -> RankedCandidates:
        """Return the first k candidates in the order of new (Q, k) scores, and the others in their old order.

        If none of the first k is true, the best true candidate ranks behind them, and behind the others with
        a better old score.

        Args:
            score_Qk: (Q, k) new scores, in the order of the candidates.
            true_Qk: (Q, k) bool, from `true_among`.
        """
        k = score_Qk.shape[1]
        score_Qk, order_Qk = score_Qk.sort(dim=1, descending=True, stable=True)
        index_Qk = self.index_Qk[:, :k].gather(1, order_Qk)
        true_Qk = true_Qk.gather(1, order_Qk)
        better_Q, false_Q, true_Q = self.rank_Q3.unbind(1)
        tied_Q = (k - better_Q).clamp(min=0)  # reranked candidates that tied with the best true one
        behind_Q3 = torch.stack((better_Q.clamp(min=k), false_Q - tied_Q, true_Q), dim=1)
        return RankedCandidates(
            torch.cat((index_Qk, self.index_Qk[:, k:]), 1),
            torch.cat((score_Qk, self.score_Qk[:, k:]), 1),
            torch.where(true_Qk.any(1, keepdim=True), rank_of_first_true(score_Qk, true_Qk), behind_Q3),
        )


@dataclass(frozen=True)
class CandidateScores:
    """The scores of the k candidates of each of Q queries that are reranked.

    Attributes:
        contrastive_Qk: (Q, k) cosine similarities over temperature.
        matching_Qk: (Q, k) log-odds of a match.
        phrases_Qk: (Q, k) scores of the captions' phrases (`PhraseScorer`); 0 if they were not scored.
        true_Qk: (Q, k) bool, which candidates are true.
    """

    contrastive_Qk: Tensor
    matching_Qk: Tensor
    phrases_Qk: Tensor
    true_Qk: Tensor

    @classmethod
    def of(
        cls,
        ranked: RankedCandidates,
        score_CQk: Tensor,
        queries: CandidateSet,
        candidates: CandidateSet,
        pairs: TruePairs,
    ) -> CandidateScores:
        """Join the contrastive scores of ranked candidates to the other C scores of the first k.

        Args:
            score_CQk: (C, Q, k) scores, from `match_candidates`.
        """
        k = score_CQk.shape[2]
        phrases_Qk = score_CQk[1] if len(score_CQk) > 1 else torch.zeros_like(score_CQk[0])
        true_Qk = ranked.true_among(k, queries, candidates, pairs)
        return cls(ranked.score_Qk[:, :k], score_CQk[0], phrases_Qk, true_Qk)

    def combined(self, matching_weight: float, phrase_weight: float) -> Tensor:
        """Return the (Q, k) contrastive scores plus the weighted others."""
        return self.contrastive_Qk + matching_weight * self.matching_Qk + phrase_weight * self.phrases_Qk


@torch.no_grad()
def contrastive_candidates(
    queries: CandidateSet,
    candidates: CandidateSet,
    temperature: Tensor,
    k: int,
    block_size: int = BLOCK_SIZE,
    pairs: TruePairs | None = None,
) -> RankedCandidates:
    """Rank the candidates of each query by cosine similarity over temperature, never in half precision.

    Each rank scores a part of the queries; all ranks return all lists.

    Args:
        temperature: scalar.
        k: number of candidates per query; all of them if there are fewer.
        block_size: number of scores computed at a time.
        pairs: the true pairs; by default those of equal ids.
    """
    pairs = pairs or TruePairs.of_equal_ids(torch.cat((queries.id_N, candidates.id_N)))
    own = rank_slice(len(queries))
    queries_at_once = max(1, block_size // len(candidates))
    blocks: list[tuple[Tensor, ...]] = []
    for embedding_qE, id_q in zip(
        queries.embedding_NE[own].split(queries_at_once),
        queries.id_N[own].split(queries_at_once),
        strict=True,
    ):
        score_qN = similarity(embedding_qE, candidates.embedding_NE, temperature)
        top = score_qN.topk(min(k, len(candidates)), dim=1)
        rank_q3 = id_q.new_empty(0, 3)
        if len(id_q):
            rank_q3 = rank_of_first_true(score_qN, pairs.mask(id_q, candidates.id_N))
        blocks.append((top.indices, top.values, rank_q3))
    return RankedCandidates(*(gather_rows(torch.cat(column)) for column in zip(*blocks, strict=True)))
