"""Tokenization pipelines of BERT and RoBERTa, built with the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""Names of each special token in vocabularies of BERT and of RoBERTa."""
MAX_WORD_CHARACTERS = 100
"""Longest word that is split into tokens or trained on; BERT maps a longer one to the unknown token."""


def build_pipeline(model: models.WordPiece | models.BPE) -> tokenizers.Tokenizer:
    """Return the pipeline of uncased BERT around a WordPiece model, or that of RoBERTa around a BPE model."""
    pipeline = tokenizers.Tokenizer(model)
    if isinstance(model, models.WordPiece):
        pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
        pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        pipeline.decoder = decoders.WordPiece()
    else:
        pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        pipeline.decoder = decoders.ByteLevel()
    # Special tokens that the vocabulary lacks are not added to it.
    names = [name for pair in SPECIAL_TOKENS.values() for name in pair]
    pipeline.add_special_tokens([name for name in names if pipeline.token_to_id(name) is not None])
    return pipeline


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Train an uncased WordPiece vocabulary of about `vocab_size` tokens, deterministically."""
    pipeline = build_pipeline(models.WordPiece(unk_token="[UNK]"))
    texts = [_without_long_words(pipeline, text) for text in texts]
    # The trainer numbers the `##` characters in the order of a randomly seeded hash map and breaks ties by
    # number; listing them as special tokens makes two runs agree.
    characters = {letter for text in texts for word in _split_words(pipeline, text) for letter in word[1:]}
    special = [names[0] for names in SPECIAL_TOKENS.values()]
    special += ["##" + letter for letter in sorted(characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    pipeline.train_from_iterator(texts, trainer)
    return build_pipeline(models.WordPiece(pipeline.get_vocab(), unk_token="[UNK]"))


def _without_long_words(pipeline: tokenizers.Tokenizer, text: str) -> str:
    """Remove words that are too long: training time grows with the square of their length."""
    if max(map(len, text.split()), default=0) <= MAX_WORD_CHARACTERS:
        return text
    return " ".join(word for word in _split_words(pipeline, text) if len(word) <= MAX_WORD_CHARACTERS)


def _split_words(pipeline: tokenizers.Tokenizer, text: str) -> list[str]:
    normalizer, pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
    assert normalizer is not None and pre_tokenizer is not None
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
