"""Caption metrics: pycocoevalcap's own numbers, and what is said where something is not there."""

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
from xvlm.metrics import captions as metrics
from xvlm.metrics.captions import caption_scores, why_no_java

CASES = 220
SIGNS = ["", ".", "!", ", too", "'s ball", " - a dog's", " (2)", "; it isn't", '"', " café"]
needs_java = pytest.mark.skipif(bool(why_no_java()), reason=f"{why_no_java()}: no PTB tokenizer, no METEOR")


def cases() -> tuple[list[str], list[list[str]]]:
    """Captions and references as people write them; numbers of references differ, two captions are empty."""
    rng = np.random.default_rng(3)

    def sentence() -> str:
        text = " ".join(rng.choice(WORDS, int(rng.integers(2, 12))).tolist())
        return text.capitalize() + SIGNS[rng.integers(len(SIGNS))]

    said = [[sentence() for _ in range(rng.integers(1, 7))] for _ in range(CASES)]
    written = [several[0] if rng.random() < 0.2 else sentence() for several in said]
    written[0] = written[100] = ""
    return written, said


def theirs(written: dict[int, list[str]], said: dict[int, list[str]]) -> dict[str, float]:
    bleu, _ = Bleu(4).compute_score(said, written, verbose=0)
    return {
        **{f"caption_bleu{length}": score for length, score in enumerate(bleu, start=1)},
        "caption_rouge_l": Rouge().compute_score(said, written)[0],
        "caption_cider": Cider().compute_score(said, written)[0],
    }


def numbered(texts: list[Any]) -> dict[int, list[str]]:
    return {number: [one] if isinstance(one, str) else one for number, one in enumerate(texts)}


@needs_java
def test_agrees_with_pycocoevalcap_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    written, said = cases()
    tokenizer = PTBTokenizer()
    as_objects = (
        {n: [{"caption": t} for t in texts] for n, texts in numbered(x).items()} for x in (written, said)
    )
    cut_written, cut_said = map(tokenizer.tokenize, as_objects)
    expected = theirs(cut_written, cut_said)
    meteor = Meteor()  # one for both: it takes seconds to start
    monkeypatch.setattr("pycocoevalcap.meteor.meteor.Meteor", lambda: meteor)
    found = caption_scores(written, said)
    expected["caption_meteor"] = meteor.compute_score(cut_said, cut_written)[0]
    assert found.metrics.pop("caption_ptb_tokenizer") == 1
    assert found.metrics == pytest.approx(expected, rel=1e-9)
    _, each = Cider().compute_score(cut_said, cut_written)
    assert found.cider == pytest.approx(each.tolist(), abs=1e-9)
    assert 0.1 < expected["caption_bleu4"] < 1 and found.note.startswith(
        "captions: words by the PTB tokenizer; "
    )


def test_agrees_without_java() -> None:
    written, said = cases()
    cut = [metrics.cleaned(text) for text in written]
    references = [[metrics.cleaned(text) for text in several] for several in said]
    found = caption_scores(written, said, java=False)
    assert found.metrics.pop("caption_ptb_tokenizer") == 0
    assert found.metrics == pytest.approx(theirs(numbered(cut), numbered(references)), rel=1e-9)
    assert found.note == (
        "captions: words by xvlm's cleaning; left out: PTB tokenizer, METEOR, SPICE (Java is not wanted)"
    )


def test_without_java_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    written, said = cases()
    found = caption_scores(written, said)
    assert found.metrics == caption_scores(written, said, java=False).metrics
    assert "left out: PTB tokenizer, METEOR, SPICE (Java is not there)" in found.note


def java_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of Java: it says its version, and does this when it should work."""
    (folder / "java").write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit 0\n{does}\n')
    (folder / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("does", "said"), [("exit 1", "non-zero exit status 1"), ("echo a", "it gave 1 texts for 4")]
)
def test_a_java_that_fails_stops_nothing(
    does: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java_that(does, tmp_path, monkeypatch)
    found = caption_scores(["a dog", "a cat"], [["the dog"], ["the cat"]])
    assert found.metrics["caption_ptb_tokenizer"] == 0 and "caption_bleu4" in found.metrics
    assert "caption_meteor" not in found.metrics
    assert "METEOR (its Java program stopped)" in found.note
    assert said in found.note


def test_a_java_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java_that("", tmp_path, monkeypatch)
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    assert why_no_java() == "Java does not start"


def test_without_pycocoevalcap_there_is_cider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    written, said = cases()
    found = caption_scores(written, said)
    assert found.metrics.keys() == {"caption_cider", "caption_ptb_tokenizer"}
    assert (
        "left out: PTB tokenizer, BLEU, ROUGE-L, METEOR, SPICE (pycocoevalcap, of the extra 'metrics', is not"
        in found.note
    )


class FakeSpice:
    def compute_score(self, said: Any, written: Any) -> tuple[float, list[Any]]:
        assert written == {0: ["a dog"]} and said == {0: ["the dog", "a dog runs"]}
        return self.score, []

    score = 0.25


@pytest.mark.parametrize(("score", "said"), [(0.25, ""), (float("nan"), "SPICE (it found no number)")])
def test_spice_where_its_files_are(
    score: float, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("spice")
    module.Spice = FakeSpice  # type: ignore[attr-defined]
    monkeypatch.setattr(FakeSpice, "score", score)
    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", module)
    monkeypatch.setattr(metrics, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(metrics, "why_no_java", lambda wanted: "")
    monkeypatch.setattr(metrics, "ptb_words", lambda texts: texts)
    monkeypatch.setattr(metrics, "meteor", lambda said, written: 0.5)

    def scores() -> metrics.CaptionScores:
        return caption_scores(["a dog"], [["the dog", "a dog runs"]])

    without = scores()
    assert "caption_spice" not in without.metrics
    assert "SPICE (pycocoevalcap's spice/lib has no stanford-corenlp-3.6.0.jar and no " in without.note
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    for name in metrics.SPICE_MODELS:
        (tmp_path / "spice" / "lib" / name).touch()
    found = scores()
    assert found.metrics.get("caption_spice", 0.25) == 0.25 and ("caption_spice" in found.metrics) == (
        not said
    )
    assert found.metrics["caption_meteor"] == 0.5 and said in found.note
    assert ("left out" in found.note) == bool(said)


@needs_java
def test_texts_that_shift_no_other() -> None:
    """Empty ones, line breaks of every kind, signs alone."""
    texts = ["", "A dog's café.\nIt runs\u2028far\x85away", "``", "", "two cats | |||", ""]
    found = metrics.ptb_words(texts)
    assert found == ["", "a dog 's café it runs far away", "", "", "two cats | | | |", ""]


@pytest.mark.parametrize("given", [([], []), (["a dog"], [[]])])
def test_what_cannot_be_compared(given: tuple[list[str], list[list[str]]]) -> None:
    with pytest.raises(ValueError, match="there must be one, and each needs a reference"):
        caption_scores(*given)
