"""Several questions or statements in one record are learnt and asked as in as many records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluate.test_answers import NAMES, predictor_of, source_of
from tests.tiny import photo
from xvlm.data.sources import JsonSource
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.nlvr2 import evaluate_pairs
from xvlm.evaluate.vqa import evaluate_questions
from xvlm.predict import Predictor
from xvlm.records import BadRecord
from xvlm.tasks import captioning, nlvr2, vqa

ASKED = [
    {"question": "what is red?", "answer": ["red", "red", "no"], "question_id": 7},
    {"question": "a dog?", "answer": "two dogs", "question_id": "x"},
    {"question": "is it a cat on the left?", "answer": ["no", "light blue"], "question_id": 9},
]
SAID = [
    {"sentence": "both show a dog", "label": "True"},
    {"sentence": "the cat is red", "label": "False"},
    {"sentence": "a small dog", "label": True},
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for number, name in enumerate(NAMES):
        photo(60 + 5 * number, 50, number).save(folder / name)
    return folder


def together_and_apart(
    folder: Path, name: str, several: list[dict[str, Any]], images: Mapping[str, list[Any]]
) -> tuple[JsonSource, JsonSource]:
    """One record an image with everything about it; and a record for each thing that is asked."""
    (field, values), *_ = images.items()
    shares = [several, several[:1], several[1:]]
    whole = [{field: value, name: share} for value, share in zip(values, shares, strict=True)]
    single = [{field: value, **one} for value, share in zip(values, shares, strict=True) for one in share]
    (folder / "apart").mkdir(exist_ok=True)
    (folder / "apart" / "items.json").write_text(json.dumps(single))
    return source_of(folder, whole), JsonSource(folder / "apart" / "items.json", str(folder))


def test_questions_are_answered_alike(photos: Path) -> None:
    sources = together_and_apart(photos, "questions", ASKED, {"image": NAMES[:3]})
    predictor = predictor_of("answers")
    (metrics, together), (expected, apart) = (
        evaluate_questions(predictor, source, answers=["red", "no", "two dogs"]) for source in sources
    )
    assert metrics == pytest.approx(expected)
    assert [(one.question_id, one.question, one.answer) for one in together] == [
        (one.question_id, one.question, one.answer) for one in apart
    ]
    assert len({one.score for one in together}) == 6


def test_statements_are_judged_alike(photos: Path) -> None:
    pairs = [NAMES[:2], NAMES[1:3], NAMES[3:]]
    sources = together_and_apart(photos, "statements", SAID, {"images": pairs})
    predictor = predictor_of("pairs")
    (metrics, together), (expected, apart) = (evaluate_pairs(predictor, source) for source in sources)
    assert metrics == pytest.approx(expected)
    assert [one.statement for one in together] == [one.statement for one in apart]
    assert [one.probability for one in together] == pytest.approx([one.probability for one in apart])


def loss_of(kind: Any, view: Any, predictor: Predictor, source: JsonSource) -> torch.Tensor:
    rng = np.random.default_rng(0)
    batch = kind.collate({"train": [view(source[index], rng) for index in range(len(source))]})
    task = vqa.VQA(predictor.model) if kind is vqa else nlvr2.NLVR2(predictor.model)
    (loss,) = task(batch).values()
    return loss


@pytest.mark.parametrize("kind", [vqa, nlvr2], ids=["vqa", "nlvr2"])
def test_losses_are_those_of_as_many_records(kind: Any, photos: Path) -> None:
    if kind is vqa:
        sources = together_and_apart(photos, "questions", ASKED, {"image": NAMES[:3]})
        predictor = predictor_of("answers")
    else:
        pairs = [NAMES[:2], NAMES[1:3], NAMES[3:]]
        sources = together_and_apart(photos, "statements", SAID, {"images": pairs})
        predictor = predictor_of("pairs")
    predictor.model.double()
    size = predictor.model.config.vision.image_hw
    transform = PairsTransform(size, (1.0, 1.0), crop=False, flip=False, rand_augment=None)
    view = (vqa.QuestionView if kind is vqa else nlvr2.PairView)(transform, predictor.tokenizer)
    together, apart = (loss_of(kind, view, predictor, source) for source in sources)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", [vqa, nlvr2], ids=["vqa", "nlvr2"])
def test_some_are_drawn_anew_and_stay_with_what_is_known_of_them(kind: Any, photos: Path) -> None:
    is_vqa = kind is vqa
    said = [
        {"question": "dog " * (n + 1), "answer": ["red " * (n + 1)]}
        if is_vqa
        else {"sentence": "dog " * (n + 1), "label": n % 2}
        for n in range(6)
    ]
    fields = {"image": NAMES[0], "questions": said} if is_vqa else {"images": NAMES[:2], "statements": said}
    record = source_of(photos, [fields])[0]
    tokenizer = predictor_of("answers" if is_vqa else "pairs").tokenizer
    transform = PairsTransform((32, 32), (1.0, 1.0), False, False, None)
    view_of = partial(kind.QuestionView if is_vqa else kind.PairView, transform, tokenizer)

    def drawn(count: int, seed: int) -> list[Any]:
        args = {"questions" if is_vqa else "statements": count}
        seen = view_of(**args)(record, np.random.default_rng(seed))
        if is_vqa:
            return list(zip(seen.questions, [answers[0] for answers in seen.answers], strict=True))
        return list(zip(seen.statements, seen.truths, strict=True))

    every = drawn(0, 0)
    assert len(every) == 6 == len(drawn(7, 0))
    places = [[every.index(one) for one in drawn(2, seed)] for seed in range(20)]
    assert all(first < second for first, second in places), "in their order, each once"
    assert {place for both in places for place in both} == set(range(6))


def test_captions_of_one_image_are_learnt_like_those_of_as_many_records(photos: Path) -> None:
    captions = ["a dog runs", "two small dogs", "the red cat is on the left"]
    predictor = predictor_of("captions")
    predictor.model.double()
    transform = PairsTransform(predictor.model.config.vision.image_hw, (1.0, 1.0), False, False, None)
    losses = {}
    for shown in (1, 2, 3):
        items = [{"image": NAMES[0], "caption": captions}] if shown > 1 else []
        items = items or [{"image": NAMES[0], "caption": caption} for caption in captions]
        source = source_of(photos, items)
        view = captioning.CaptionView(transform, predictor.tokenizer, "the ", shown)
        rng = np.random.default_rng(0)
        batch = captioning.Collate(2)({"train": [view(source[index], rng) for index in range(len(source))]})
        assert len(batch.captions) == max(shown, len(source)) == len(set(batch.captions.lengths_N.tolist()))
        (losses[shown],) = captioning.Captioning(predictor.model, 0.1, faithful=False)(batch).values()
    torch.testing.assert_close(losses[3], losses[1], rtol=1e-9, atol=0)
    assert losses[2] != losses[1]


def test_a_mirrored_image_has_all_its_texts_mirrored(photos: Path) -> None:
    source, _ = together_and_apart(photos, "questions", ASKED, {"image": NAMES[:3]})
    predictor = predictor_of("answers")
    transform = PairsTransform((32, 32), (1.0, 1.0), crop=False, flip=True, rand_augment=None)
    view = vqa.QuestionView(transform, predictor.tokenizer)
    shown: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for seed in range(8):
        one = view(source[0], np.random.default_rng(seed))
        shown.setdefault(tuple(one.questions[2]), []).append(one.pixels)
        assert list(one.questions[1]) == predictor.tokenizer.encode("a dog", 40)
    (plain, *others), mirrored = shown.values()
    assert all(torch.equal(one, plain) for one in others)
    assert all(torch.equal(one, plain.flip(-1)) for one in mirrored)


@pytest.mark.parametrize("several", [[], "what?", ["what?"]])
def test_lists_of_nothing_are_bad_records(several: Any, photos: Path) -> None:
    source = source_of(photos, [{"image": NAMES[0], "questions": several}])
    with pytest.raises(BadRecord, match=r"questions is .*; it must be a list of objects"):
        vqa.questions_of(source[0])
