"""What is in a shard, and what of the release is not, by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from xvlm.data.samples.concept_checks import count_corners
from xvlm.prepare.clean import CleanSample
from xvlm.records import BadRecord, Note

EXAMPLES = 3
"""Examples of each reason."""


@dataclass
class Tally:
    """How often something happened, with the first examples, by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, one: BadRecord | Note) -> None:
        """Count one."""
        self.counts[one.reason] = self.counts.get(one.reason, 0) + 1
        some = self.examples.setdefault(one.reason, [])
        if len(some) < EXAMPLES:
            some.append(f"{one.key}: {one.detail}" if one.detail else one.key)

    def merge(self, other: Tally) -> None:
        """Add another tally."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            some = self.examples.setdefault(reason, [])
            some += other.examples[reason][: EXAMPLES - len(some)]


@dataclass
class ShardReport:
    """What is in a shard.

    Attributes:
        name: file of the shard; empty if no sample was left.
        digest: of what it was made of, see `Work.digest`, and of the settings.
        sha256: of its bytes.
        bytes: its size.
        samples, captions, region_texts, boxes, task_items: numbers of samples, texts of images, texts of
            regions, boxes, and questions or statements.
        left_out: samples that were left out.
        parts_left_out: texts and boxes of other samples that were left out.
        notes: what was changed.
        unfit_boxes, corners: boxes that were left out or clipped, and those of them that would lie in their
            images as two corners.
    """

    name: str
    digest: str
    sha256: str = ""
    bytes: int = 0
    samples: int = 0
    captions: int = 0
    region_texts: int = 0
    boxes: int = 0
    task_items: int = 0
    left_out: Tally = field(default_factory=Tally)
    parts_left_out: Tally = field(default_factory=Tally)
    notes: Tally = field(default_factory=Tally)
    unfit_boxes: int = 0
    corners: int = 0

    def leave_out(self, one: BadRecord) -> None:
        """Count a sample that is left out."""
        self.left_out.add(one)
        self._count_corners([one])

    def _count_corners(self, found: Iterable[BadRecord | Note]) -> None:
        corners, boxes = count_corners(found)
        self.corners += corners
        self.unfit_boxes += boxes

    def count(self, one: CleanSample) -> None:
        """Count the content of a sample."""
        fields, elems = one.fields, one.fields.get("elems", [])
        self.samples += 1
        self.captions += len(fields.get("caption", []))
        self.region_texts += sum(_number(elem["caption"], str) for elem in elems)
        self.boxes += sum(_number(elem["bb"], float) for elem in elems)
        if "text" in fields:
            self.region_texts += _number(fields["text"], str)
            self.boxes += _number(fields["bbox"], float)
        items = (fields.get(name) for name in ("questions", "statements"))
        self.task_items += sum(len(one) for one in items if isinstance(one, list))
        self.task_items += "question" in fields or "sentence" in fields
        self._count_corners([*one.left_out, *one.notes])
        for part in one.left_out:
            self.parts_left_out.add(part)
        for note in one.notes:
            self.notes.add(note)


def _number(value: Any, kind: type) -> int:
    """Return 1 for one text or box, and the number of a list of them."""
    if isinstance(value, str):
        return 1
    return 1 if value and isinstance(value[0], kind) and kind is float else len(value)
