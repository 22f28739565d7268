"""Check that a tokenizer belongs to a table of token embeddings; with another one, ids mean other words."""

from __future__ import annotations

from typing import NamedTuple

from xvlm.common.errors import InputError
from xvlm.common.terminal import print_notice
from xvlm.data.text.tokenizer import Tokenizer

PADDED_TO = 128
"""Tables are padded to multiples of at most this, for fast matrix products."""


class KnownVocabulary(NamedTuple):
    """The vocabulary of a published text model: ids of its special tokens and of some words."""

    name: str
    size: int
    special: dict[str, int]
    words: dict[str, int]


_BERT = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
_ROBERTA = {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 50264}
KNOWN = (
    KnownVocabulary("bert-base-uncased", 30522, _BERT, {"the": 1996, "a": 1037}),
    KnownVocabulary("roberta-base", 50265, _ROBERTA, {"Ġthe": 5}),
)


def check_vocabulary(tokenizer: Tokenizer, rows: int, origin: str) -> None:
    """Raise InputError if the tokenizer cannot belong to the token embeddings of `origin` ("the checkpoint").

    A table of the size of a known vocabulary, or of that vocabulary padded, requires this vocabulary.
    Otherwise a smaller tokenizer is accepted with a warning, since the table may be padded.

    Args:
        rows: size of the table.
    """
    count = tokenizer.vocab_size
    if count > rows:
        raise InputError(
            f"the tokenizer has {count} tokens, the embeddings of {origin} {rows}: it is another model's"
        )
    known = next((one for one in KNOWN if one.size <= rows < one.size + PADDED_TO), None)
    if known is not None:
        _check_known(tokenizer, known, f"the {rows} token embeddings of {origin} belong to the vocabulary of")
    elif count < rows:
        print_notice(
            f"warning: the tokenizer has {count} tokens, the embeddings of {origin} {rows}: it is the right "
            "one only if the table was padded; otherwise texts would be read as other words"
        )


def _check_known(tokenizer: Tokenizer, known: KnownVocabulary, subject: str) -> None:
    if tokenizer.vocab_size != known.size:
        raise InputError(
            f"{subject} {known.name} ({known.size} tokens); the tokenizer has {tokenizer.vocab_size}"
        )
    ids = {role: getattr(tokenizer, f"{role}_id") for role in known.special}
    ids |= {word: tokenizer.id_of(word) for word in known.words}
    for token, expected in (known.special | known.words).items():
        if ids[token] != expected:
            raise InputError(
                f"{subject} {known.name}, where {token!r} is token {expected}; in the tokenizer it is "
                f"{ids[token]}"
            )
