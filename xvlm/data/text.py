"""Texts become token ids: the published cleaning, and one tokenizer for BERT and RoBERTa vocabularies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Texts are encoded one at a time, in processes that are themselves parallel; the tokenizers' own threads
# would only make every forked worker warn, or hang.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from xvlm.data.short_repr import short_repr
from xvlm.data.tokenizer_file import MAX_WORD_CHARACTERS, check_ids, read_tokenizer_json, reading_tokenizer
from xvlm.errors import InputError, MissingFileError
from xvlm.records import BadRecord, Note
from xvlm.whole import whole_file

MAX_CHARACTERS = 100_000
"""Of a text that are looked at; no model here sees as many."""
_PUNCTUATION = re.compile(r"[,.'!?\"()*#:;~]")
_SPECIAL_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


def _drop_punctuation(text: str) -> str:
    return _PUNCTUATION.sub("", text.lower()).replace("-", " ").replace("/", " ")


def _first_words(text: str, max_words: int | None) -> str:
    return text if max_words is None else " ".join(text.split(" ")[:max_words])


ONLY_UNKNOWN = "text has only unknown tokens"
"""Reason of a bad record: whatever the text says, the model would see the same."""
PARTLY_UNKNOWN = "text has unknown tokens"
CUT = "text is cut"
"""Reasons of notes about texts of which the model sees a part."""


def clean_caption(text: str, max_words: int | None = None) -> str:
    """Lower case, no punctuation, runs of white space made one space (published `pre_caption`).

    Raises:
        BadRecord: no text is left after cleaning.
    """
    cleaned = _drop_punctuation(text).replace("<person>", "person")
    cleaned = re.sub(r"\s{2,}", " ", cleaned).rstrip("\n").strip(" ")
    if not cleaned:
        raise BadRecord("no text left after cleaning", detail=f"text was {short_repr(text)}")
    return _first_words(cleaned, max_words)


def cut_words(text: str, max_words: int | None, key: str, notes: list[Note] | None) -> str:
    """The first words of a cleaned text; `notes` takes a `Note` if that is not all."""
    cut = _first_words(text, max_words)
    if notes is not None and len(cut) < len(text):
        notes.append(Note(CUT, key, f"{max_words} of {text.count(' ') + 1} words of {short_repr(text)}"))
    return cut


def encode_caption(
    tokenizer: Tokenizer,
    text: str,
    max_words: int | None,
    max_tokens: int,
    key: str = "",
    notes: list[Note] | None = None,
) -> list[int]:
    """Token ids of a text, cleaned as captions are; see `Tokenizer.encode_known`.

    Raises BadRecord if nothing is left of the text, or nothing that the vocabulary knows.
    """
    cleaned = cut_words(clean_caption(text), max_words, key, notes)
    return tokenizer.encode_known(cleaned, max_tokens, key=key, notes=notes)


def clean_question(text: str, max_words: int | None = None) -> str:
    """Lower case, no punctuation, inner spaces kept (published `pre_question`); the result may be empty."""
    return _first_words(_drop_punctuation(text).rstrip(" "), max_words)


class Tokenizer:
    """Token ids of a text, with the special ids and the word boundaries that masking needs.

    Attributes:
        cls_id, sep_id, pad_id, mask_id, unk_id: the special tokens, `[CLS]` or `<s>` and so on.
        vocab_size: rows that an embedding table needs, the largest id + 1.
    """

    def __init__(self, core: tokenizers.Tokenizer) -> None:
        """Wrap a WordPiece (BERT) or byte-level BPE (RoBERTa) tokenizer; anything else is an InputError."""
        core.no_padding()
        core.no_truncation()
        core.encode_special_tokens = True  # a caption that says "<mask>" or "[SEP]" is ordinary text
        vocab = core.get_vocab(with_added_tokens=True)
        check_ids(vocab)
        special = {role: _special_id(vocab, role) for role in _SPECIAL_NAMES}
        self._core = core
        self.cls_id, self.sep_id = special["cls"], special["sep"]
        self.pad_id, self.mask_id, self.unk_id = special["pad"], special["mask"], special["unk"]
        self.vocab_size = max(vocab.values()) + 1
        byte_level = _is_byte_level(core, vocab)
        self._hash_starts_V, self._own_starts_V = [True] * self.vocab_size, [True] * self.vocab_size
        for token, index in vocab.items():
            self._hash_starts_V[index] = not token.startswith("##")
            self._own_starts_V[index] = token.startswith("Ġ") if byte_level else not token.startswith("##")
        for index in special.values():
            self._own_starts_V[index] = True

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json, else vocab.txt (BERT, uncased), else vocab.json + merges.txt (RoBERTa).

        Raises MissingFileError or InputError.
        """
        folder = Path(folder)
        if (file := folder / "tokenizer.json").is_file():
            return cls(read_tokenizer_json(file))
        if (file := folder / "vocab.txt").is_file():
            with reading_tokenizer(file):
                model = models.WordPiece.from_file(str(file), unk_token="[UNK]")
            return cls(_wordpiece(model))
        if (file := folder / "vocab.json").is_file() and (merges := folder / "merges.txt").is_file():
            with reading_tokenizer(merges), reading_tokenizer(file):
                bpe = models.BPE.from_file(str(file), str(merges))
            return cls(_byte_level_bpe(bpe))
        raise MissingFileError(
            f"no tokenizer in {folder}: expected tokenizer.json, or vocab.txt, or vocab.json with merges.txt"
        )

    @classmethod
    def train_wordpiece(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn an uncased WordPiece vocabulary of about `vocab_size` tokens; same texts, same result."""
        core = _wordpiece(models.WordPiece(unk_token="[UNK]"))
        texts = [_without_long_words(core, text) for text in texts]
        # The trainer numbers the `##` characters in the order of a randomly seeded hash map and breaks ties
        # by number; naming them beforehand makes two runs agree.
        letters = {letter for text in texts for word in _words(core, text) for letter in word[1:]}
        special = [names[0] for names in _SPECIAL_NAMES.values()]
        first = special + ["##" + letter for letter in sorted(letters)]
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
        core.train_from_iterator(texts, trainer)
        return cls(_wordpiece(models.WordPiece(core.get_vocab(), unk_token="[UNK]")))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into `folder`, which is made if need be."""
        with whole_file(Path(folder) / "tokenizer.json") as partial:
            partial.write_text(self._core.to_str(pretty=True), encoding="utf-8")

    def encode(self, text: str, max_tokens: int, end: bool = False, allow_empty: bool = False) -> list[int]:
        """`[CLS]` + tokens, with `end` also `[SEP]`; at most `max_tokens` ids, cut from the right.

        Raises:
            BadRecord: the text has no tokens, unless `allow_empty` (an empty prompt, an empty question).
            InputError: `max_tokens` leaves no room for a token.
        """
        room = max_tokens - 1 - end
        if room < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be at least {2 + end}")
        tokens = self._tokens(text)[:room]
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
        """`encode`, for a text that has to say something to the model.

        Args:
            key: of the record, in notes and errors.
            notes: takes a `Note` if some of the tokens are unknown, and one if some are cut.
            prompt_tokens: tokens at the beginning that are not the text's own.
        Raises:
            BadRecord: the text has no tokens, or none that the vocabulary knows among those that are not cut.
        """
        ids = self.encode(text, max_tokens, end)
        own = ids[1 + prompt_tokens : len(ids) - end]
        unknown = own.count(self.unk_id)
        if own and unknown == len(own):
            raise BadRecord(ONLY_UNKNOWN, key, short_repr(text))
        if notes is not None and unknown:
            notes.append(Note(PARTLY_UNKNOWN, key, f"{unknown} of {len(own)} tokens of {short_repr(text)}"))
        if (
            notes is not None
            and len(ids) == max_tokens
            and (count := len(self._tokens(text))) > len(ids) - 1 - end
        ):
            notes.append(
                Note(CUT, key, f"{len(own)} of {count - prompt_tokens} tokens of {short_repr(text)}")
            )
        return ids

    def _tokens(self, text: str) -> list[int]:
        return self._core.encode(text[:MAX_CHARACTERS], add_special_tokens=False).ids  # type: ignore[no-any-return]

    def id_of(self, token: str) -> int | None:
        """The id of a token as it stands in the vocabulary; `None` if it is not there."""
        return self._core.token_to_id(token)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._core.decode(list(ids), skip_special_tokens=True)

    def word_starts(self, ids: Sequence[int], by_wordpiece_rule: bool = False) -> list[bool]:
        """For each id, whether it begins a word; `[CLS]` and the token after it do.

        The rule is the vocabulary's own, no `##` (WordPiece) or a `Ġ` (byte-level, where the first word of a
        text has none); `by_wordpiece_rule` asks for `##` on both, as the published masking did.
        """
        starts_V = self._hash_starts_V if by_wordpiece_rule else self._own_starts_V
        return [position < 2 or starts_V[index] for position, index in enumerate(ids)]

    def __getstate__(self) -> str:
        return self._core.to_str()

    def __setstate__(self, state: str) -> None:
        # not the core's own pickling, which forgets `encode_special_tokens`
        Tokenizer.__init__(self, tokenizers.Tokenizer.from_str(state))


def _without_long_words(core: tokenizers.Tokenizer, text: str) -> str:
    """The text without words too long to be known: to learn them takes the square of their length."""
    if max(map(len, text.split()), default=0) <= MAX_WORD_CHARACTERS:
        return text
    return " ".join(word for word in _words(core, text) if len(word) <= MAX_WORD_CHARACTERS)


def _wordpiece(model: models.WordPiece) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(model)
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return _with_special_tokens(core)


def _byte_level_bpe(model: models.BPE) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _with_special_tokens(core)


def _with_special_tokens(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Mark the special tokens that the vocabulary has; missing ones are not invented."""
    names = [name for pair in _SPECIAL_NAMES.values() for name in pair]
    core.add_special_tokens([name for name in names if core.token_to_id(name) is not None])
    return core


def _special_id(vocab: dict[str, int], role: str) -> int:
    for name in _SPECIAL_NAMES[role]:
        if name in vocab:
            return vocab[name]
    raise InputError(f"the vocabulary has no {role} token; expected {' or '.join(_SPECIAL_NAMES[role])}")


def _is_byte_level(core: tokenizers.Tokenizer, vocab: dict[str, int]) -> bool:
    model: Any = core.model
    if isinstance(model, models.WordPiece) and model.continuing_subword_prefix == "##":
        return False
    if isinstance(model, models.BPE) and "Ġ" in vocab and not model.end_of_word_suffix:
        return True
    raise InputError(
        f"the tokenizer is a {type(model).__name__} whose word boundaries are unknown; "
        "allowed are WordPiece with '##' (BERT) and byte-level BPE with 'Ġ' (RoBERTa)"
    )


def _words(core: tokenizers.Tokenizer, text: str) -> list[str]:
    normalizer, pre_tokenizer = core.normalizer, core.pre_tokenizer
    assert normalizer is not None and pre_tokenizer is not None
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
