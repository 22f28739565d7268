"""Masked language modelling (X-VLM, section 3.2): which tokens are masked, and how.

A quarter of the tokens is masked: 80 % of these become `[MASK]`, 10 % a random token, and 10 % stay.  Whole
words are masked, sometimes two or three consecutive ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xvlm.common.errors import InputError
from xvlm.data.text.tokenizer import Tokenizer

SPAN_PROBABILITY, SPAN_LENGTHS = 0.2, (2, 3)
"""Probability that a sampled word is the first of a span, and the smallest and largest length of a span."""


@dataclass(frozen=True)
class MaskedTokens:
    """A text with masked tokens.

    Attributes:
        ids: token ids of the text after masking.
        positions: positions of the tokens to predict, ascending, never 0 (`[CLS]`).
        targets: original ids at `positions`.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]


def mask_tokens(
    ids: Sequence[int],
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    probability: float = 0.25,
    max_masks: int = 8,
    faithful: bool = False,
) -> MaskedTokens:
    """Mask tokens of a text, but not `[CLS]`.

    Args:
        ids: `[CLS]` and at least one token.
        probability: fraction of the ids to mask, rounded, but at least one token.
        max_masks: maximum number of masked tokens (published: 8 for texts of 40 tokens, 6 for 30).
        faithful: choose positions as the published code does (`choose_positions_published`), which finds
            words by `##` whatever the tokenizer.
    Raises:
        InputError: `ids` does not start with `[CLS]` or has nothing else, or an option is out of range.
    """
    if len(ids) < 2 or ids[0] != tokenizer.cls_id:
        raise InputError(
            f"masking needs [CLS] ({tokenizer.cls_id}) and a token after it, got ids {list(ids)}"
        )
    if not 0 < probability <= 1 or max_masks < 1:
        raise InputError(f"probability is {probability}, not in (0, 1], or max_masks {max_masks} is below 1")
    budget = min(max_masks, max(1, round(len(ids) * probability)))
    starts = tokenizer.word_starts(ids, by_wordpiece_rule=faithful)
    positions = (choose_positions_published if faithful else choose_positions)(starts, budget, rng)
    masked = list(ids)
    for position in positions:
        choice = rng.random()
        if choice < 0.8:
            masked[position] = tokenizer.mask_id
        elif choice < 0.9:
            masked[position] = int(rng.integers(tokenizer.vocab_size))
    return MaskedTokens(masked, positions, [ids[position] for position in positions])


def choose_positions(
    starts: Sequence[bool], budget: int, rng: np.random.Generator, span_probability: float = SPAN_PROBABILITY
) -> list[int]:
    """Sample whole words up to `budget` tokens; as in BERT, a word that no longer fits is left out.

    If no word fits, the shortest one is chosen; only the word of a one-word text is masked in part.

    Args:
        starts: whether each token starts a word; position 0 is `[CLS]`, and position 1 always starts a word.
        budget: number of tokens to mask.
        span_probability: probability that a sampled word is masked together with the next one or two.
    Returns:
        ascending positions, at least one.
    """
    firsts = [position for position in range(1, len(starts)) if position == 1 or starts[position]]
    words = [range(first, end) for first, end in zip(firsts, [*firsts[1:], len(starts)], strict=True)]
    order: list[int] = rng.permutation(len(words)).tolist()
    chosen: set[int] = set()
    for index in order:
        if len(chosen) >= budget:
            break
        if words[index].start in chosen:
            continue
        for word in words[index : index + _sample_span(rng, span_probability)]:
            new = set(word) - chosen
            if len(chosen) + len(new) > budget:
                break
            chosen |= new
    if not chosen and len(words) > 1:
        chosen = set(words[min(order, key=lambda index: len(words[index]))])
    elif not chosen:
        chosen = set(rng.choice(words[0], budget, replace=False).tolist())
    return sorted(chosen)


def choose_positions_published(
    starts: Sequence[bool], budget: int, rng: np.random.Generator, span_probability: float = SPAN_PROBABILITY
) -> list[int]:
    """Sample positions like the published code; arguments and result are those of `choose_positions`.

    Spans are counted in tokens and extended to whole words.  Then tokens are dropped at random until `budget`
    are left, which splits words.
    """
    length = len(starts)
    chosen: set[int] = set()
    for position in rng.permutation(np.arange(1, length)).tolist():
        if len(chosen) >= budget:
            break
        if position in chosen:
            continue
        first, end = position, position + _sample_span(rng, span_probability)
        while first > 1 and not starts[first]:
            first -= 1
        while end < length and not starts[end]:
            end += 1
        chosen.update(range(first, min(end, length)))
    if len(chosen) > budget:
        chosen = set(rng.choice(sorted(chosen), budget, replace=False).tolist())
    return sorted(chosen)


def _sample_span(rng: np.random.Generator, probability: float) -> int:
    """Sample the length of a span: 1, or with `probability` one of `SPAN_LENGTHS`, which is inclusive."""
    if rng.random() >= probability:
        return 1
    shortest, longest = SPAN_LENGTHS
    return int(rng.integers(shortest, longest + 1))
