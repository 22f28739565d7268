"""Tokenizer files of other people: what would hang, fill the memory or change texts is found first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from xvlm.data.json_text import parse_json
from xvlm.data.short_repr import short_repr
from xvlm.errors import InputError
from xvlm.records import BadRecord

MAX_FILE_BYTES = 1 << 28
MAX_ADDED_TOKENS = 10_000
MAX_WORD_CHARACTERS = 100
"""Of a word that may be learnt, or taken apart; BERT's limit, beyond which a word is unknown."""
_ROOM_FOR_GAPS = 10_000


@contextmanager
def reading_tokenizer(path: Path) -> Iterator[None]:
    """Turns what the tokenizers library raises about a file into InputError."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {size:,} bytes; a tokenizer's file may have {MAX_FILE_BYTES:,}")
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise InputError(f"{path} is no tokenizer that can be read: {str(error)[:200]}") from error


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, without what its settings would do to texts by chance.

    Raises InputError.
    """
    with reading_tokenizer(path):
        text = path.read_text(encoding="utf-8")
        try:
            found = parse_json(text)
        except BadRecord as error:
            raise InputError(f"{path} is no JSON: {error.detail}") from error
        _check_settings(found, path)
        core = tokenizers.Tokenizer.from_str(text)
        model: Any = core.model
        if getattr(model, "dropout", None):
            model.dropout = None  # the same text would have other tokens each time
        longest = getattr(model, "max_input_chars_per_word", 0)
        if longest > MAX_WORD_CHARACTERS:
            model.max_input_chars_per_word = MAX_WORD_CHARACTERS  # its time grows with the square
        return core


def _check_settings(found: Any, path: Path) -> None:
    """Raises InputError for what no BERT or RoBERTa tokenizer has."""
    model = found.get("model") if isinstance(found, Mapping) else None
    if not isinstance(model, Mapping):
        raise InputError(f"{path} has no model; expected a tokenizer.json of the tokenizers library")
    vocab = model.get("vocab")
    if isinstance(vocab, Mapping):
        check_ids(vocab, str(path))
        unknown = model.get("unk_token")
        if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
            raise InputError(f"{path}: unk_token is {short_repr(unknown)}, which is not in its vocabulary")
    added = found.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        count = len(added) if isinstance(added, list) else short_repr(added)
        raise InputError(f"{path}: added_tokens are {count}; a list of at most {MAX_ADDED_TOKENS} is allowed")
    for part in ("normalizer", "pre_tokenizer"):
        if _has_name(found.get(part), "Regex"):
            raise InputError(f"{path}: its {part} holds a regular expression, which is not run")


def check_ids(vocab: Mapping[str, Any], name: str = "the vocabulary") -> None:
    """Raises InputError unless ids are whole numbers from 0, each once, and nearly without gaps: tables have
    as many rows as the largest one says."""
    seen: set[int] = set()
    limit = 2 * len(vocab) + _ROOM_FOR_GAPS
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < limit:
            raise InputError(
                f"{name}: the id of {short_repr(token)} is {short_repr(index)}; with {len(vocab)} tokens it "
                f"may be 0 to {limit - 1}"
            )
        if index in seen:
            raise InputError(f"{name}: two tokens have the id {index}, one of them is {short_repr(token)}")
        seen.add(index)


def _has_name(value: Any, name: str) -> bool:
    """Whether a parsed JSON value holds an object with a field of this name."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            if name in one:
                return True
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return False
