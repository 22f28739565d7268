"""What one visit of a record shows: which texts, of which concepts, in which order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.make import photo
from xvlm.data.text import Tokenizer
from xvlm.data.transforms import PairsTransform, RegionsTransform
from xvlm.data.views import PairsView, RegionsView, TextView, key_of
from xvlm.records import BadRecord, Concept, Record

SENTENCE = "a red ring and two blue boxes lie on the green table near an old dog"
WORDS = SENTENCE.split()
TOKENIZER = Tokenizer.train_wordpiece([SENTENCE] * 5, 200)
TEXT = TextView(TOKENIZER)
PLAIN_PAIRS = PairsTransform((32, 32), flip=False, rand_augment=None)
PLAIN_REGIONS = RegionsTransform((32, 32), crop=False, flip=False, rand_augment=None)
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
    view, seen = PairsView(PLAIN_PAIRS, TEXT, captions), Counter[str]()
    for seed in range(60):
        rows = view(RECORD, rng(seed)).rows
        texts = [read(row.ids) for row in rows]
        assert len(set(texts)) == len(texts) == min(captions, 3)
        assert all(row.box_xyxy is None and row.text_key == key_of(read(row.ids)) for row in rows)
        assert len({row.concept_key for row in rows}) == 1
        seen.update(texts)
    assert set(seen) == set(RECORD.concepts[0].texts)


@pytest.mark.parametrize(("most", "texts"), [(1, 1), (3, 1), (9, 1), (9, 2), (4, 3)])
def test_regions_are_each_concept_once_and_then_again(most: int, texts: int) -> None:
    view = RegionsView(PLAIN_REGIONS, TEXT, most, texts)
    per_concept = [min(texts, count) for count in (3, 1, 2)]  # of the three boxed ones
    for seed in range(40):
        rows = view(RECORD, rng(seed)).rows
        assert rows[0].box_xyxy is None and all(row.box_xyxy is not None for row in rows[1:])
        assert len(rows) == min(most, 1 + sum(per_concept))
        assert len({(row.concept_key, row.text_key) for row in rows}) == len(rows)
        boxed = [row.concept_key for row in rows[1:]]
        assert len(set(boxed[:3])) == len(boxed[:3])
        assert all(count <= texts for count in Counter(boxed).values())
        for row in rows:
            assert ("boxes" not in read(row.ids)) or row.box_xyxy is None or read(row.ids) == "blue boxes"


def test_regions_without_their_caption() -> None:
    rows = RegionsView(PLAIN_REGIONS, TEXT, caption=False)(RECORD, rng(0)).rows
    assert len(rows) == 3 and all(row.box_xyxy is not None for row in rows)


def test_what_cannot_be_shown_is_bad() -> None:
    boxed = Record("photo-2", RECORD.image, RECORD.concepts[1:])
    with pytest.raises(BadRecord, match=r"photo-2: no caption \(3 concepts, all with a box\)"):
        PairsView(PLAIN_PAIRS, TEXT)(boxed, rng(0))
    captioned = Record("photo-3", RECORD.image, RECORD.concepts[:1])
    with pytest.raises(BadRecord, match="photo-3: no concept"):
        RegionsView(PLAIN_REGIONS, TEXT, caption=False)(captioned, rng(0))
    silent = Record("photo-4", RECORD.image, (Concept(("?!",)),))
    with pytest.raises(BadRecord, match="photo-4"):
        PairsView(PLAIN_PAIRS, TEXT)(silent, rng(0))


@given(st.integers(0, 999), st.floats(0.05, 0.95), st.lists(st.sampled_from(WORDS), min_size=1))
def test_words_are_left_out_of_captions_only(seed: int, share: float, words: list[str]) -> None:
    """What is left stands in its order; a caption keeps its key, and something of itself."""
    view, text = TextView(TOKENIZER, word_dropout=share), " ".join(words)
    row = view.row(text, None, 1, rng(seed))
    left = iter(words)
    assert all(word in left for word in read(row.ids).split()) and len(row.ids) > 1
    assert row.text_key == key_of(text)
    assert view.row(text, (0, 0, 1, 1), 1, rng(seed)).ids == TEXT.row(text, None, 1, rng(seed)).ids


def test_as_many_words_are_left_out_as_asked() -> None:
    view, text = TextView(TOKENIZER, word_dropout=0.25), SENTENCE
    left = [len(read(view.row(text, None, 1, rng(seed)).ids).split()) for seed in range(400)]
    assert np.mean(left) / len(WORDS) == pytest.approx(0.75, abs=0.02)


def test_what_is_shown_otherwise_than_it_stands_is_noted() -> None:
    concepts = (
        Concept(("a red ring", "черный треугольник")),
        Concept(("a red ж",), (-8, 4, 30, 30)),
        Concept(("two blue boxes lie",), (4, 4, 30, 30)),
        Concept(("qwerty zxcvbж",), (4, 4, 30, 30)),
    )
    unusable = BadRecord("wrong type", "photo-5", "elems[0].bb is None")
    record = Record("photo-5", RECORD.image, concepts, {}, (unusable,))
    sample = RegionsView(PLAIN_REGIONS, TextView(TOKENIZER, max_words=3), max_regions=9)(record, rng(3))
    assert sample.read == 5 and sample.bad[0] is unusable
    assert {one.reason for one in sample.bad[1:]} == {"text has only unknown tokens"}
    assert {one.key for one in (*sample.bad, *sample.notes)} == {"photo-5"}
    assert sorted(one.reason for one in sample.notes) == [
        "box clipped",
        "text has unknown tokens",
        "text is cut",
    ]
    pair = PairsView(PLAIN_PAIRS, TEXT, captions=2)(record, rng(0))
    assert [read(row.ids) for row in pair.rows] == ["a red ring"]
    assert [one.reason for one in pair.bad] == ["wrong type", "text has only unknown tokens"]


def test_a_caption_whose_known_words_are_left_out_is_shown_whole() -> None:
    view = TextView(TOKENIZER, word_dropout=0.5)
    for seed in range(40):
        assert set(view.row("red ж", None, 1, rng(seed)).ids) - {TOKENIZER.cls_id, TOKENIZER.unk_id}
