"""Masked language modelling (X-VLM, section 3.2): which tokens are hidden, and by what.

A quarter of the tokens; 80 % of them become `[MASK]`, 10 % a random token, 10 % stay.  Whole words are
hidden, sometimes two or three in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError


@dataclass(frozen=True)
class Masked:
    """One text with some tokens hidden.

    Attributes:
        ids: as long as the text; what the model sees.
        positions: where tokens must be predicted, ascending, never 0 (`[CLS]`).
        targets: the original ids at `positions`.
    """

    ids: list[int]
    positions: list[int]
    targets: list[int]


def mask_tokens(
    ids: Sequence[int],
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    probability: float = 0.25,
    max_masks: int = 8,
    span_probability: float = 0.2,
    span_words: tuple[int, int] = (2, 3),
    faithful: bool = False,
) -> Masked:
    """Hide about `probability` of the tokens of one text, `[CLS]` excepted.

    The budget is `round(len(ids) * probability)`, at least 1 and at most `max_masks` (published: 8 for texts
    of 40 tokens, 6 for 30).

    Args:
        ids: `[CLS]` and at least one token.
        span_probability: how often a drawn word takes its successors along, up to `span_words` in all.
        faithful: the published choice of positions (`choose_positions_published`), and `##` as the sign of a
            word's inner tokens whatever the tokenizer.
    Raises:
        InputError: `ids` does not start with `[CLS]`, or has nothing besides; an option is out of range.
    """
    if len(ids) < 2 or ids[0] != tokenizer.cls_id:
        raise InputError(
            f"masking needs [CLS] ({tokenizer.cls_id}) and a token after it, got ids {list(ids)}"
        )
    if not 0 < probability <= 1 or max_masks < 1:
        raise InputError(f"probability is {probability}, in (0, 1]; max_masks is {max_masks}, at least 1")
    budget = min(max_masks, max(1, round(len(ids) * probability)))
    starts = tokenizer.word_starts(ids, by_wordpiece_rule=faithful)
    choose = choose_positions_published if faithful else choose_positions
    positions = choose(starts, budget, rng, span_probability, span_words)
    hidden = list(ids)
    for position in positions:
        draw = rng.random()
        if draw < 0.8:
            hidden[position] = tokenizer.mask_id
        elif draw < 0.9:
            hidden[position] = int(rng.integers(tokenizer.vocab_size))
    return Masked(hidden, positions, [ids[position] for position in positions])


def choose_positions(
    starts: Sequence[bool],
    budget: int,
    rng: np.random.Generator,
    span_probability: float = 0.2,
    span_words: tuple[int, int] = (2, 3),
) -> list[int]:
    """Whole words, drawn until `budget` tokens are taken; a word that no longer fits is left out, as in BERT.

    If not even one word fits, the shortest is taken whole; only a text of a single word is taken in part.

    Args:
        starts: for each token whether it begins a word; position 0 is `[CLS]`, position 1 begins one anyway.
    Returns:
        Ascending positions, at least one.
    """
    firsts = [position for position in range(1, len(starts)) if position == 1 or starts[position]]
    words = [range(first, end) for first, end in zip(firsts, [*firsts[1:], len(starts)], strict=True)]
    drawn: list[int] = rng.permutation(len(words)).tolist()
    taken: set[int] = set()
    for first in drawn:
        if len(taken) >= budget:
            break
        if words[first].start in taken:
            continue
        for word in words[first : first + _span(rng, span_probability, span_words)]:
            new = set(word) - taken
            if len(taken) + len(new) > budget:
                break
            taken |= new
    if not taken and len(words) > 1:
        taken = set(words[min(drawn, key=lambda word: len(words[word]))])
    elif not taken:
        taken = set(rng.choice(words[0], budget, replace=False).tolist())
    return sorted(taken)


def choose_positions_published(
    starts: Sequence[bool],
    budget: int,
    rng: np.random.Generator,
    span_probability: float = 0.2,
    span_tokens: tuple[int, int] = (2, 3),
) -> list[int]:
    """Positions as the published code draws them: spans count tokens and grow to the ends of words, then the
    surplus over `budget` is dropped at random, which cuts words.  Arguments and result as `choose_positions`.
    """
    length = len(starts)
    taken: set[int] = set()
    for position in rng.permutation(np.arange(1, length)).tolist():
        if len(taken) >= budget:
            break
        if position in taken:
            continue
        first, end = position, position + _span(rng, span_probability, span_tokens)
        while first > 1 and not starts[first]:
            first -= 1
        while end < length and not starts[end]:
            end += 1
        taken.update(range(first, min(end, length)))
    if len(taken) > budget:
        taken = set(rng.choice(sorted(taken), budget, replace=False).tolist())
    return sorted(taken)


def _span(rng: np.random.Generator, probability: float, shortest_longest: tuple[int, int]) -> int:
    """1, or with `probability` a length between the two given, both included."""
    if rng.random() >= probability:
        return 1
    shortest, longest = shortest_longest
    return int(rng.integers(shortest, longest + 1))
