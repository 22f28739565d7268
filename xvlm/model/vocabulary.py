"""Does a tokenizer belong to a table of token embeddings?  Another one's numbers would mean other words."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.data.text import Tokenizer
from xvlm.errors import InputError
from xvlm.terminal import notice

PADDED_TO = 128
"""Tables are padded to multiples of at most this, for fast products."""


@dataclass(frozen=True)
class Known:
    """A vocabulary that published checkpoints begin with: its size, and the ids of some of its tokens."""

    name: str
    size: int
    special: dict[str, int]
    words: dict[str, int]


KNOWN = (
    Known(
        "bert-base-uncased",
        30522,
        {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103},
        {"the": 1996, "a": 1037},
    ),
    Known("roberta-base", 50265, {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 50264}, {"Ġthe": 5}),
)


def check_vocabulary(tokenizer: Tokenizer, rows: int, what: str) -> None:
    """Raise InputError where the tokenizer cannot be that of `rows` embeddings of `what` ("the checkpoint").

    Where the number of rows is that of a known vocabulary (or of one padded), it has to be this one.  Else a
    smaller tokenizer is taken with a warning on stderr: tables may be padded.
    """
    count = tokenizer.vocab_size
    if count > rows:
        raise InputError(
            f"the tokenizer has {count} tokens, the embeddings of {what} {rows}: it is another model's"
        )
    known = next((one for one in KNOWN if one.size <= rows < one.size + PADDED_TO), None)
    if known is not None:
        _check_known(tokenizer, known, rows, what)
    elif count < rows:
        notice(
            f"warning: the tokenizer has {count} tokens, the embeddings of {what} {rows}: it is the right "
            "one only if the table was padded; texts would be read as other words"
        )


def _check_known(tokenizer: Tokenizer, known: Known, rows: int, what: str) -> None:
    found = f"{rows} token embeddings of {what} belong to the vocabulary of {known.name}"
    if tokenizer.vocab_size != known.size:
        raise InputError(f"the {found} ({known.size} tokens); the tokenizer has {tokenizer.vocab_size}")
    ids = {role: getattr(tokenizer, f"{role}_id") for role in known.special}
    wrong = {role: id_ for role, id_ in ids.items() if id_ != known.special[role]}
    wrong |= {
        word: tokenizer.id_of(word) for word, id_ in known.words.items() if tokenizer.id_of(word) != id_
    }
    if wrong:
        word, id_ = next(iter(wrong.items()))
        right = (known.special | known.words)[word]
        raise InputError(f"the {found}, where {word!r} is token {right}; in the tokenizer it is {id_}")
