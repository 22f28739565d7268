"""pycocoevalcap's caption metrics and the Java programs that it ships (METEOR, SPICE, the PTB tokenizer)."""

from __future__ import annotations

import importlib.util
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xvlm.common.errors import InputError

TextsByImage = dict[int, list[str]]
"""Texts by image number, as pycocoevalcap takes them; words are separated by spaces."""

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
"""Files that SPICE needs in pycocoevalcap's `spice/lib`; they are not part of its package."""


def library_problem() -> str:
    """Return why pycocoevalcap cannot be used, or an empty string."""
    found = importlib.util.find_spec("pycocoevalcap")
    return "" if found else "pycocoevalcap, of the extra 'metrics', is not installed"


def java_problem(enabled: bool = True) -> str:
    """Return why Java cannot be used, or an empty string."""
    if not enabled:
        return "Java is disabled"
    try:
        process = subprocess.run(["java", "-version"], capture_output=True)
    except OSError:
        return "Java is not installed"
    return "Java does not start" if process.returncode else ""


def spice_problem() -> str:
    """Return why SPICE cannot be computed, or an empty string.

    pycocoevalcap would download the missing files.
    """
    missing = [name for name in SPICE_MODELS if not (package_folder() / "spice" / "lib" / name).is_file()]
    return f"pycocoevalcap's spice/lib has no {' and no '.join(missing)}" if missing else ""


def package_folder() -> Path:
    """Return the folder of pycocoevalcap."""
    spec = importlib.util.find_spec("pycocoevalcap")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def ptb_words(texts: Sequence[str]) -> list[str]:
    """Split texts by the PTB tokenizer, in lower case and without its list of punctuation.

    This calls the Java program directly: pycocoevalcap's wrapper writes into the folder of the package, and a
    text with a line break shifts all later texts.

    Raises:
        OSError, CalledProcessError, InputError: the program does not run, or returns another number of texts.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    lines = [" ".join(text.split()) for text in texts]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", STANFORD_CORENLP_3_4_1_JAR]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    process = subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines).encode(),
        cwd=package_folder() / "tokenizer",
        capture_output=True,
        check=True,
    )
    split_lines = process.stdout.decode().split("\n")[:-1]
    if len(split_lines) != len(lines):
        raise InputError(f"it returned {len(split_lines)} texts for {len(lines)}")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in split_lines]


def bleu_and_rouge(references: TextsByImage, captions: TextsByImage) -> dict[str, float]:
    """Return the corpus BLEU of n-grams up to length 1 to 4, and the mean ROUGE-L."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    metrics = {f"caption_bleu{length}": float(score) for length, score in enumerate(bleu, start=1)}
    return {**metrics, "caption_rouge_l": float(Rouge().compute_score(references, captions)[0])}


def meteor(references: TextsByImage, captions: TextsByImage) -> float:
    """Return the corpus METEOR.  Raises InputError if its Java program fails."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        return float(scorer.compute_score(references, captions)[0])
    except (OSError, ValueError) as error:
        scorer.lock.release()  # the scorer fails while it holds its lock, and would wait for it when deleted
        raise InputError("its Java program stopped") from error


def spice(references: TextsByImage, captions: TextsByImage) -> float:
    """Return the mean SPICE.

    Raises:
        OSError, CalledProcessError, InputError: its Java program fails, or the score is not finite.
    """
    from pycocoevalcap.spice.spice import Spice

    score = float(Spice().compute_score(references, captions)[0])
    if not math.isfinite(score):
        raise InputError("its score is not a finite number")
    return score
