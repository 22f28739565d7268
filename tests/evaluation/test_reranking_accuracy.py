"""The accuracy of a score at each place of the contrastive list is what a loop counts."""

from __future__ import annotations

import math

import pytest
import torch

from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.reranking_accuracy import PLACES, accuracy_by_place, accuracy_section


def drawn(queries: int = 40, k: int = 12) -> CandidateScores:
    """Return contrastive lists, with a matching score that has ties; some queries have no true candidate."""
    generator = torch.Generator().manual_seed(0)
    contrastive = torch.randn(queries, k, generator=generator).sort(1, descending=True).values
    matching = torch.randint(0, 3, (queries, k), generator=generator).float()
    true = torch.rand(queries, k, generator=generator) < 0.1
    return CandidateScores(contrastive, matching, torch.zeros_like(matching), true)


@pytest.mark.parametrize("term", ["matching", "contrastive"])
def test_accuracies_equal_those_of_a_loop(term: str) -> None:
    scores = drawn()
    table, true = getattr(scores, f"{term}_Qk").tolist(), scores.true_Qk.tolist()
    for (first, last), share in zip(PLACES, accuracy_by_place(scores, term), strict=True):
        points = []
        for row, is_true in zip(table, true, strict=True):
            if any(is_true):
                best = row[is_true.index(True)]
                for place in range(first - 1, min(last, len(row))):
                    if not is_true[place]:
                        points.append(1.0 if best > row[place] else 0.5 if best == row[place] else 0.0)
        assert math.isnan(share) if not points else share == pytest.approx(sum(points) / len(points))


def test_the_section_has_a_row_for_each_score_that_was_computed() -> None:
    (section,) = accuracy_section((drawn(), drawn()))
    assert [row[0] for row in section.items[0].rows] == [  # type: ignore[union-attr]
        "image to text: contrastive score",
        "image to text: matching",
        "text to image: contrastive score",
        "text to image: matching",
    ]
    assert accuracy_section(()) == []
