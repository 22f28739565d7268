"""Reading of tokenizer files, which are untrusted.

Settings that would hang, exhaust the memory or change texts at random are refused or turned off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.short_repr import short_repr
from xvlm.data.files.json_parser import parse_value
from xvlm.data.text.pipelines import MAX_WORD_CHARACTERS, build_pipeline
from xvlm.records import BadRecord

MAX_FILE_BYTES = 1 << 28
MAX_ADDED_TOKENS = 10_000
_MAX_UNUSED_IDS = 10_000


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Read tokenizer.json, else vocab.txt (BERT, uncased), else vocab.json with merges.txt (RoBERTa).

    Raises MissingFileError if there is none of them, InputError if a file cannot be used.
    """
    if (file := folder / "tokenizer.json").is_file():
        return _read_tokenizer_json(file)
    if (file := folder / "vocab.txt").is_file():
        with _library_errors(file):
            return build_pipeline(models.WordPiece.from_file(str(file), unk_token="[UNK]"))
    if (file := folder / "vocab.json").is_file() and (merges := folder / "merges.txt").is_file():
        with _library_errors(merges), _library_errors(file):
            return build_pipeline(models.BPE.from_file(str(file), str(merges)))
    raise MissingFileError(
        f"no tokenizer in {folder}: expected tokenizer.json, or vocab.txt, or vocab.json with merges.txt"
    )


@contextmanager
def _library_errors(path: Path) -> Iterator[None]:
    """Check the size of a file, and raise errors of the tokenizers library about it as InputError."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"{path} has {size:,} bytes; a tokenizer file may have {MAX_FILE_BYTES:,}")
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise InputError(f"{path} is not a readable tokenizer: {str(error)[:200]}") from error


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    with _library_errors(path):
        text = path.read_text(encoding="utf-8")
        try:
            settings = parse_value(text)
        except BadRecord as error:
            raise InputError(f"{path} is not JSON: {error.detail}") from error
        _check_settings(settings, path)
        pipeline = tokenizers.Tokenizer.from_str(text)
        model: Any = pipeline.model
        if getattr(model, "dropout", None):
            model.dropout = None  # it would tokenize the same text differently each time
        if getattr(model, "max_input_chars_per_word", 0) > MAX_WORD_CHARACTERS:
            model.max_input_chars_per_word = MAX_WORD_CHARACTERS  # time grows with the square of it
        return pipeline


def _check_settings(settings: Any, path: Path) -> None:
    """Raise InputError for settings that no BERT or RoBERTa tokenizer has."""
    model = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(model, Mapping):
        raise InputError(f"{path} has no model; expected a tokenizer.json of the tokenizers library")
    vocab = model.get("vocab")
    if isinstance(vocab, Mapping):
        check_ids(vocab, str(path))
        unknown = model.get("unk_token")
        if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
            raise InputError(f"{path}: unk_token is {short_repr(unknown)}, which is not in its vocabulary")
    added = settings.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        count = len(added) if isinstance(added, list) else short_repr(added)
        raise InputError(f"{path}: added_tokens are {count}; a list of at most {MAX_ADDED_TOKENS} is allowed")
    for name in ("normalizer", "pre_tokenizer"):
        if _has_field(settings.get(name), "Regex"):
            raise InputError(f"{path}: its {name} has a regular expression, which is not allowed")


def check_ids(vocab: Mapping[str, Any], name: str = "the vocabulary") -> None:
    """Raise InputError unless ids are distinct whole numbers from 0, nearly without gaps.

    An embedding table has a row for each id up to the largest, so a large id would exhaust the memory.
    """
    used: set[int] = set()
    limit = 2 * len(vocab) + _MAX_UNUSED_IDS
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < limit:
            raise InputError(
                f"{name}: the id of {short_repr(token)} is {short_repr(index)}; with {len(vocab)} tokens it "
                f"may be 0 to {limit - 1}"
            )
        if index in used:
            raise InputError(f"{name}: two tokens have the id {index}, one of them is {short_repr(token)}")
        used.add(index)


def _has_field(value: Any, name: str) -> bool:
    """Return whether a parsed JSON value has an object with a field `name` at any depth."""
    remaining = [value]
    while remaining:
        value = remaining.pop()
        if isinstance(value, Mapping):
            if name in value:
                return True
            remaining.extend(value.values())
        elif isinstance(value, list):
            remaining.extend(value)
    return False
