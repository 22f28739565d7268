"""The best candidates of every query: block by block as from the whole matrix, and after reranking."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from xvlm.evaluate._candidates import BLOCK, Pairs, Ranked, Side, contrastive_candidates
from xvlm.metrics.recall import rank_of_first_true


def side(count: int, things: Tensor, seed: int, few: bool) -> Side:
    """Random directions; with `few` there are only three of them, so that most scores tie."""
    torch.manual_seed(seed)
    direction_NE = torch.eye(4)[torch.randint(3, (count,))] if few else torch.randn(count, 8)
    return Side(F.normalize(direction_NE, dim=1), things)


@settings(max_examples=220)
@given(st.integers(0, 10**6))
def test_blocks_equal_the_whole_matrix(seed: int) -> None:
    """Lists, scores and ranks, whatever fits into a block; a plain loop does the counting."""
    torch.manual_seed(seed)
    images = int(torch.randint(1, 12, ()))
    image_T = torch.cat((torch.arange(images), torch.randint(images, (int(torch.randint(0, 12, ())),))))
    image_side = side(images, torch.arange(images), seed, few=bool(seed % 2))
    text_side = side(len(image_T), image_T, seed + 1, few=bool(seed % 2))
    queries, candidates = (image_side, text_side) if seed % 3 else (text_side, image_side)
    best = int(torch.randint(1, 14, ()))
    found = contrastive_candidates(queries, candidates, torch.tensor(0.5), best, block=1 + seed % 40)
    score_QC = queries.embedding_NE @ candidates.embedding_NE.T / 0.5
    kept = min(best, len(candidates))
    assert found.index_Qk.shape == found.score_Qk.shape == (len(queries), kept)
    torch.testing.assert_close(found.score_Qk, score_QC.sort(dim=1, descending=True).values[:, :kept])
    torch.testing.assert_close(found.score_Qk, score_QC.gather(1, found.index_Qk))
    for q, row in enumerate(score_QC.tolist()):
        assert len(set(found.index_Qk[q].tolist())) == kept
        true = [row[c] for c in range(len(candidates)) if candidates.thing_N[c] == queries.thing_N[q]]
        false = [row[c] for c in range(len(candidates)) if candidates.thing_N[c] != queries.thing_N[q]]
        tied = [sum(score == max(true) for score in scores) for scores in (false, true)]
        assert found.rank_Q3[q].tolist() == [sum(score > max(true) for score in false), *tied]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return out


def test_the_whole_matrix_never_exists() -> None:
    image_T = torch.arange(3000).repeat_interleave(5)
    images = side(3000, torch.arange(3000), 1, few=False)
    texts = side(15000, image_T, 2, few=False)
    with Largest() as largest:
        contrastive_candidates(images, texts, torch.tensor(0.07), 16)
        contrastive_candidates(texts, images, torch.tensor(0.07), 16)
    assert 15000 * 16 <= largest.elements <= BLOCK < 3000 * 15000 / 10


@settings(max_examples=220)
@given(st.integers(0, 10**6))
def test_reranking_orders_the_first_and_leaves_the_others(seed: int) -> None:
    """Against a plain sort; the place of what is not reranked is behind all that are."""
    torch.manual_seed(seed)
    things, count = int(torch.randint(1, 9, ())), int(torch.randint(1, 12, ()))
    thing_C = torch.cat((torch.arange(things), torch.randint(things, (count,))))
    score_QC = torch.randint(6, (things, len(thing_C))).float() + torch.rand(len(thing_C)) * (seed % 2)
    true_QC = torch.arange(things)[:, None] == thing_C
    kept, k = min(10, len(thing_C)), min(1 + seed % 7, len(thing_C))
    best = score_QC.topk(kept, dim=1)
    before = Ranked(best.indices, best.values, rank_of_first_true(score_QC, true_QC))
    other_Qk = torch.randint(4, (things, k)).float()
    queries, candidates = (Side(torch.empty(0), one) for one in (torch.arange(things), thing_C))
    after = before.reranked(other_Qk, queries, candidates, Pairs.same(thing_C))
    assert torch.equal(after.index_Qk[:, k:], before.index_Qk[:, k:])
    assert torch.equal(after.score_Qk[:, k:], before.score_Qk[:, k:])
    for q in range(things):
        pairs = list(zip(other_Qk[q].tolist(), before.index_Qk[q, :k].tolist(), strict=True))
        found = zip(after.score_Qk[q, :k].tolist(), after.index_Qk[q, :k].tolist(), strict=True)
        assert sorted(found) == sorted(pairs)
        assert after.score_Qk[q, :k].tolist() == sorted((score for score, _ in pairs), reverse=True)
        true = [score for score, c in pairs if thing_C[c] == q]
        false = [score for score, c in pairs if thing_C[c] != q]
        # What is not reranked stands behind the better ones and all the first, among its equals there.
        old = score_QC[q][true_QC[q]].max()
        behind = [c for c in range(len(thing_C)) if c not in before.index_Qk[q, :k].tolist()]
        if true:
            better = sum(score > max(true) for score in false)
            tied = [sum(score == max(true) for score in scores) for scores in (false, true)]
        else:
            better = k + sum(score_QC[q, c] > old for c in behind if not true_QC[q, c])
            tied = [sum(score_QC[q, c] == old for c in behind if true_QC[q, c] == t) for t in (False, True)]
        assert after.rank_Q3[q].tolist() == [int(better), *map(int, tied)]
