"""Caption metrics of a test set: CIDEr always; BLEU, ROUGE-L, METEOR and SPICE where they are installed.

Nothing is downloaded; metrics that cannot be computed are left out, and the reason is reported.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xvlm.common.errors import InputError
from xvlm.data.text.cleaning import clean_caption
from xvlm.metrics import coco_tools
from xvlm.metrics.cider import Cider
from xvlm.metrics.coco_tools import TextsByImage
from xvlm.records import BadRecord

PTB = "PTB tokenizer"
FAILURES = (OSError, ValueError, subprocess.CalledProcessError)
"""Errors of a Java program that does not start, exits early, or prints something other than numbers."""


@dataclass(frozen=True)
class CaptionScores:
    """Agreement of captions with reference captions.

    Attributes:
        metrics: metrics that could be computed, by name.  `caption_ptb_tokenizer` is 1 if texts were split by
            the PTB tokenizer, as in published results, and 0 if by `clean_caption`.
        cider: score of each caption.
        note: one line that says how texts were split, and which metrics are left out for which reason.
    """

    metrics: dict[str, float]
    cider: list[float]
    note: str


def caption_scores(
    captions: Sequence[str], references: Sequence[Sequence[str]], java: bool = True
) -> CaptionScores:
    """Score captions against the reference captions of their images.

    Args:
        captions: one for each image; an empty caption scores lowest.
        references: at least one for each image.
        java: False leaves out everything that needs Java, so that metrics are the same on every computer.
    Raises:
        InputError: there is no caption, or an image has no reference.
    """
    if not captions or not all(references):
        raise InputError(f"{len(captions)} captions; at least one is needed, and each needs a reference")
    left_out: dict[str, str] = {}
    no_library = coco_tools.library_problem()
    no_java = no_library or coco_tools.java_problem(java)
    caption_words, reference_words = split_words(captions, references, no_java, left_out)
    cider = Cider(reference_words.values())
    scores = [cider.score(texts[0], reference_words[image]) for image, texts in caption_words.items()]
    metrics = {
        "caption_cider": sum(scores) / len(scores),
        "caption_ptb_tokenizer": float(PTB not in left_out),
    }
    if no_library:
        left_out |= {"BLEU": no_library, "ROUGE-L": no_library}
    else:
        metrics |= coco_tools.bleu_and_rouge(reference_words, caption_words)
    for name, compute, problem in (
        ("METEOR", coco_tools.meteor, no_java),
        ("SPICE", coco_tools.spice, no_java or coco_tools.spice_problem()),
    ):
        if not problem:
            try:
                metrics[f"caption_{name.lower()}"] = compute(reference_words, caption_words)
            except FAILURES as error:
                problem = str(error)
        if problem:
            left_out[name] = problem
    return CaptionScores(metrics, scores, describe_left_out(left_out))


def describe_left_out(left_out: Mapping[str, str]) -> str:
    """Return the note of `CaptionScores` for reasons by metric."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    tokenizer = "xvlm's cleaning" if PTB in left_out else f"the {PTB}"
    missing = [f"left out: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return "; ".join([f"captions: words by {tokenizer}", *missing])


def split_words(
    captions: Sequence[str], references: Sequence[Sequence[str]], no_java: str, left_out: dict[str, str]
) -> tuple[TextsByImage, TextsByImage]:
    """Separate the words of captions and references by spaces; add a PTB tokenizer failure to `left_out`."""
    texts = [*captions, *(text for several in references for text in several)]
    problem = no_java
    if not problem:
        try:
            texts = coco_tools.ptb_words(texts)
        except FAILURES as error:
            problem = str(error)
    if problem:
        left_out[PTB] = problem
        texts = [clean_or_empty(text) for text in texts]
    remaining = iter(texts)
    caption_words = {image: [next(remaining)] for image in range(len(captions))}
    reference_words = {image: [next(remaining) for _ in several] for image, several in enumerate(references)}
    return caption_words, reference_words


def clean_or_empty(text: str) -> str:
    """Return `clean_caption(text)`, or an empty string where cleaning leaves nothing."""
    try:
        return clean_caption(text)
    except BadRecord:
        return ""
