"""Ranking of candidates: blocks equal the full score matrix, and reranking equals a plain sort."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xvlm.evaluation.common.candidates import (
    BLOCK_SIZE,
    CandidateSet,
    RankedCandidates,
    TruePairs,
    contrastive_candidates,
)
from xvlm.metrics.recall import rank_of_first_true


def candidate_set(ids: Tensor, seed: int, tied: bool) -> CandidateSet:
    """Return random directions; if `tied`, only three different ones, so that most scores tie."""
    torch.manual_seed(seed)
    count = len(ids)
    direction_NE = torch.eye(4)[torch.randint(3, (count,))] if tied else torch.randn(count, 8)
    return CandidateSet(F.normalize(direction_NE, dim=1), ids)


@settings(max_examples=220)
@given(st.integers(0, 10**6))
def test_blocks_equal_the_full_matrix(seed: int) -> None:
    """Lists, scores and ranks do not depend on the block size; a plain loop counts the ranks."""
    torch.manual_seed(seed)
    images = int(torch.randint(1, 12, ()))
    image_N = torch.cat((torch.arange(images), torch.randint(images, (int(torch.randint(0, 12, ())),))))
    image_set = candidate_set(torch.arange(images), seed, tied=bool(seed % 2))
    text_set = candidate_set(image_N, seed + 1, tied=bool(seed % 2))
    queries, candidates = (image_set, text_set) if seed % 3 else (text_set, image_set)
    most = int(torch.randint(1, 14, ()))
    ranked = contrastive_candidates(queries, candidates, torch.tensor(0.5), most, block_size=1 + seed % 40)
    score_QN = queries.embedding_NE @ candidates.embedding_NE.T / 0.5
    k = min(most, len(candidates))
    assert ranked.index_Qk.shape == ranked.score_Qk.shape == (len(queries), k)
    torch.testing.assert_close(ranked.score_Qk, score_QN.sort(dim=1, descending=True).values[:, :k])
    torch.testing.assert_close(ranked.score_Qk, score_QN.gather(1, ranked.index_Qk))
    for q, row in enumerate(score_QN.tolist()):
        assert len(set(ranked.index_Qk[q].tolist())) == k
        true = [row[c] for c in range(len(candidates)) if candidates.id_N[c] == queries.id_N[q]]
        false = [row[c] for c in range(len(candidates)) if candidates.id_N[c] != queries.id_N[q]]
        tied = [sum(score == max(true) for score in scores) for scores in (false, true)]
        assert ranked.rank_Q3[q].tolist() == [sum(score > max(true) for score in false), *tied]


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def test_the_full_matrix_is_never_allocated() -> None:
    image_N = torch.arange(3000).repeat_interleave(5)
    images = candidate_set(torch.arange(3000), 1, tied=False)
    texts = candidate_set(image_N, 2, tied=False)
    with LargestTensor() as largest:
        contrastive_candidates(images, texts, torch.tensor(0.07), 16)
        contrastive_candidates(texts, images, torch.tensor(0.07), 16)
    assert 15000 * 16 <= largest.elements <= BLOCK_SIZE < 3000 * 15000 / 10


@settings(max_examples=220)
@given(st.integers(0, 10**6))
def test_reranking_sorts_the_first_candidates_and_keeps_the_others(seed: int) -> None:
    """A plain sort is the reference; candidates that are not reranked rank behind all that are."""
    torch.manual_seed(seed)
    num_queries, count = int(torch.randint(1, 9, ())), int(torch.randint(1, 12, ()))
    id_Q = torch.arange(num_queries)
    id_N = torch.cat((id_Q, torch.randint(num_queries, (count,))))
    score_QN = torch.randint(6, (num_queries, len(id_N))).float() + torch.rand(len(id_N)) * (seed % 2)
    true_QN = id_Q[:, None] == id_N
    listed, k = min(10, len(id_N)), min(1 + seed % 7, len(id_N))
    best = score_QN.topk(listed, dim=1)
    before = RankedCandidates(best.indices, best.values, rank_of_first_true(score_QN, true_QN))
    new_Qk = torch.randint(4, (num_queries, k)).float()
    queries, candidates = (CandidateSet(torch.empty(0), ids) for ids in (id_Q, id_N))
    true_Qk = before.true_among(new_Qk.shape[1], queries, candidates, TruePairs.of_equal_ids(id_N))
    after = before.reranked(new_Qk, true_Qk)
    assert torch.equal(after.index_Qk[:, k:], before.index_Qk[:, k:])
    assert torch.equal(after.score_Qk[:, k:], before.score_Qk[:, k:])
    for q in range(num_queries):
        pairs = list(zip(new_Qk[q].tolist(), before.index_Qk[q, :k].tolist(), strict=True))
        reranked = zip(after.score_Qk[q, :k].tolist(), after.index_Qk[q, :k].tolist(), strict=True)
        assert sorted(reranked) == sorted(pairs)
        assert after.score_Qk[q, :k].tolist() == sorted((score for score, _ in pairs), reverse=True)
        true = [score for score, c in pairs if id_N[c] == q]
        false = [score for score, c in pairs if id_N[c] != q]
        # A candidate that is not reranked ranks behind the first k and the better ones, tied with its equals.
        old = score_QN[q][true_QN[q]].max()
        behind = [c for c in range(len(id_N)) if c not in before.index_Qk[q, :k].tolist()]
        if true:
            better = sum(score > max(true) for score in false)
            tied = [sum(score == max(true) for score in scores) for scores in (false, true)]
        else:
            better = k + sum(score_QN[q, c] > old for c in behind if not true_QN[q, c])
            tied = [sum(score_QN[q, c] == old for c in behind if true_QN[q, c] == t) for t in (False, True)]
        assert after.rank_Q3[q].tolist() == [int(better), *map(int, tied)]
