"""Captions as the field compares them: BLEU, METEOR, ROUGE-L, CIDEr, SPICE, as far as the machine has them.

BLEU and ROUGE-L are pycocoevalcap's (the extra `metrics`); METEOR, SPICE and the PTB tokenizer are its Java
programs.  What is not there is left out and said; nothing is downloaded.  CIDEr is always there.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xvlm.data.text import clean_caption
from xvlm.errors import InputError
from xvlm.metrics.cider import Cider
from xvlm.records import BadRecord

Numbered = dict[int, list[str]]
"""Texts by the number of their image, as pycocoevalcap takes them."""

NO_LIBRARY = "pycocoevalcap, of the extra 'metrics', is not installed"
PTB = "PTB tokenizer"
FAILURES = (OSError, ValueError, subprocess.CalledProcessError)
"""What comes of a Java program that does not start, stops, or says something else than numbers."""

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""What SPICE needs besides pycocoevalcap's own files, in its folder `spice/lib`."""


@dataclass(frozen=True)
class CaptionScores:
    """How well captions agree with what people said.

    Attributes:
        metrics: by name; what could not be computed is not among them.  `caption_ptb_tokenizer` is 1 where
            words are those of the PTB tokenizer, as in published figures, 0 where they are `clean_caption`'s.
        cider: of each caption.
        note: in one line, which words were compared, and what is left out for which reason.
    """

    metrics: dict[str, float]
    cider: list[float]
    note: str


def caption_scores(
    captions: Sequence[str], references: Sequence[Sequence[str]], java: bool = True
) -> CaptionScores:
    """Captions against the references of their images, over all of them.

    Args:
        captions: one an image; it may be empty, which is the worst caption there is.
        references: at least one an image.
        java: False leaves out what needs Java, for numbers that are the same on every machine.
    Raises:
        InputError: there is no caption, or an image without a reference.
    """
    if not captions or not all(references):
        raise InputError(f"{len(captions)} captions; there must be one, and each needs a reference")
    left_out: dict[str, str] = {}
    no_library = "" if importlib.util.find_spec("pycocoevalcap") else NO_LIBRARY
    no_java = no_library or why_no_java(java)
    written, said = words(captions, references, no_java, left_out)
    cider = Cider(said.values())
    scores = [cider.score(written[number][0], said[number]) for number in written]
    metrics = {
        "caption_cider": sum(scores) / len(scores),
        "caption_ptb_tokenizer": float(PTB not in left_out),
    }
    if no_library:
        left_out |= {"BLEU": no_library, "ROUGE-L": no_library}
    else:
        metrics |= ngram_scores(said, written)
    for name, measure, reason in (
        ("METEOR", meteor, no_java),
        ("SPICE", spice, no_java or why_no_spice()),
    ):
        if not reason:
            try:
                metrics[f"caption_{name.lower()}"] = measure(said, written)
            except FAILURES as error:
                reason = str(error)
        if reason:
            left_out[name] = reason
    return CaptionScores(metrics, scores, note_of(left_out))


def note_of(left_out: Mapping[str, str]) -> str:
    """One line; `left_out` is names with reasons."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    words_by = "xvlm's cleaning" if PTB in left_out else f"the {PTB}"
    missing = [f"left out: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return "; ".join([f"captions: words by {words_by}", *missing])


def words(
    captions: Sequence[str], references: Sequence[Sequence[str]], no_java: str, left_out: dict[str, str]
) -> tuple[Numbered, Numbered]:
    """Captions and references with spaces between their words; by number, so that none is lost."""
    texts = [*captions, *(text for several in references for text in several)]
    reason = no_java
    if not reason:
        try:
            texts = ptb_words(texts)
        except FAILURES as error:
            reason = str(error)
    if reason:
        left_out[PTB] = reason
        texts = [cleaned(text) for text in texts]
    left = iter(texts)
    written = {number: [next(left)] for number in range(len(captions))}
    said = {number: [next(left) for _ in several] for number, several in enumerate(references)}
    return written, said


def cleaned(text: str) -> str:
    """`clean_caption`, or nothing where nothing is left."""
    try:
        return clean_caption(text)
    except BadRecord:
        return ""


def why_no_java(wanted: bool = True) -> str:
    """Why Java cannot be used; empty if it can."""
    if not wanted:
        return "Java is not wanted"
    try:
        done = subprocess.run(["java", "-version"], capture_output=True)
    except OSError:
        return "Java is not there"
    return "Java does not start" if done.returncode else ""


def why_no_spice() -> str:
    """Why SPICE cannot be computed; empty if its files are there.  pycocoevalcap would download them."""
    missing = [name for name in SPICE_MODELS if not (package_folder() / "spice" / "lib" / name).is_file()]
    return f"pycocoevalcap's spice/lib has no {' and no '.join(missing)}" if missing else ""


def package_folder() -> Path:
    """Where pycocoevalcap lies."""
    spec = importlib.util.find_spec("pycocoevalcap")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def ptb_words(texts: Sequence[str]) -> list[str]:
    """Texts as the PTB tokenizer cuts them, in lower case, its punctuation left out.

    The program is pycocoevalcap's; it is called here because the call there writes into the folder of the
    package, and shifts all texts behind one that holds a line break.

    Raises:
        OSError, CalledProcessError, ValueError: it does not run, or gives another number of texts.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    lines = [" ".join(text.split()) for text in texts]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", STANFORD_CORENLP_3_4_1_JAR]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines).encode(),
        cwd=package_folder() / "tokenizer",
        capture_output=True,
        check=True,
    )
    found = done.stdout.decode().split("\n")[:-1]
    if len(found) != len(lines):
        raise InputError(f"it gave {len(found)} texts for {len(lines)}")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in found]


def ngram_scores(said: Numbered, written: Numbered) -> dict[str, float]:
    """BLEU of up to four words, over the corpus, and the mean ROUGE-L."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(said, written, verbose=0)
    found = {f"caption_bleu{length}": float(score) for length, score in enumerate(bleu, start=1)}
    return {**found, "caption_rouge_l": float(Rouge().compute_score(said, written)[0])}


def meteor(said: Numbered, written: Numbered) -> float:
    """METEOR over the corpus.  Raises OSError or ValueError if its program fails."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return float(scorer.compute_score(said, written)[0])
    except (OSError, ValueError) as error:
        scorer.lock.release()  # it is held still, and the scorer waits for it when it goes
        raise InputError("its Java program stopped") from error


def spice(said: Numbered, written: Numbered) -> float:
    """Mean SPICE.  Raises CalledProcessError if its program fails, ValueError if it finds no number."""
    from pycocoevalcap.spice.spice import Spice

    score = float(Spice().compute_score(said, written)[0])
    if not math.isfinite(score):
        raise InputError("it found no number")
    return score
