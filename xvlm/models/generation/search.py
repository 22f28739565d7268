"""The search for the best text of a context, whatever computes the probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class LengthLimits:
    """Where a generated text ends.

    Attributes:
        end: id of the token that ends a text.
        max_length, min_length: numbers of tokens, with the prompt and without the end.
        repetition_penalty: see `GenerationConfig`.
    """

    end: int
    max_length: int
    min_length: int = 0
    repetition_penalty: float = 1.0


class Generation(NamedTuple):
    """Token ids of a text, with the prompt and without the end, and its log-probability after the prompt."""

    ids: list[int]
    log_probability: float


class Beam(NamedTuple):
    """A continuation of the text in `row` by `token`, with the log-probability `total` of the new text."""

    row: int
    token: int
    total: float


class ContextSearch:
    """The search of one context.

    Attributes:
        finished: at most `num_beams` finished texts with their scores.
        is_done: whether no unfinished text can become better than the worst of them.
    """

    def __init__(self, first_row: int, num_beams: int, length_penalty: float, end: int) -> None:
        self.first_row, self.num_beams = first_row, num_beams
        self.length_penalty, self.end = length_penalty, end
        self.finished: list[tuple[float, Generation]] = []
        self.is_done = False

    def step(
        self, totals: Sequence[float], indices: Sequence[int], vocab_size: int, ids_RL: Any
    ) -> list[Beam]:
        """Add the texts that end, and return the beams to continue; placeholders once the search is done.

        Args:
            totals: log-probabilities of the best continuations, best first.
            indices: beam * `vocab_size` + token of each of them.
            ids_RL: (R, L) tokens of all rows so far, a tensor or an array.
        """
        if self.is_done:
            return [Beam(self.first_row, self.end, 0.0)] * self.num_beams
        beams: list[Beam] = []
        for rank, (total, index) in enumerate(zip(totals, indices, strict=True)):
            row, token = self.first_row + index // vocab_size, index % vocab_size
            if token != self.end:
                beams.append(Beam(row, token, total))
                if len(beams) == self.num_beams:
                    break
            elif rank < self.num_beams:
                self.add(ids_RL[row].tolist(), total)
        if len(self.finished) == self.num_beams:
            worst = min(score for score, _ in self.finished)
            self.is_done = worst >= totals[0] / ids_RL.shape[1] ** self.length_penalty
        return beams

    def add(self, ids: list[int], total: float) -> None:
        """Add a finished text with its log-probability; only the best `num_beams` are retained."""
        self.finished.append((total / len(ids) ** self.length_penalty, Generation(ids, total)))
        if len(self.finished) > self.num_beams:
            self.finished.remove(min(self.finished, key=lambda one: one[0]))
