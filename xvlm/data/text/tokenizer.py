"""One tokenizer for BERT and RoBERTa vocabularies: texts in, token ids out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers import models

from xvlm.common.errors import InputError
from xvlm.common.json_file import write_text
from xvlm.common.short_repr import short_repr
from xvlm.data.text.cleaning import TRUNCATED, clean_caption, truncate_words
from xvlm.data.text.pipelines import SPECIAL_TOKENS, train_wordpiece
from xvlm.data.text.tokenizer_file import check_ids, read_tokenizer
from xvlm.records import BadRecord, Note

# Data workers encode texts in parallel; threads of the library would only make each forked worker warn, or
# hang.  The library reads the variable when it encodes.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MAX_CHARACTERS = 100_000
"""Characters of a text that are tokenized; no model here reads as many."""


class Tokenizer:
    """Token ids of a text, with the special ids and the word boundaries that masking needs.

    Attributes:
        cls_id, sep_id, pad_id, mask_id, unk_id: ids of the special tokens, `[CLS]` or `<s>` and so on.
        vocab_size: rows that an embedding table needs: the largest id + 1.
    """

    def __init__(self, pipeline: tokenizers.Tokenizer) -> None:
        """Wrap a WordPiece (BERT) or byte-level BPE (RoBERTa) pipeline.  Raises InputError for another."""
        pipeline.no_padding()
        pipeline.no_truncation()
        pipeline.encode_special_tokens = True  # "<mask>" or "[SEP]" in a caption is ordinary text
        vocab = pipeline.get_vocab(with_added_tokens=True)
        check_ids(vocab)
        special = {role: _special_id(vocab, role) for role in SPECIAL_TOKENS}
        self._pipeline = pipeline
        self.cls_id, self.sep_id = special["cls"], special["sep"]
        self.pad_id, self.mask_id, self.unk_id = special["pad"], special["mask"], special["unk"]
        self.vocab_size = max(vocab.values()) + 1
        is_byte_level = _is_byte_level(pipeline, vocab)
        self._lacks_hashes_V, self._starts_word_V = [True] * self.vocab_size, [True] * self.vocab_size
        for token, index in vocab.items():
            lacks_hashes = not token.startswith("##")
            self._lacks_hashes_V[index] = lacks_hashes
            self._starts_word_V[index] = token.startswith("Ġ") if is_byte_level else lacks_hashes
        for index in special.values():
            self._starts_word_V[index] = True

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read the tokenizer of a folder; see `read_tokenizer`.  Raises MissingFileError or InputError."""
        return cls(read_tokenizer(Path(folder)))

    @classmethod
    def train_wordpiece(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """Train an uncased WordPiece vocabulary of about `vocab_size` tokens, deterministically."""
        return cls(train_wordpiece(texts, vocab_size))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` to a folder, which is created if necessary."""
        write_text(Path(folder) / "tokenizer.json", self._pipeline.to_str(pretty=True))

    def encode(self, text: str, max_tokens: int, end: bool = False, allow_empty: bool = False) -> list[int]:
        """Return `[CLS]` and the tokens of a text, truncated to `max_tokens` ids.

        Args:
            end: whether to append `[SEP]`, also to a truncated text.
            allow_empty: whether a text may have no tokens (an empty prompt, an empty question).
        Raises:
            BadRecord: the text has no tokens.
            InputError: `max_tokens` has no space for a token.
        """
        space = max_tokens - 1 - end
        if space < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be at least {2 + end}")
        tokens = self._tokenize(text)[:space]
        if not tokens and not allow_empty:
            raise BadRecord("no text left after cleaning", detail=f"{short_repr(text)} has no tokens")
        return [self.cls_id, *tokens, *([self.sep_id] if end else [])]

    def encode_known(
        self,
        text: str,
        max_tokens: int,
        end: bool = False,
        key: str = "",
        notes: list[Note] | None = None,
        prompt_tokens: int = 0,
    ) -> list[int]:
        """As `encode`, but refuse a text of unknown tokens only: the model could not tell it from others.

        Args:
            key: key of the record, for notes and errors.
            notes: receives a `Note` if some of the tokens are unknown, and one if the text is truncated.
            prompt_tokens: tokens of a prompt at the beginning, which do not count.
        Raises:
            BadRecord: the text has no tokens, or none that is known, after truncation.
        """
        ids = self.encode(text, max_tokens, end)
        own = ids[1 + prompt_tokens : len(ids) - end]
        unknown = own.count(self.unk_id)
        if own and unknown == len(own):
            raise BadRecord("text has only unknown tokens", key, short_repr(text))
        if notes is None:
            return ids
        if unknown:
            detail = f"{unknown} of {len(own)} tokens of {short_repr(text)}"
            notes.append(Note("text has unknown tokens", key, detail))
        if len(ids) == max_tokens and (count := len(self._tokenize(text))) > max_tokens - 1 - end:
            detail = f"{len(own)} of {count - prompt_tokens} tokens of {short_repr(text)}"
            notes.append(Note(TRUNCATED, key, detail))
        return ids

    def _tokenize(self, text: str) -> list[int]:
        return self._pipeline.encode(text[:MAX_CHARACTERS], add_special_tokens=False).ids  # type: ignore[no-any-return]

    def id_of(self, token: str) -> int | None:
        """Return the id of a token as the vocabulary spells it; `None` if it has no such token."""
        return self._pipeline.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self._pipeline.decode(list(ids), skip_special_tokens=True)

    def word_starts(self, ids: Sequence[int], by_wordpiece_rule: bool = False) -> list[bool]:
        """Return for each id whether it starts a word; `[CLS]` and the token after it always do.

        Args:
            by_wordpiece_rule: whether only `##` marks a token inside a word, as in the published masking; by
                default tokens of a byte-level vocabulary start a word with `Ġ`, except in the first word.
        """
        starts_V = self._lacks_hashes_V if by_wordpiece_rule else self._starts_word_V
        return [position < 2 or starts_V[index] for position, index in enumerate(ids)]

    def __getstate__(self) -> str:
        return self._pipeline.to_str()

    def __setstate__(self, state: str) -> None:
        # The library's own pickling loses `encode_special_tokens`.
        Tokenizer.__init__(self, tokenizers.Tokenizer.from_str(state))


def encode_caption(
    tokenizer: Tokenizer,
    text: str,
    max_words: int | None,
    max_tokens: int,
    key: str = "",
    notes: list[Note] | None = None,
) -> list[int]:
    """Return the token ids of a text that is cleaned like a caption; see `Tokenizer.encode_known`.

    Raises BadRecord if no text is left after cleaning, or no known token.
    """
    cleaned = truncate_words(clean_caption(text, key=key), max_words, key, notes)
    return tokenizer.encode_known(cleaned, max_tokens, key=key, notes=notes)


def _special_id(vocab: dict[str, int], role: str) -> int:
    for name in SPECIAL_TOKENS[role]:
        if name in vocab:
            return vocab[name]
    raise InputError(f"the vocabulary has no {role} token; expected {' or '.join(SPECIAL_TOKENS[role])}")


def _is_byte_level(pipeline: tokenizers.Tokenizer, vocab: dict[str, int]) -> bool:
    model: Any = pipeline.model
    if isinstance(model, models.WordPiece) and model.continuing_subword_prefix == "##":
        return False
    if isinstance(model, models.BPE) and "Ġ" in vocab and not model.end_of_word_suffix:
        return True
    raise InputError(
        f"the tokenizer is a {type(model).__name__} whose word boundaries are unknown; "
        "allowed are WordPiece with '##' (BERT) and byte-level BPE with 'Ġ' (RoBERTa)"
    )
