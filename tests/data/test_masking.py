"""Which tokens are masked, and how."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvlm.data.text.masking import choose_positions, choose_positions_published, mask_tokens
from xvlm.data.text.tokenizer import Tokenizer

WORDS = ["red", "dog", "zebrafishes", "on", "a", "photosynthesis", "mat", "dogs"]
TOKENIZER = Tokenizer.train_wordpiece([" ".join(WORDS[:5])] * 4 + WORDS, 70)

starts_lists = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda rest: [True, True, *rest[1:]])
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
seeds = st.integers(0, 2**32 - 1)


def words_of(starts: list[bool]) -> list[set[int]]:
    words: list[set[int]] = []
    for position in range(1, len(starts)):
        if position == 1 or starts[position]:
            words.append(set())
        words[-1].add(position)
    return words


@given(starts_lists, st.integers(1, 10), seeds)
def test_whole_words_within_the_budget(starts: list[bool], budget: int, seed: int) -> None:
    positions = choose_positions(starts, budget, np.random.default_rng(seed))
    words = words_of(starts)
    assert positions == sorted(set(positions))
    assert positions and 0 not in positions and positions[-1] < len(starts)
    shortest = min(len(word) for word in words)
    if len(words) == 1 and len(words[0]) > budget:
        assert len(positions) == budget
        return
    chosen = set(positions)
    assert all(word <= chosen or not word & chosen for word in words), "a word was split"
    if shortest <= budget:
        assert len(positions) <= budget
        unused = [len(word) for word in words if not word & chosen]
        assert all(len(positions) + size > budget for size in unused), "a word that fits was left out"
    else:
        assert len(positions) == shortest


@given(starts_lists, st.integers(1, 10), seeds)
def test_the_published_choice_fills_the_budget_exactly(starts: list[bool], budget: int, seed: int) -> None:
    positions = choose_positions_published(starts, budget, np.random.default_rng(seed))
    assert positions == sorted(set(positions))
    assert 0 not in positions
    assert len(positions) == min(budget, len(starts) - 1)


@given(texts, seeds, st.booleans(), st.integers(1, 8))
def test_masked_text(text: str, seed: int, faithful: bool, max_masks: int) -> None:
    ids = TOKENIZER.encode(text, 40)
    masked = mask_tokens(ids, TOKENIZER, np.random.default_rng(seed), max_masks=max_masks, faithful=faithful)
    assert masked.targets == [ids[position] for position in masked.positions]
    assert masked.ids[0] == TOKENIZER.cls_id and len(masked.ids) == len(ids)
    positions = set(masked.positions)
    assert all(masked.ids[i] == ids[i] for i in range(len(ids)) if i not in positions)
    assert all(0 <= index < TOKENIZER.vocab_size for index in masked.ids)
    budget = min(max_masks, max(1, round(len(ids) * 0.25)))
    longest_word = max(len(word) for word in words_of(TOKENIZER.word_starts(ids)))
    assert 1 <= len(positions) <= (budget if faithful else max(budget, longest_word))
    again = mask_tokens(ids, TOKENIZER, np.random.default_rng(seed), max_masks=max_masks, faithful=faithful)
    assert again == masked


def test_eighty_ten_ten() -> None:
    ids = [TOKENIZER.cls_id, *[TOKENIZER.unk_id] * 39]
    kinds: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    replacements = set()
    for _ in range(2000):
        masked = mask_tokens(ids, TOKENIZER, rng, max_masks=10)
        for position in masked.positions:
            new = masked.ids[position]
            kind = {TOKENIZER.mask_id: "mask", TOKENIZER.unk_id: "original"}.get(new, "random")
            kinds[kind] += 1
            replacements.add(new)
    total = kinds.total()
    assert total == 2000 * 10
    assert abs(kinds["mask"] / total - 0.8) < 0.01
    assert abs(kinds["random"] / total - 0.1) < 0.01
    assert abs(kinds["original"] / total - 0.1) < 0.01
    assert replacements == set(range(TOKENIZER.vocab_size)), "any id of the vocabulary may replace a token"


def test_one_of_five_samples_is_a_span_of_two_or_three_words() -> None:
    starts = [True] * 1000
    rng = np.random.default_rng(0)
    runs: Counter[int] = Counter()
    for _ in range(3000):  # 3 of 999 words: adjacent positions are a span
        positions = choose_positions(starts, 3, rng)
        gaps = np.diff(positions)
        runs[int((gaps == 1).sum())] += 1
    # A span of three: 0.1.  One of two: 0.1 at the first sample, 0.8 * 0.2 at the second (within the budget).
    assert abs(runs[2] / 3000 - 0.1) < 0.02
    assert abs(runs[1] / 3000 - 0.26) < 0.03


def test_every_token_is_equally_likely() -> None:
    rng = np.random.default_rng(0)
    for choose in (choose_positions, choose_positions_published):
        counts = Counter(p for _ in range(4000) for p in choose([True] * 9, 2, rng, 0.0))
        assert set(counts) == set(range(1, 9))
        assert max(abs(count / 8000 - 1 / 8) for count in counts.values()) < 0.015


def test_the_published_choice_splits_words_and_the_default_does_not() -> None:
    rng = np.random.default_rng(0)
    starts = [True, *[True, False, False] * 6]
    words = words_of(starts)

    def splits_word(positions: list[int]) -> bool:
        return any(0 < len(word & set(positions)) < len(word) for word in words)

    assert not any(splits_word(choose_positions(starts, 5, rng)) for _ in range(200))
    assert sum(splits_word(choose_positions_published(starts, 5, rng)) for _ in range(200)) > 100


def test_the_published_choice_extends_to_whole_words_first() -> None:
    rng = np.random.default_rng(0)
    starts = [True, *[True, False, False] * 6]
    chosen = {tuple(choose_positions_published(starts, 3, rng, 0.0)) for _ in range(200)}
    assert chosen == {tuple(sorted(word)) for word in words_of(starts)}


def test_a_single_long_word_is_masked_in_part() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(p for _ in range(300) for p in choose_positions([True, True, *[False] * 6], 2, rng))
    assert set(counts) == set(range(1, 8)), "any token of the word"
    assert counts.total() == 600


def test_the_budget_counts_cls_and_has_a_maximum() -> None:
    rng = np.random.default_rng(0)
    for length, expected in ((2, 1), (6, 2), (14, 4), (40, 8)):  # round(1.5) = 2, round(3.5) = 4
        ids = [TOKENIZER.cls_id, *[TOKENIZER.unk_id] * (length - 1)]
        assert len(mask_tokens(ids, TOKENIZER, rng).positions) == expected


def test_a_text_without_tokens_is_an_error() -> None:
    rng = np.random.default_rng(0)
    for ids in ([], [TOKENIZER.cls_id], [TOKENIZER.unk_id, TOKENIZER.unk_id]):
        with pytest.raises(ValueError, match="masking needs"):
            mask_tokens(ids, TOKENIZER, rng)
    with pytest.raises(ValueError, match="probability is 0"):
        mask_tokens([TOKENIZER.cls_id, 1], TOKENIZER, rng, probability=0)
