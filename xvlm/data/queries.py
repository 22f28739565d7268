"""Texts that a model is asked about: cleaned and tokenized; what it cannot see of them is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from xvlm.data.text import Tokenizer, clean_caption, clean_question
from xvlm.errors import InputError
from xvlm.records import BadRecord

_log = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """A text as the model reads it.

    Attributes:
        ids: its tokens.
        unknown: how many of them are not in the vocabulary.
        cut: whether words or tokens at its end were left out.
    """

    ids: list[int]
    unknown: int
    cut: bool


class TextReader:
    """How a model reads texts: at most `max_words` words of each (`None`: all) and `max_tokens` tokens."""

    def __init__(self, tokenizer: Tokenizer, max_words: int | None, max_tokens: int) -> None:
        self.tokenizer, self.max_words, self.max_tokens = tokenizer, max_words, max_tokens

    def caption(self, text: str) -> Encoded:
        """Cleaned as captions are.  Raises BadRecord if nothing is left, or only unknown tokens."""
        return self._encoded(text, clean_caption(text), clean_caption(text, self.max_words))

    def question(self, question: str) -> Encoded:
        """Cleaned as questions are.  Raises BadRecord if nothing is left, or only unknown tokens."""
        whole = clean_question(question)
        if not whole.strip():
            found = f"the question is {question!r}; nothing is left of it after cleaning"
            raise BadRecord("no question", "question", found)
        return self._encoded(question, whole, clean_question(question, self.max_words))

    def _encoded(self, text: str, whole: str, kept: str) -> Encoded:
        ids = self.tokenizer.encode(kept, self.max_tokens + 1)  # one more shows whether there are more
        seen = ids[1 : self.max_tokens]
        unknown = seen.count(self.tokenizer.unk_id)
        if unknown == len(seen):
            found = f"the vocabulary knows nothing of {text!r}"
            raise BadRecord("text has only unknown tokens", "text", found)
        return Encoded(ids[: self.max_tokens], unknown, kept != whole or len(ids) > self.max_tokens)

    def answers(self, answers: Sequence[str], longest: int) -> dict[tuple[int, ...], str]:
        """Token ids of the answers to choose among, their ends included, and how each is spelled first.

        Answers of the same tokens ("2" and " 2", "Red" and "red") are one.  None is cut.

        Raises InputError if there is none, or if one is empty, is not in the vocabulary, or has more than
        `longest` tokens.
        """
        if isinstance(answers, str) or not answers:
            raise InputError(f"answers is {answers!r}; it must be a list of at least one text")
        found: dict[tuple[int, ...], str] = {}
        for answer in answers:
            if not answer.strip():
                raise InputError(f"answers holds {answer!r}; an answer must say something")
            ids = self.tokenizer.encode(answer.lower(), longest + 1, end=True)
            if len(ids) > longest:
                raise InputError(
                    f"the answer that begins with {answer[:30]!r} is too long: with its ends it may have "
                    f"{longest} tokens, as many as this decoder has positions"
                )
            if set(ids[1:-1]) == {self.tokenizer.unk_id}:
                raise InputError(f"answers holds {answer[:30]!r}, of which the vocabulary knows nothing")
            found.setdefault(tuple(ids), answer)
        return found

    def known_answers(self, answers: Sequence[str]) -> tuple[list[str], list[str]]:
        """Of a list of answers those of which the vocabulary knows something, and the others."""
        known: list[str] = []
        unknown: list[str] = []
        for answer in answers:
            ids = self.tokenizer.encode(answer.lower(), len(answer) + 2, allow_empty=True)[1:]
            (unknown if ids and set(ids) == {self.tokenizer.unk_id} else known).append(answer)
        return known, unknown

    def warn(self, texts: Sequence[str], question: bool = False) -> None:
        """Log what the model does not see of texts: unknown tokens, and ends that are cut off."""
        for text in texts:
            encoded = self.question(text) if question else self.caption(text)
            if encoded.unknown:
                count = len(encoded.ids) - 1
                _log.warning("%d of %d tokens of %r are not in the vocabulary", encoded.unknown, count, text)
            if encoded.cut:
                limits = self.max_words, self.max_tokens
                _log.warning("%r is cut: the model reads %s words and %s tokens", text, *limits)
