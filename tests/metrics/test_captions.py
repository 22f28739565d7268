"""Caption metrics equal pycocoevalcap's; metrics that cannot be computed are left out with a reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from tests.metrics.test_cider import WORDS
from xvlm.metrics import coco_tools
from xvlm.metrics.captions import CaptionScores, caption_scores, clean_or_empty
from xvlm.metrics.coco_tools import java_problem

CASES = 220
SIGNS = ["", ".", "!", ", too", "'s ball", " - a dog's", " (2)", "; it isn't", '"', " café"]
needs_java = pytest.mark.skipif(bool(java_problem()), reason=f"{java_problem()}: no PTB tokenizer, no METEOR")


def sample_captions() -> tuple[list[str], list[list[str]]]:
    """Return captions and references with punctuation; their numbers differ, and two captions are empty."""
    rng = np.random.default_rng(3)

    def sentence() -> str:
        text = " ".join(rng.choice(WORDS, int(rng.integers(2, 12))).tolist())
        return text.capitalize() + SIGNS[rng.integers(len(SIGNS))]

    references = [[sentence() for _ in range(rng.integers(1, 7))] for _ in range(CASES)]
    captions = [several[0] if rng.random() < 0.2 else sentence() for several in references]
    captions[0] = captions[100] = ""
    return captions, references


def pycocoevalcap_metrics(
    captions: dict[int, list[str]], references: dict[int, list[str]]
) -> dict[str, float]:
    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    return {
        **{f"caption_bleu{length}": score for length, score in enumerate(bleu, start=1)},
        "caption_rouge_l": Rouge().compute_score(references, captions)[0],
        "caption_cider": Cider().compute_score(references, captions)[0],
    }


def by_image(texts: list[Any]) -> dict[int, list[str]]:
    return {image: [one] if isinstance(one, str) else one for image, one in enumerate(texts)}


@needs_java
def test_agrees_with_pycocoevalcap_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    captions, references = sample_captions()
    tokenizer = PTBTokenizer()
    as_objects = (
        {image: [{"caption": text} for text in texts] for image, texts in by_image(x).items()}
        for x in (captions, references)
    )
    caption_words, reference_words = map(tokenizer.tokenize, as_objects)
    expected = pycocoevalcap_metrics(caption_words, reference_words)
    meteor = Meteor()  # shared, because it takes seconds to start
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", lambda: meteor)
    scores = caption_scores(captions, references)
    expected["caption_meteor"] = meteor.compute_score(reference_words, caption_words)[0]
    assert scores.metrics.pop("caption_ptb_tokenizer") == 1
    assert scores.metrics == pytest.approx(expected, rel=1e-9)
    _, each = Cider().compute_score(reference_words, caption_words)
    assert scores.cider == pytest.approx(each.tolist(), abs=1e-9)
    assert 0.1 < expected["caption_bleu4"] < 1
    assert scores.note.startswith("captions: words by the PTB tokenizer; ")


def test_agrees_without_java() -> None:
    captions, references = sample_captions()
    caption_words = [clean_or_empty(text) for text in captions]
    reference_words = [[clean_or_empty(text) for text in several] for several in references]
    scores = caption_scores(captions, references, java=False)
    assert scores.metrics.pop("caption_ptb_tokenizer") == 0
    assert scores.metrics == pytest.approx(
        pycocoevalcap_metrics(by_image(caption_words), by_image(reference_words)), rel=1e-9
    )
    assert scores.note == (
        "captions: words by xvlm's cleaning; left out: PTB tokenizer, METEOR, SPICE (Java is disabled)"
    )


def test_missing_java_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    captions, references = sample_captions()
    scores = caption_scores(captions, references)
    assert scores.metrics == caption_scores(captions, references, java=False).metrics
    assert "left out: PTB tokenizer, METEOR, SPICE (Java is not installed)" in scores.note


def fake_java(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a `java` on the path that succeeds with `-version` and otherwise runs a shell command."""
    (folder / "java").write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit 0\n{command}\n')
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("command", "reason"), [("exit 1", "non-zero exit status 1"), ("echo a", "it returned 1 texts for 4")]
)
def test_a_failing_java_leaves_its_metrics_out(
    command: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(command, tmp_path, monkeypatch)
    scores = caption_scores(["a dog", "a cat"], [["the dog"], ["the cat"]])
    assert scores.metrics["caption_ptb_tokenizer"] == 0 and "caption_bleu4" in scores.metrics
    assert "caption_meteor" not in scores.metrics
    assert "METEOR (its Java program stopped)" in scores.note
    assert reason in scores.note


def test_a_java_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_java("", tmp_path, monkeypatch)
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    assert java_problem() == "Java does not start"


def test_without_pycocoevalcap_only_cider_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    captions, references = sample_captions()
    scores = caption_scores(captions, references)
    assert scores.metrics.keys() == {"caption_cider", "caption_ptb_tokenizer"}
    assert (
        "left out: PTB tokenizer, BLEU, ROUGE-L, METEOR, SPICE (pycocoevalcap, of the extra 'metrics', is not"
        in scores.note
    )


class FakeSpice:
    def compute_score(self, references: Any, captions: Any) -> tuple[float, list[Any]]:
        assert captions == {0: ["a dog"]} and references == {0: ["the dog", "a dog runs"]}
        return self.score, []

    score = 0.25


@pytest.mark.parametrize(
    ("score", "reason"), [(0.25, ""), (float("nan"), "SPICE (its score is not a finite number)")]
)
def test_spice_needs_its_files(
    score: float, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("spice")
    module.Spice = FakeSpice  # type: ignore[attr-defined]
    monkeypatch.setattr(FakeSpice, "score", score)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)
    monkeypatch.setattr(coco_tools, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(coco_tools, "java_problem", lambda enabled: "")
    monkeypatch.setattr(coco_tools, "ptb_words", lambda texts: texts)
    monkeypatch.setattr(coco_tools, "meteor", lambda references, captions: 0.5)

    def scores() -> CaptionScores:
        return caption_scores(["a dog"], [["the dog", "a dog runs"]])

    without = scores()
    assert "caption_spice" not in without.metrics
    assert "SPICE (pycocoevalcap's spice/lib has no stanford-corenlp-3.6.0.jar and no " in without.note
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    for name in coco_tools.SPICE_MODELS:
        (tmp_path / "spice" / "lib" / name).touch()
    found = scores()
    assert found.metrics.get("caption_spice", 0.25) == 0.25
    assert ("caption_spice" in found.metrics) == (not reason)
    assert found.metrics["caption_meteor"] == 0.5 and reason in found.note
    assert ("left out" in found.note) == bool(reason)


@needs_java
def test_unusual_texts_shift_no_other_text() -> None:
    """Empty texts, line breaks of every kind, and punctuation only."""
    texts = ["", "A dog's café.\nIt runs\u2028far\x85away", "``", "", "two cats | |||", ""]
    assert coco_tools.ptb_words(texts) == [
        "",
        "a dog 's café it runs far away",
        "",
        "",
        "two cats | | | |",
        "",
    ]


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a dog"], [[]])])
def test_missing_captions_and_references_are_refused(
    captions: list[str], references: list[list[str]]
) -> None:
    with pytest.raises(ValueError, match="at least one is needed, and each needs a reference"):
        caption_scores(captions, references)
