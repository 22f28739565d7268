"""Counts of unusable records, which end a run if there are too many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from xvlm.common.atomic import AppendFile
from xvlm.common.errors import TooManyBadRecordsError
from xvlm.data.samples.concept_checks import BOX_REASONS, hint_at_xyxy
from xvlm.records import HARMLESS_REASONS, BadRecord, Note

LOGGED_PER_REASON = 100
_KEYS_PER_REASON = 3


class BadRecordCounter:
    """Counts unusable records and notes by reason, and logs the first ones of each reason.

    Attributes:
        read: number of records (or concepts) read, including bad ones.
        counts: number of bad records by reason.
        first_keys: keys of the first bad records by reason.
        noted: number of notes by reason.
    """

    def __init__(self, log: Path | None = None, max_fraction: float = 0.01, min_read: int = 200) -> None:
        """Start with no records.

        Args:
            log: JSONL file to append to, at most `LOGGED_PER_REASON` lines for each reason.
            max_fraction: largest fraction of bad records.
            min_read: number of records from which on the fraction is checked.
        """
        self.log, self.max_fraction, self.min_read = log, max_fraction, min_read
        self.read = 0
        self.counts: Counter[str] = Counter()
        self.first_keys: dict[str, list[str]] = {}
        self.noted: Counter[str] = Counter()
        self._bad_boxes: list[BadRecord] = []
        self._reference = f"; see {log}" if log is not None else ""

    def add(self, read: int, bad: Sequence[BadRecord], notes: Sequence[Note]) -> None:
        """Count the records of one step; see `StepData`."""
        self.read += read
        for one in bad:
            keys = self.first_keys.setdefault(one.reason, [])
            if len(keys) < _KEYS_PER_REASON:
                keys.append(one.key)
            if one.reason in BOX_REASONS and len(self._bad_boxes) < LOGGED_PER_REASON:
                self._bad_boxes.append(one)
        lines = _count(self.counts, "reason", bad) + _count(self.noted, "note", notes)
        if lines and self.log is not None:
            with closing(AppendFile(self.log)) as file:
                file.write("".join(line + "\n" for line in lines).encode())

    def check(self) -> None:
        """Raise TooManyBadRecordsError if too large a fraction of the records is bad."""
        bad = sum(count for reason, count in self.counts.items() if reason not in HARMLESS_REASONS)
        if self.read < self.min_read or bad <= self.max_fraction * self.read:
            return
        hint = hint_at_xyxy(self._bad_boxes)
        raise TooManyBadRecordsError(
            f"{bad} of {self.read} records read are bad, more than {self.max_fraction:.2%} (--max-bad): "
            f"{self.most_common_reasons()}{self._reference}" + (f"; {hint}" if hint else "")
        )

    def most_common_reasons(self) -> str:
        """Format the three most common reasons with their counts and first keys."""
        reasons = [
            f"{count} x {reason} (first: {', '.join(self.first_keys[reason])})"
            for reason, count in self.counts.most_common(3)
        ]
        if len(self.counts) > len(reasons):
            reasons.append(f"and {len(self.counts) - len(reasons)} other reasons")
        return "; ".join(reasons)

    def note_lines(self) -> list[str]:
        """Return a line for each kind of note, with its count."""
        return [f"{count} x {reason} (used){self._reference}" for reason, count in self.noted.most_common()]

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and first keys as plain values."""
        return {
            "read": self.read,
            "counts": dict(self.counts),
            "first_keys": dict(self.first_keys),
            "noted": dict(self.noted),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.read = state["read"]
        self.counts = Counter(state["counts"])
        self.noted = Counter(state.get("noted", {}))
        self.first_keys = {reason: list(keys) for reason, keys in state["first_keys"].items()}


def _count(counts: Counter[str], field: str, entries: Sequence[BadRecord | Note]) -> list[str]:
    """Count entries by reason, and return the JSON lines to log; the reason is written to `field`."""
    lines = []
    for entry in entries:
        if counts[entry.reason] < LOGGED_PER_REASON:
            lines.append(json.dumps({field: entry.reason, "key": entry.key, "detail": entry.detail}))
        counts[entry.reason] += 1
    return lines
