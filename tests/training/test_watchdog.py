"""Which rank hangs is found from what the ranks reported.  (Whole processes: tests/process/test_hangs.py.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from xvlm.training.watchdog import Report, describe_hanging, hanging_ranks, set_activity, watch_ranks

STEP = Report(7, "computing step 3", True, 40, "process 1 on a")
READING = replace(STEP, activity="reading the data of step 3", collectives=38)
EVALUATING = replace(STEP, activity="evaluating after step 2", is_limited=False, collectives=38)
LEFT = replace(STEP, activity="finishing", is_limited=False, has_left=True)


def later(*reports: Report) -> list[Report]:
    """The reports after some time, in which all ranks reported."""
    return [replace(report, number=report.number + 9) for report in reports]


@pytest.mark.parametrize(
    ("before", "responding", "ranks"),
    [
        ([STEP, READING], {0, 1}, [1]),
        ([READING, STEP, READING], {0, 1, 2}, [0, 2]),
        ([STEP, EVALUATING], {0, 1}, []),  # rank 1 works, however long
        ([STEP, EVALUATING, READING], {0, 1, 2}, []),
        ([STEP, EVALUATING], {0}, [1]),
        ([STEP, STEP], {1}, [0]),
        ([STEP, STEP], {0, 1}, [0, 1]),
        ([STEP, LEFT], {0}, [1]),
        ([STEP, LEFT, STEP], {0}, [2]),
    ],
)
def test_the_rank_that_all_others_wait_for_is_found(
    before: list[Report], responding: set[int], ranks: list[int]
) -> None:
    now = [replace(report, number=9) if rank in responding else report for rank, report in enumerate(before)]
    assert hanging_ranks(before, now) == ranks


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        (
            [STEP, READING],
            later(STEP, READING),
            "rank 1 has made no progress for 5 s, reading the data of step 3 (process 1 on a); the run ends "
            "(--collective-timeout)",
        ),
        (
            [STEP, STEP],
            [*later(STEP), STEP],
            "rank 1 has not responded for 5 s, last computing step 3 (process 1 on a); the run ends "
            "(--collective-timeout)",
        ),
        (
            [STEP, LEFT],
            [*later(STEP), LEFT],
            "rank 1 has left the training (process 1 on a); the run ends (--collective-timeout)",
        ),
        ([STEP, EVALUATING], later(STEP, EVALUATING), None),
    ],
)
def test_the_sentence_names_the_rank(before: list[Report], now: list[Report], sentence: str | None) -> None:
    assert describe_hanging(before, now, 5.0) == sentence


def test_many_ranks_are_summarised() -> None:
    sentence = describe_hanging([STEP] * 9, later(*[STEP] * 9), 5.0)
    assert sentence is not None and sentence.startswith("no rank is ahead of the others: rank 0 has made")
    assert "rank 3 has" in sentence and "rank 4 has" not in sentence and "so have 5 more ranks" in sentence


def test_one_process_is_not_watched() -> None:
    with watch_ranks(1e-9):
        set_activity("computing step 1", is_limited=True)
