"""Cleaning of texts before they are tokenized, as in the published code."""

from __future__ import annotations

import re

from xvlm.common.short_repr import short_repr
from xvlm.records import BadRecord, Note

TRUNCATED = "text is cut"
"""Reason of the note about a text of which the model reads only the beginning."""
_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~]")


def clean_caption(text: str, max_words: int | None = None, key: str = "") -> str:
    """Lowercase a text, remove punctuation and collapse white space (published `pre_caption`).

    Raises BadRecord, with the record's key, if no text is left.
    """
    cleaned = _remove_punctuation(text).replace("<person>", "person")
    cleaned = re.sub(r"\s{2,}", " ", cleaned).rstrip("\n").strip(" ")
    if not cleaned:
        raise BadRecord("no text left after cleaning", key, f"text was {short_repr(text)}")
    return truncate_words(cleaned, max_words)


def clean_question(text: str, max_words: int | None = None) -> str:
    """Lowercase a question and remove punctuation (published `pre_question`).

    Spaces between words are left as they are, and the result may be empty.
    """
    return truncate_words(_remove_punctuation(text).rstrip(" "), max_words)


def truncate_words(text: str, max_words: int | None, key: str = "", notes: list[Note] | None = None) -> str:
    """Return the first words of a cleaned text.

    Args:
        max_words: number of words; `None` returns all.
        key, notes: `notes` receives a `Note` with the record's key if words are left out.
    """
    truncated = text if max_words is None else " ".join(text.split(" ")[:max_words])
    if notes is not None and len(truncated) < len(text):
        count = text.count(" ") + 1
        notes.append(Note(TRUNCATED, key, f"{max_words} of {count} words of {short_repr(text)}"))
    return truncated


def _remove_punctuation(text: str) -> str:
    return _PUNCTUATION.sub("", text.lower()).replace("-", " ").replace("/", " ")
