"""Cleans and tokenizes the texts of users and evaluations, with notes on what the model does not read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.text.cleaning import clean_question, truncate_words
from xvlm.data.text.tokenizer import Tokenizer, encode_caption
from xvlm.records import BadRecord, Note

_log = logging.getLogger(__name__)


class EncodedQuery(NamedTuple):
    """A tokenized text.

    Attributes:
        ids: token ids.
        notes: notes on unknown tokens and on truncation.
    """

    ids: list[int]
    notes: list[Note]


def checked_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return texts of a user as a list.

    Args:
        name: name of the argument, for the message.
    Raises:
        InputError: it is one text, a collection without order, or empty, or contains something else.
    """
    if isinstance(texts, (str, bytes, Set, Mapping)) or not isinstance(texts, Iterable):
        raise InputError(f"{name} is {short_repr(texts)}; it must be a list of at least one text")
    found = list(texts)
    if not found:
        raise InputError(f"{name} is empty; it must be a list of at least one text")
    for text in found:
        if not isinstance(text, str):
            raise InputError(f"{name} contains {short_repr(text)}; a text must be a string")
    return found


class QueryReader:
    """Cleans and tokenizes texts as in training.

    Attributes:
        tokenizer: tokenizer of the model.
        max_words: words of a text that are used; `None` uses all.
        max_tokens: tokens of a text that are used, `[CLS]` included.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int | None, max_tokens: int) -> None:
        self.tokenizer, self.max_words, self.max_tokens = tokenizer, max_words, max_tokens

    def encode_caption(self, text: str) -> EncodedQuery:
        """Encode a caption, phrase or statement.  Raises BadRecord if it has no known token."""
        notes: list[Note] = []
        ids = encode_caption(self.tokenizer, text, self.max_words, self.max_tokens, "text", notes)
        return EncodedQuery(ids, notes)

    def encode_question(self, question: str) -> EncodedQuery:
        """Encode a question.  Raises BadRecord if it is empty after cleaning, or has no known token."""
        cleaned = clean_question(question)
        if not cleaned.strip():
            detail = f"the question is {question!r}; nothing is left of it after cleaning"
            raise BadRecord("no question", "question", detail)
        notes: list[Note] = []
        text = truncate_words(cleaned, self.max_words, "question", notes)
        ids = self.tokenizer.encode_known(text, self.max_tokens, key="question", notes=notes)
        return EncodedQuery(ids, notes)

    def encode_answers(self, answers: Sequence[str], max_tokens: int) -> dict[tuple[int, ...], str]:
        """Encode candidate answers; those with the same tokens ("Red" and "red") are one candidate.

        Args:
            max_tokens: maximum number of tokens of an answer, `[CLS]` and `[SEP]` included.
        Returns:
            the first spelling of each candidate, by its token ids.
        Raises:
            InputError: there is no answer, or one is empty, too long or of unknown tokens only.
        """
        candidates: dict[tuple[int, ...], str] = {}
        for answer in checked_texts(answers, "answers"):
            if not answer.strip():
                raise InputError(f"answers contains {answer!r}; an answer must not be empty")
            ids = self.tokenizer.encode(answer.lower(), max_tokens + 1, end=True)
            if len(ids) > max_tokens:
                raise InputError(
                    f"the answer that begins with {answer[:30]!r} is too long: with [CLS] and [SEP] "
                    f"it may have {max_tokens} tokens, because the decoder has no more positions"
                )
            if set(ids[1:-1]) == {self.tokenizer.unk_id}:
                raise InputError(f"answers contains {answer[:30]!r}, which has only unknown tokens")
            candidates.setdefault(tuple(ids), answer)
        return candidates

    def split_known_answers(self, answers: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split answers into those with a known token and those of unknown tokens only."""
        known: list[str] = []
        unknown: list[str] = []
        for answer in answers:
            ids = self.tokenizer.encode(answer.lower(), len(answer) + 2, allow_empty=True)[1:]
            (unknown if ids and set(ids) == {self.tokenizer.unk_id} else known).append(answer)
        return known, unknown

    def warn(self, texts: Sequence[str], question: bool = False) -> None:
        """Log a warning for each text that has unknown tokens or is truncated."""
        for text in texts:
            encoded = self.encode_question(text) if question else self.encode_caption(text)
            for note in encoded.notes:
                _log.warning("%s: %s", note.reason, note.detail)
