"""How often a score puts the true candidate above a false one, by how hard the false one is.

A false candidate is the harder, the higher it stands in the contrastive list: reranking gains only where a
score is above one half at the first places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.reports import Section, Table

PLACES = ((1, 1), (2, 4), (5, 8), (9, 16), (17, 32))
"""First and last place of each group of false candidates."""
TERMS = {"contrastive": "contrastive score", "matching": "matching", "phrases": "phrases"}


def accuracy_by_place(scores: CandidateScores, term: str) -> list[float]:
    """Return the share of false candidates in each group of `PLACES` that the true one is above.

    The true candidate is the first one in the contrastive list; ties count half.  A group without a false
    candidate has NaN.

    Args:
        scores: those of one direction, candidates in the order of the contrastive list.
        term: name of a score in `TERMS`.
    """
    score_Qk: Tensor = getattr(scores, f"{term}_Qk").double()
    has_true_Q = scores.true_Qk.any(1)
    first_Q1 = scores.true_Qk.float().argmax(1, keepdim=True)
    true_Q1 = score_Qk.gather(1, first_Q1)
    above_Qk = (true_Q1 > score_Qk).double() + (true_Q1 == score_Qk).double() / 2
    counts_Qk = ~scores.true_Qk & has_true_Q[:, None]
    shares = []
    for first, last in PLACES:
        group = slice(first - 1, last)
        number = counts_Qk[:, group].sum()
        total = (above_Qk[:, group] * counts_Qk[:, group]).sum()
        shares.append(float(total / number) if number else float("nan"))
    return shares


def accuracy_section(scores: tuple[CandidateScores, ...]) -> list[Section]:
    """Return a section of the report with the accuracies of both directions; none without reranking."""
    if not scores:
        return []
    names = [f"place {first}" if first == last else f"{first} to {last}" for first, last in PLACES]
    rows = []
    for direction, one in zip(("image to text", "text to image"), scores, strict=True):
        for term, label in TERMS.items():
            if bool(torch.any(getattr(one, f"{term}_Qk") != 0)):
                shares = accuracy_by_place(one, term)
                rows.append([f"{direction}: {label}", *(f"{share:.2f}" for share in shares)])
    lead = (
        "How often the true candidate is above a false one, by the place of the false one in the contrastive "
        "list; one half is chance."
    )
    return [Section("How hard are the false ones?", lead, [Table(["score", *names], rows)])]
