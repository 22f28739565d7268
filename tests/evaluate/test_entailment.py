"""Visual entailment: both published forms, every label counted, an image encoded once, mistakes said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import published_data
from tests.evaluate.test_answers import predictor_of, source_of
from tests.tiny import photo
from xvlm.data.fields import labelled_of
from xvlm.data.sources import JsonSource
from xvlm.data.transforms import PairsTransform
from xvlm.evaluate.entailment import evaluate_entailment
from xvlm.model.xvlm import MissingPart
from xvlm.predict import Predictor
from xvlm.records import BadRecord
from xvlm.tasks import entailment
from xvlm.tasks.entailment import LABELS

NAMES = [f"{number}.jpg" for number in range(3)]
ASKED = [
    {"sentence": "a dog runs", "label": "entailment"},
    {"sentence": "a cat on the left", "label": "contradiction"},
    {"sentence": "two red cars", "label": "neutral"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        photo(60 + 5 * number, 50, number).save(tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of("labels", LABELS)


def test_both_published_forms_are_read(folder: Path) -> None:
    published_data.write_entailment(folder, NAMES, np.random.default_rng(0))
    lines, items = (JsonSource(folder / name) for name in ("snli_ve_dev.jsonl", "ve_dev.json"))
    assert len(lines) == len(items) == 9
    for index in range(9):
        line, item = lines[index], items[index]
        assert line.image == item.image == str(folder / NAMES[index // 3]) and not line.concepts
        (told,), _ = labelled_of(line, LABELS)
        (same,), _ = labelled_of(item, LABELS)
        assert (told.text, told.label) == (same.text, same.label)
        assert LABELS[told.label] == ("entailment", "neutral", "contradiction")[index % 3]
        assert told.number.startswith(f"{NAMES[index // 3]}#0r1") and same.number is None
        assert line.extra["sentence1"] not in told.text


def test_predictions_are_what_a_user_would_be_told(
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
    encoded: list[int] = []
    real = predictor.encode_images

    def counted(pixels: list[torch.Tensor]) -> Any:
        encoded.append(len(pixels))
        return real(pixels)

    monkeypatch.setattr(predictor, "encode_images", counted)
    source = source_of(folder, lines + bad)
    metrics, predictions = evaluate_entailment(predictor, source, batch=2)
    assert encoded == [2, 1]
    for one, line in zip(predictions, lines, strict=True):
        told = predictor.image(folder / f"{line['Flickr30K_ID']}.jpg").entails(line["sentence2"])
        assert (one.label, one.truth, one.pair_id) == (told.label, line["gold_label"], line["pairID"])
        assert one.probabilities == pytest.approx(told.probabilities, abs=1e-5)
        assert list(one.probabilities) == list(LABELS) and one.label == told.label
        assert one.right == (one.label == line["gold_label"])
    right = Counter(one.truth for one in predictions if one.label == one.truth)
    assert 0 < sum(right.values()) < 8
    assert metrics == pytest.approx(
        {
            "entailment_acc": sum(right.values()) / 8,
            "entailment_acc_entailment": right["entailment"] / 2,
            "entailment_acc_neutral": right["neutral"] / 3,
            "entailment_acc_contradiction": right["contradiction"] / 3,
            "entailment_hypotheses": 8,
            "entailment_bad_records": 5,
        }
    )
    assert json.loads(json.dumps([one.to_json() for one in predictions]))[0]["right"] == predictions[0].right


@pytest.mark.parametrize(
    ("label", "said"),
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
def test_a_wrong_label_is_one_sentence(label: Any, said: str, folder: Path, predictor: Predictor) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": label}])
    with pytest.raises(BadRecord, match=said):
        labelled_of(source[0], LABELS)
    with pytest.raises(ValueError, match=f"no hypothesis with a label; first problem: .*{said}"):
        evaluate_entailment(predictor, source)


def test_labels_are_read_in_any_spelling_of_case(folder: Path) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": " Neutral"}])
    assert labelled_of(source[0], LABELS)[0][0].label == 1


def test_a_model_for_something_else_says_so(folder: Path) -> None:
    source = source_of(folder, [{"image": "0", "sentence": "a dog", "label": "neutral"}])
    with pytest.raises(MissingPart, match=r"no 'labels'.*it has answers"):
        evaluate_entailment(predictor_of("answers"), source)


def test_several_hypotheses_of_a_record_are_as_many_records(folder: Path, predictor: Predictor) -> None:
    together = source_of(folder, [{"image": "0.jpg", "statements": [*ASKED, {**ASKED[0], "label": "-"}]}])
    losses, found, bad, counted = [], [], [], []
    mixed = []
    transform = PairsTransform(predictor.model.config.vision.image_hw, (1.0, 1.0), False, False, None)
    view = entailment.HypothesisView(transform, predictor.tokenizer)
    for source in (together, None):
        source = source or source_of(folder, [{"image": "0", **one} for one in ASKED])
        samples = [view(source[index], np.random.default_rng(0)) for index in range(len(source))]
        batch = entailment.collate({"train": samples})
        assert batch.label_N.tolist() == [2, 0, 1] and len(batch.images) == len(source)
        losses.append(entailment.Entailment(predictor.model)(batch)["label"])
        metrics, predictions = evaluate_entailment(predictor, source)
        found.append([one.probabilities["neutral"] for one in predictions])
        counted.append(metrics["entailment_bad_records"])
        mixed += samples
        bad.append([one.reason for sample in samples for one in sample.bad])
    torch.testing.assert_close(losses[0], losses[1])
    assert found[0] == pytest.approx(found[1], abs=1e-6) and len(set(found[0])) == 3
    assert bad == [["annotators disagree"], []] and counted == [1, 0]
    assert entailment.collate({"train": mixed}).image_N.tolist() == [0, 0, 0, 1, 2, 3]


def test_hypotheses_are_mirrored_with_their_image(folder: Path, predictor: Predictor) -> None:
    source = source_of(folder, [{"image": "0.jpg", "statements": ASKED}])
    transform = PairsTransform((32, 32), (1.0, 1.0), crop=False, flip=True, rand_augment=None)
    view = entailment.HypothesisView(transform, predictor.tokenizer)
    shown = {}
    for seed in range(8):
        one = view(source[0], np.random.default_rng(seed))
        shown[tuple(one.hypotheses[1])] = one.pixels
    left, right = (
        tuple(predictor.tokenizer.encode(f"a cat on the {side}", 40)) for side in ("left", "right")
    )
    assert set(shown) == {left, right} and torch.equal(shown[left], shown[right].flip(-1))
