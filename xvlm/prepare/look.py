"""`xvlm data look`: what is in a data source, as a page: counts, histograms, and samples with their boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from xvlm.common.errors import InputError
from xvlm.common.progress import progress_bar
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.concept_checks import hint_at_xyxy, usable_concepts
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import answers_of
from xvlm.prepare.score import Score
from xvlm.records import BadRecord, Concept, Note, Record
from xvlm.reports import AnswerExample, BoxAnnotation, Item, Metric, Section, Table, draw_boxes, write_report

SAMPLES, COUNTED = 50, 2000
_AREAS = (0.01, 0.05, 0.2, 0.5, 1.0)
_WORDS = (1, 2, 4, 8, 16, 32)
_PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SHOWN_TEXTS, _BAR, _LEAST = 6, 30, 20

Scored = tuple[float, str, str]
"""Probability, caption, key of the record."""


@dataclass
class Counts:
    """Counts over the records that were read."""

    records: int = 0
    captions: int = 0
    region_texts: int = 0
    boxes: int = 0
    absent: int = 0
    task_items: int = 0
    words: Counter[float] = field(default_factory=Counter)
    areas: Counter[float] = field(default_factory=Counter)
    bad: list[BadRecord] = field(default_factory=list)

    def add(self, record: Record, concepts: Sequence[Concept], pixels: int) -> None:
        """Count a record."""
        self.records += 1
        self.absent += len(record.absent_texts)
        items = [record.extra.get(name) for name in ("questions", "statements")]
        self.task_items += sum(len(one) for one in items if isinstance(one, list))
        self.task_items += "question" in record.extra or "sentence" in record.extra
        for concept in concepts:
            for text in concept.texts:
                self.words[_bucket(len(text.split()), _WORDS)] += 1
            if concept.box_xyxy is None:
                self.captions += len(concept.texts)
                continue
            self.region_texts += len(concept.texts)
            for x0, y0, x1, y1 in concept.targets_xyxy:
                self.boxes += 1
                self.areas[_bucket((x1 - x0) * (y1 - y0) / pixels, _AREAS)] += 1


def _bucket(value: float, limits: Sequence[float]) -> float:
    """Return the first limit that is at least the value, or infinity."""
    return next((limit for limit in limits if value <= limit), float("inf"))


def write_look(
    path: Path,
    source: Source,
    samples: int = SAMPLES,
    counted: int = COUNTED,
    score: Score | None = None,
    hint: str = "",
) -> Path:
    """Write the page of a source, and return its path.

    Args:
        path: the HTML file.
        samples: number of records that are shown, evenly spaced.
        counted: number of records that are counted, evenly spaced; those of images in the source are read.
        score: how probable captions are for their image; a histogram of the counted ones is shown.
        hint: what is known of the problems; by default whether boxes look like two corners.
    Raises:
        InputError: none of the records can be used.
    """
    counts, items, scored, notes = Counts(), list[Item](), list[Scored](), list[Note]()
    total = len(source)
    numbers = sorted({number * total // min(counted, total) for number in range(min(counted, total))})
    shown = set(numbers[:: max(1, len(numbers) // samples)][:samples])
    for number in progress_bar(numbers, "reading records", len(numbers)):
        try:
            record = source[number]
            opened = open_image(record.image, key=record.key)
            concepts, bad = list(record.concepts), list(record.bad)
            if concepts:
                concepts, bad = usable_concepts(record, opened, notes)
            picture = opened.image if number in shown else None
            if score is not None:
                scored += _scored(record.key, opened, concepts, score)
        except BadRecord as error:
            counts.bad.append(error)
            continue
        counts.bad += bad
        counts.add(record, concepts, opened.width * opened.height)
        if picture is not None:
            items.append(_item(record, concepts, picture))
    if not counts.records:
        raise InputError(f"no record of {source.name} can be used; first problem: {counts.bad[0]}")
    lead = f"{source.name}: {total:,} records, of which {len(numbers):,}, evenly spaced, were read."
    hint = hint or hint_at_xyxy([*counts.bad, *notes])
    problems = _problems(counts.bad)
    if hint and not problems:  # a section without items is left out
        problems = [Table(("problem",), [(hint,)])]
    sections = [
        Section("Problems", hint, problems),
        Section("Sizes", "", _histograms(counts)),
        *_matching(scored),
        Section("Samples", "Boxes are where training will see them.", items),
    ]
    return write_report(path, "What is in the data", lead=lead, summary=_tiles(counts), sections=sections)


def _tiles(counts: Counts) -> list[Metric]:
    names = ("records", "captions", "region_texts", "boxes", "absent", "task_items")
    values = [(name.replace("_", " "), getattr(counts, name)) for name in names]
    return [Metric(name, f"{value:,}") for name, value in values if value]


def _problems(bad: Sequence[BadRecord]) -> list[Item]:
    reasons = Counter(one.reason for one in bad)
    first = {one.reason: one for one in reversed(bad)}
    rows = [(reason, count, str(first[reason])) for reason, count in reasons.most_common()]
    return [Table(("problem", "number", "such as"), rows)] if rows else []


def _histograms(counts: Counts) -> list[Item]:
    tables: list[Item] = []
    for title, buckets, unit in (
        ("words of a text", counts.words, ""),
        ("box as a part of its image", counts.areas, " %"),
    ):
        if total := sum(buckets.values()):
            rows = [
                (_label(limit, unit), n, _bar(n, max(buckets.values())))
                for limit, n in sorted(buckets.items())
            ]
            tables.append(Table((title, f"of {total:,}", ""), rows))
    return tables


def _scored(key: str, opened: ImageFile, concepts: Sequence[Concept], score: Score) -> list[Scored]:
    texts = [text for one in concepts if one.box_xyxy is None for text in one.texts]
    return [(one, text, key) for one, text in zip(score(opened, texts), texts, strict=True)] if texts else []


def _matching(scored: list[Scored]) -> list[Section]:
    """Return the histogram of matching probabilities, and the least probable captions."""
    if not scored:
        return []
    counts = Counter(_bucket(probability, _PROBABILITIES) for probability, *_ in scored)
    rows = [
        (f"up to {limit:g}", n, _bar(n, max(counts.values())), f"{100 * below / len(scored):.1f} %")
        for limit in _PROBABILITIES
        if (n := counts[limit]) and (below := sum(counts[one] for one in _PROBABILITIES if one <= limit))
    ]
    least = [(f"{probability:.3f}", text, key) for probability, text, key in sorted(scored)[:_LEAST]]
    intro = (
        f"How probable a model finds {len(scored):,} captions for their images; --filters "
        "score:model=MODEL,min_probability=P leaves out those below P."
    )
    tables: list[Item] = [
        Table(("probability", "captions", "", "share up to here"), rows),
        Table(("probability", "least probable captions", "record"), least),
    ]
    return [Section("Matching", intro, tables)]


def _label(limit: float, unit: str) -> str:
    if limit == float("inf"):
        return "more"
    return f"up to {100 * limit:g}{unit}" if unit else f"up to {limit:g}"


def _bar(number: int, largest: int) -> str:
    return "█" * max(1, round(_BAR * number / largest))


def _item(record: Record, concepts: Sequence[Concept], picture: Image.Image) -> AnswerExample:
    boxes = [BoxAnnotation(box, one.texts[0]) for one in concepts for box in one.targets_xyxy]
    captions = [text for one in concepts if one.box_xyxy is None for text in one.texts]
    lines = [("caption", text) for text in captions[:_SHOWN_TEXTS]]
    regions = [text for one in concepts if one.box_xyxy is not None for text in one.texts]
    lines += [("regions", ", ".join(regions[:_SHOWN_TEXTS]))] if regions else []
    lines += [("absent", text) for text in record.absent_texts[:_SHOWN_TEXTS]]
    lines += _task_lines(record)
    return AnswerExample([draw_boxes(picture, boxes)], lines=[*lines, ("record", record.key)])


def _task_lines(record: Record) -> Iterable[tuple[str, str]]:
    for question in _objects(record, "questions", "question"):
        try:
            yield "question", f"{question['question']} {' / '.join(dict.fromkeys(answers_of(question)))}"
        except BadRecord as error:
            yield "question", str(error)
    for statement in _objects(record, "statements", "sentence"):
        yield "statement", f"{statement['sentence']} ({statement.get('label')})"


def _objects(record: Record, several: str, one: str) -> list[dict[str, object]]:
    """Return up to some objects of a list in `extra`, or `extra` itself as the only one."""
    found = record.extra.get(several, [record.extra])
    found = found if isinstance(found, list) else []
    return [item for item in found if isinstance(item, dict) and one in item][:_SHOWN_TEXTS]
