"""Samples of a record: which texts of which concepts they have, and in which order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.make import photo
from xvlm.data.samples.builders import PairSampleBuilder, RegionSampleBuilder
from xvlm.data.samples.text_rows import TextRowBuilder, hash_text
from xvlm.data.samples.transforms import PairTransform, RegionTransform
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.records import BadRecord, Concept, Record

SENTENCE = "a red ring and two blue boxes lie on the green table near an old dog"
WORDS = SENTENCE.split()
TOKENIZER = Tokenizer.train_wordpiece([SENTENCE] * 5, 200)
TEXT = TextRowBuilder(TOKENIZER)
PLAIN_PAIRS = PairTransform((32, 32), random_flip=False, rand_augment=None)
PLAIN_REGIONS = RegionTransform((32, 32), random_crop=False, random_flip=False, rand_augment=None)
RECORD = Record(
    "photo-1",
    np.asarray(photo(64, 48)),
    (
        Concept(("a red ring on the table", "two blue boxes", "an old dog")),
        Concept(("red ring", "ring", "the ring"), (4, 4, 30, 30)),
        Concept(("boxes",), (30, 8, 60, 40), attributes=("blue",)),
        Concept(("dog", "old dog"), (10, 20, 50, 46)),
    ),
)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def read(ids: object) -> str:
    return TOKENIZER.decode(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("captions", [1, 2, 5])
def test_a_pair_is_the_whole_image_with_different_captions(captions: int) -> None:
    build_sample, sampled = PairSampleBuilder(PLAIN_PAIRS, TEXT, captions), set()
    for seed in range(60):
        rows = build_sample(RECORD, rng(seed)).rows
        texts = [read(row.ids) for row in rows]
        assert len(set(texts)) == len(texts) == min(captions, 3)
        assert all(row.box_xyxy is None and row.text_key == hash_text(read(row.ids)) for row in rows)
        assert len({row.concept_key for row in rows}) == 1
        sampled.update(texts)
    assert sampled == set(RECORD.concepts[0].texts)


@pytest.mark.parametrize(("max_regions", "texts"), [(1, 1), (3, 1), (9, 1), (9, 2), (4, 3)])
def test_regions_are_each_concept_once_and_then_again(max_regions: int, texts: int) -> None:
    build_sample = RegionSampleBuilder(PLAIN_REGIONS, TEXT, max_regions, texts)
    per_region = [min(texts, count) for count in (3, 1, 2)]
    for seed in range(40):
        rows = build_sample(RECORD, rng(seed)).rows
        assert rows[0].box_xyxy is None and all(row.box_xyxy is not None for row in rows[1:])
        assert len(rows) == min(max_regions, 1 + sum(per_region))
        assert len({(row.concept_key, row.text_key) for row in rows}) == len(rows)
        boxed = [row.concept_key for row in rows[1:]]
        assert len(set(boxed[:3])) == len(boxed[:3])
        assert all(count <= texts for count in Counter(boxed).values())
        for row in rows:
            assert ("boxes" not in read(row.ids)) or row.box_xyxy is None or read(row.ids) == "blue boxes"


def test_regions_without_their_caption() -> None:
    rows = RegionSampleBuilder(PLAIN_REGIONS, TEXT, use_captions=False)(RECORD, rng(0)).rows
    assert len(rows) == 3 and all(row.box_xyxy is not None for row in rows)


def test_records_without_usable_texts_are_bad() -> None:
    boxed = Record("photo-2", RECORD.image, RECORD.concepts[1:])
    with pytest.raises(BadRecord, match=r"photo-2: no caption \(3 concepts, all with a box\)"):
        PairSampleBuilder(PLAIN_PAIRS, TEXT)(boxed, rng(0))
    captioned = Record("photo-3", RECORD.image, RECORD.concepts[:1])
    with pytest.raises(BadRecord, match="photo-3: no concept"):
        RegionSampleBuilder(PLAIN_REGIONS, TEXT, use_captions=False)(captioned, rng(0))
    silent = Record("photo-4", RECORD.image, (Concept(("?!",)),))
    with pytest.raises(BadRecord, match="photo-4"):
        PairSampleBuilder(PLAIN_PAIRS, TEXT)(silent, rng(0))


@given(st.integers(0, 999), st.floats(0.05, 0.95), st.lists(st.sampled_from(WORDS), min_size=1))
def test_words_are_dropped_from_captions_only(seed: int, ratio: float, words: list[str]) -> None:
    """The other words keep their order; a caption keeps its key and at least one word."""
    builder, text = TextRowBuilder(TOKENIZER, word_dropout=ratio), " ".join(words)
    row = builder.build_row(text, None, 1, rng(seed))
    remaining = iter(words)
    assert all(word in remaining for word in read(row.ids).split()) and len(row.ids) > 1
    assert row.text_key == hash_text(text)
    region = builder.build_row(text, (0, 0, 1, 1), 1, rng(seed))
    assert region.ids == TEXT.build_row(text, None, 1, rng(seed)).ids


def test_the_configured_fraction_of_words_is_dropped() -> None:
    builder = TextRowBuilder(TOKENIZER, word_dropout=0.25)
    rows = [builder.build_row(SENTENCE, None, 1, rng(seed)) for seed in range(400)]
    remaining = [len(read(row.ids).split()) for row in rows]
    assert np.mean(remaining) / len(WORDS) == pytest.approx(0.75, abs=0.02)


def test_clipped_boxes_and_incomplete_texts_are_noted() -> None:
    concepts = (
        Concept(("a red ring", "черный треугольник")),
        Concept(("a red ж",), (-8, 4, 30, 30)),
        Concept(("two blue boxes lie",), (4, 4, 30, 30)),
        Concept(("qwerty zxcvbж",), (4, 4, 30, 30)),
    )
    unusable = BadRecord("wrong type", "photo-5", "elems[0].bb is None")
    record = Record("photo-5", RECORD.image, concepts, {}, (unusable,))
    text = TextRowBuilder(TOKENIZER, max_words=3)
    sample = RegionSampleBuilder(PLAIN_REGIONS, text, max_regions=9)(record, rng(3))
    assert sample.read == 5 and sample.bad[0] is unusable
    assert {one.reason for one in sample.bad[1:]} == {"text has only unknown tokens"}
    assert {one.key for one in (*sample.bad, *sample.notes)} == {"photo-5"}
    reasons = ["box clipped", "text has unknown tokens", "text is cut"]
    assert sorted(one.reason for one in sample.notes) == reasons
    pair = PairSampleBuilder(PLAIN_PAIRS, TEXT, captions_per_image=2)(record, rng(0))
    assert [read(row.ids) for row in pair.rows] == ["a red ring"]
    assert [one.reason for one in pair.bad] == ["wrong type", "text has only unknown tokens"]


def test_a_caption_whose_known_words_are_all_dropped_keeps_all_words() -> None:
    builder = TextRowBuilder(TOKENIZER, word_dropout=0.5)
    for seed in range(40):
        ids = builder.build_row("red ж", None, 1, rng(seed)).ids
        assert set(ids) - {TOKENIZER.cls_id, TOKENIZER.unk_id}
