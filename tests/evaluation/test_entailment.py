"""Visual entailment: both published file forms, accuracy by label, shared image encodings, error messages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import published_data
from tests.evaluation.kit import count_encoded, predictor_of, source_of, write_images
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.task_fields import labelled_texts_of
from xvlm.evaluation.entailment import evaluate_entailment
from xvlm.models.xvlm import MissingHead
from xvlm.predict import Predictor
from xvlm.records import BadRecord
from xvlm.tasks import entailment
from xvlm.tasks.entailment import LABELS

NAMES = [f"{number}.jpg" for number in range(3)]
HYPOTHESES = [
    {"sentence": "a dog runs", "label": "entailment"},
    {"sentence": "a cat on the left", "label": "contradiction"},
    {"sentence": "two red cars", "label": "neutral"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path, NAMES)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of("classifier", LABELS)


def test_both_published_forms_are_read(folder: Path) -> None:
    published_data.write_entailment(folder, NAMES, np.random.default_rng(0))
    lines, items = (JsonSource(folder / name) for name in ("snli_ve_dev.jsonl", "ve_dev.json"))
    assert len(lines) == len(items) == 9
    for index in range(9):
        line, item = lines[index], items[index]
        assert line.image == item.image == str(folder / NAMES[index // 3]) and not line.concepts
        (from_line,), _ = labelled_texts_of(line, LABELS)
        (from_item,), _ = labelled_texts_of(item, LABELS)
        assert (from_line.text, from_line.label) == (from_item.text, from_item.label)
        assert LABELS[from_line.label] == ("entailment", "neutral", "contradiction")[index % 3]
        assert from_line.pair_id.startswith(f"{NAMES[index // 3]}#0r1") and from_item.pair_id is None
        assert line.extra["sentence1"] not in from_line.text


def test_predictions_equal_those_of_the_predictor(
    folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = published_data.snli_ve(NAMES, np.random.default_rng(1))[1:]
    bad: list[dict[str, Any]] = [
        {**lines[0], "gold_label": "-"},
        {**lines[0], "gold_label": "maybe"},
        {**lines[0], "sentence2": "?!"},
        {**lines[0], "sentence2": " "},
        {**lines[0], "Flickr30K_ID": "nowhere"},
    ]
    encoded = count_encoded(predictor, monkeypatch)
    source = source_of(folder, lines + bad)
    metrics, predictions = evaluate_entailment(predictor, source, batch_size=2)
    assert encoded == [2, 1]
    for one, line in zip(predictions, lines, strict=True):
        answer = predictor.image(folder / f"{line['Flickr30K_ID']}.jpg").entails(line["sentence2"])
        assert (one.label, one.truth, one.pair_id) == (answer.label, line["gold_label"], line["pairID"])
        assert one.probabilities == pytest.approx(answer.probabilities, abs=1e-5)
        assert list(one.probabilities) == list(LABELS) and one.label == answer.label
        assert one.correct == (one.label == line["gold_label"])
    correct = Counter(one.truth for one in predictions if one.label == one.truth)
    assert 0 < sum(correct.values()) < 8
    assert metrics == pytest.approx(
        {
            "entailment_acc": sum(correct.values()) / 8,
            "entailment_acc_entailment": correct["entailment"] / 2,
            "entailment_acc_neutral": correct["neutral"] / 3,
            "entailment_acc_contradiction": correct["contradiction"] / 3,
            "entailment_hypotheses": 8,
            "entailment_skipped": 5,
        }
    )
    assert (
        json.loads(json.dumps([one.to_json() for one in predictions]))[0]["right"] == predictions[0].correct
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "maybe",
            r"items.json\[0\]: unknown label \(label is 'maybe'; it may be contradiction, neutral or",
        ),
        (2, r"items.json\[0\]: unknown label \(label is 2; it may be"),
        (None, r"items.json\[0\]: unknown label \(label is None; it may be"),
        ("-", r"items.json\[0\]: annotators disagree \(label is '-'\)"),
    ],
)
def test_a_wrong_label_is_named(label: Any, message: str, folder: Path, predictor: Predictor) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": label}])
    with pytest.raises(BadRecord, match=message):
        labelled_texts_of(source[0], LABELS)
    with pytest.raises(ValueError, match=f"no hypothesis with a label; first problem: .*{message}"):
        evaluate_entailment(predictor, source)


def test_labels_may_be_capitalised(folder: Path) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": " Neutral"}])
    assert labelled_texts_of(source[0], LABELS)[0][0].label == 1


def test_a_model_without_a_classifier_is_refused(folder: Path) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": "neutral"}])
    with pytest.raises(MissingHead, match=r"no head 'classifier'.*it has vqa_decoder"):
        evaluate_entailment(predictor_of("vqa_decoder"), source)


def test_several_hypotheses_in_a_record_equal_several_records(folder: Path, predictor: Predictor) -> None:
    hypotheses = [*HYPOTHESES, {**HYPOTHESES[0], "label": "-"}]
    together = source_of(folder, [{"image": "0.jpg", "statements": hypotheses}])
    losses, neutral, bad, skipped = [], [], [], []
    all_samples = []
    transform = PairTransform(predictor.model.config.vision.image_hw, (1.0, 1.0), False, False, None)
    build = entailment.EntailmentSampleBuilder(transform, predictor.tokenizer)
    for source in (together, None):
        source = source or source_of(folder, [{"image": "0", **one} for one in HYPOTHESES])
        samples = [build(source[index], np.random.default_rng(0)) for index in range(len(source))]
        batch = entailment.collate({"train": samples})
        assert batch.label_N.tolist() == [2, 0, 1] and len(batch.images) == len(source)
        losses.append(entailment.Entailment(predictor.model)(batch)["label"])
        metrics, predictions = evaluate_entailment(predictor, source)
        neutral.append([one.probabilities["neutral"] for one in predictions])
        skipped.append(metrics["entailment_skipped"])
        all_samples += samples
        bad.append([one.reason for sample in samples for one in sample.bad])
    torch.testing.assert_close(losses[0], losses[1])
    assert neutral[0] == pytest.approx(neutral[1], abs=1e-6) and len(set(neutral[0])) == 3
    assert bad == [["annotators disagree"], []] and skipped == [1, 0]
    assert entailment.collate({"train": all_samples}).image_N.tolist() == [0, 0, 0, 1, 2, 3]


def test_hypotheses_are_flipped_with_their_image(folder: Path, predictor: Predictor) -> None:
    source = source_of(folder, [{"image": "0.jpg", "statements": HYPOTHESES}])
    transform = PairTransform((32, 32), (1.0, 1.0), random_crop=False, random_flip=True, rand_augment=None)
    build = entailment.EntailmentSampleBuilder(transform, predictor.tokenizer)
    pixels = {}
    for seed in range(8):
        sample = build(source[0], np.random.default_rng(seed))
        pixels[tuple(sample.hypotheses[1])] = sample.pixels
    left, right = (
        tuple(predictor.tokenizer.encode(f"a cat on the {side}", 40)) for side in ("left", "right")
    )
    assert set(pixels) == {left, right} and torch.equal(pixels[left], pixels[right].flip(-1))
