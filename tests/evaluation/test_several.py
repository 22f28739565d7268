"""Several questions or statements in one record are trained on and evaluated like several records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.kit import NAMES, predictor_of, source_of
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.nlvr2 import evaluate_nlvr2
from xvlm.evaluation.vqa import evaluate_vqa
from xvlm.predict import Predictor
from xvlm.records import BadRecord
from xvlm.tasks import captioning, nlvr2, vqa

QUESTIONS = [
    {"question": "what is red?", "answer": ["red", "red", "no"], "question_id": 7},
    {"question": "a dog?", "answer": "two dogs", "question_id": "x"},
    {"question": "is it a cat on the left?", "answer": ["no", "light blue"], "question_id": 9},
]
STATEMENTS = [
    {"sentence": "both show a dog", "label": "True"},
    {"sentence": "the cat is red", "label": "False"},
    {"sentence": "a small dog", "label": True},
]


def together_and_apart(
    folder: Path, name: str, queries: list[dict[str, Any]], images: Mapping[str, list[Any]]
) -> tuple[JsonSource, JsonSource]:
    """Return a source with one record for each image, and a source with one record for each query."""
    (field, values), *_ = images.items()
    parts = [queries, queries[:1], queries[1:]]
    together = [{field: value, name: part} for value, part in zip(values, parts, strict=True)]
    single = [{field: value, **query} for value, part in zip(values, parts, strict=True) for query in part]
    (folder / "apart").mkdir(exist_ok=True)
    (folder / "apart" / "items.json").write_text(json.dumps(single))
    return source_of(folder, together), JsonSource(folder / "apart" / "items.json", str(folder))


def test_questions_have_equal_answers(photos: Path) -> None:
    sources = together_and_apart(photos, "questions", QUESTIONS, {"image": NAMES[:3]})
    predictor = predictor_of("vqa_decoder")
    (metrics, together), (expected, apart) = (
        evaluate_vqa(predictor, source, answers=["red", "no", "two dogs"]) for source in sources
    )
    assert metrics == pytest.approx(expected)
    assert [(one.question_id, one.question, one.answer) for one in together] == [
        (one.question_id, one.question, one.answer) for one in apart
    ]
    assert len({one.score for one in together}) == 6


def test_statements_have_equal_probabilities(photos: Path) -> None:
    pairs = [NAMES[:2], NAMES[1:3], NAMES[3:]]
    sources = together_and_apart(photos, "statements", STATEMENTS, {"images": pairs})
    predictor = predictor_of("pair_classifier")
    (metrics, together), (expected, apart) = (evaluate_nlvr2(predictor, source) for source in sources)
    assert metrics == pytest.approx(expected)
    assert [one.statement for one in together] == [one.statement for one in apart]
    assert [one.probability for one in together] == pytest.approx([one.probability for one in apart])


def loss_of(kind: Any, build: Any, predictor: Predictor, source: JsonSource) -> torch.Tensor:
    rng = np.random.default_rng(0)
    batch = kind.collate({"train": [build(source[index], rng) for index in range(len(source))]})
    task = vqa.VQA(predictor.model) if kind is vqa else nlvr2.NLVR2(predictor.model)
    (loss,) = task(batch).values()
    return loss


@pytest.mark.parametrize("kind", [vqa, nlvr2], ids=["vqa", "nlvr2"])
def test_losses_are_those_of_several_records(kind: Any, photos: Path) -> None:
    if kind is vqa:
        sources = together_and_apart(photos, "questions", QUESTIONS, {"image": NAMES[:3]})
        predictor = predictor_of("vqa_decoder")
    else:
        pairs = [NAMES[:2], NAMES[1:3], NAMES[3:]]
        sources = together_and_apart(photos, "statements", STATEMENTS, {"images": pairs})
        predictor = predictor_of("pair_classifier")
    predictor.model.double()
    size = predictor.model.config.vision.image_hw
    transform = PairTransform(size, (1.0, 1.0), random_crop=False, random_flip=False, rand_augment=None)
    builder = vqa.VQASampleBuilder if kind is vqa else nlvr2.NLVR2SampleBuilder
    build = builder(transform, predictor.tokenizer)
    together, apart = (loss_of(kind, build, predictor, source) for source in sources)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", [vqa, nlvr2], ids=["vqa", "nlvr2"])
def test_queries_are_sampled_with_their_labels(kind: Any, photos: Path) -> None:
    is_vqa = kind is vqa
    queries = [
        {"question": "dog " * (n + 1), "answer": ["red " * (n + 1)]}
        if is_vqa
        else {"sentence": "dog " * (n + 1), "label": n % 2}
        for n in range(6)
    ]
    fields = (
        {"image": NAMES[0], "questions": queries} if is_vqa else {"images": NAMES[:2], "statements": queries}
    )
    record = source_of(photos, [fields])[0]
    tokenizer = predictor_of("vqa_decoder" if is_vqa else "pair_classifier").tokenizer
    transform = PairTransform((32, 32), (1.0, 1.0), False, False, None)
    builder = partial(kind.VQASampleBuilder if is_vqa else kind.NLVR2SampleBuilder, transform, tokenizer)

    def sampled(count: int, seed: int) -> list[Any]:
        args = {"questions_per_image" if is_vqa else "statements_per_pair": count}
        sample = builder(**args)(record, np.random.default_rng(seed))
        if is_vqa:
            return list(zip(sample.questions, [answers[0] for answers in sample.answers], strict=True))
        return list(zip(sample.statements, sample.truths, strict=True))

    every = sampled(0, 0)
    assert len(every) == 6 == len(sampled(7, 0))
    indices = [[every.index(query) for query in sampled(2, seed)] for seed in range(20)]
    assert all(first < second for first, second in indices), "in their order, each once"
    assert {index for pair in indices for index in pair} == set(range(6))


def test_captions_of_one_image_have_the_losses_of_several_records(photos: Path) -> None:
    captions = ["a dog runs", "two small dogs", "the red cat is on the left"]
    predictor = predictor_of("caption_decoder")
    predictor.model.double()
    transform = PairTransform(predictor.model.config.vision.image_hw, (1.0, 1.0), False, False, None)
    losses = {}
    for count in (1, 2, 3):
        items = [{"image": NAMES[0], "caption": captions}] if count > 1 else []
        items = items or [{"image": NAMES[0], "caption": caption} for caption in captions]
        source = source_of(photos, items)
        build = captioning.CaptionSampleBuilder(transform, predictor.tokenizer, "the ", count)
        rng = np.random.default_rng(0)
        batch = captioning.CaptionCollate(2)(
            {"train": [build(source[index], rng) for index in range(len(source))]}
        )
        assert len(batch.captions) == max(count, len(source)) == len(set(batch.captions.lengths_N.tolist()))
        (losses[count],) = captioning.Captioning(predictor.model, 0.1, faithful=False)(batch).values()
    torch.testing.assert_close(losses[3], losses[1], rtol=1e-9, atol=0)
    assert losses[2] != losses[1]


def test_all_texts_of_a_flipped_image_are_flipped(photos: Path) -> None:
    source, _ = together_and_apart(photos, "questions", QUESTIONS, {"image": NAMES[:3]})
    predictor = predictor_of("vqa_decoder")
    transform = PairTransform((32, 32), (1.0, 1.0), random_crop=False, random_flip=True, rand_augment=None)
    build = vqa.VQASampleBuilder(transform, predictor.tokenizer)
    pixels: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for seed in range(8):
        sample = build(source[0], np.random.default_rng(seed))
        pixels.setdefault(tuple(sample.questions[2]), []).append(sample.pixels)
        assert list(sample.questions[1]) == predictor.tokenizer.encode("a dog", 40)
    (plain, *others), flipped = pixels.values()
    assert all(torch.equal(one, plain) for one in others)
    assert all(torch.equal(one, plain.flip(-1)) for one in flipped)


@pytest.mark.parametrize("questions", [[], "what?", ["what?"]])
def test_lists_without_a_question_are_bad_records(questions: Any, photos: Path) -> None:
    source = source_of(photos, [{"image": NAMES[0], "questions": questions}])
    with pytest.raises(BadRecord, match=r"questions is .*; it must be a list of objects"):
        vqa.questions_of(source[0])
