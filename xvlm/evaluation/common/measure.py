"""Parts of a measure: an evaluation, its predictions, its sections of the report, a submission file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xvlm.records import ImageData
from xvlm.reports.items import Item, Section
from xvlm.reports.pictures import random_selection

T = TypeVar("T")

NUM_EXAMPLES = 12
"""Number of examples in a section of a report."""


@dataclass(frozen=True)
class Prediction:
    """Base class of predictions about one image; subclasses add the query and the answer."""

    key: str
    image: ImageData

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; an image that is not a path becomes `None`."""
        return {**vars(self), "image": self.image if isinstance(self.image, str) else None}


def percent(share: float) -> str:
    """Format a share in [0, 1] as a percentage."""
    return f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Measure:
    """How a task is measured; `xvlm eval TASK` runs it.

    Attributes:
        evaluate: (predictor, source, *, skipped, ...) -> (metrics by name, predictions); `skipped` receives
            the samples that cannot be used.  Its other keyword arguments become command-line options, with
            the help of its docstring.
        headline: labels of the metrics at the top of the report, by name.
        sections: predictions -> sections of the report.
        format_score: formats a headline metric.
        submission: predictions -> content of the file for an evaluation server; `None` if there is no server.
    """

    evaluate: Callable[..., tuple[dict[str, float], Any]]
    headline: Mapping[str, str] = field(default_factory=dict)
    sections: Callable[[Any], Sequence[Section]] = lambda predictions: ()
    format_score: Callable[[float], str] = percent
    submission: Callable[[Any], Any] | None = None


def example_sections(
    predictions: Sequence[T],
    wrong: Sequence[T],
    example: Callable[[T], Item],
    title: str,
    wrong_title: str,
    legend: str = "",
) -> list[Section]:
    """Return two sections of a report: examples of all predictions, and of the wrong ones.

    Args:
        legend: how to read an example.
    """
    wrong_examples = select_examples(wrong, example, seed=1)
    return [
        Section(title, f"Randomly selected. {legend}".strip(), select_examples(predictions, example)),
        Section(wrong_title, "Randomly selected from the wrong ones.", wrong_examples),
    ]


def select_examples(predictions: Sequence[T], example: Callable[[T], Item], seed: int = 0) -> list[Item]:
    """Return examples of randomly selected predictions."""
    return [example(prediction) for prediction in random_selection(predictions, NUM_EXAMPLES, seed)]
