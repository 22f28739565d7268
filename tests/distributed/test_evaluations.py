"""Two processes measure what one measures: no sample lost, none counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import evaluations
from tests.distributed.ranks import on_two_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluations")
    evaluations.write(folder)
    return folder


@pytest.fixture(scope="module")
def of_ranks(folder: Path) -> list[dict[str, dict[str, Any]]]:
    return on_two_ranks(evaluations.everything, folder)


def same(found: Any, expected: Any) -> bool:
    """Plain values within rounding: boxes pass through float32."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected


@pytest.mark.parametrize("part", evaluations.PARTS)
@pytest.mark.parametrize("name", evaluations.EVALUATIONS)
def test_two_ranks_measure_what_one_does(
    name: str, part: str, folder: Path, of_ranks: list[dict[str, dict[str, Any]]]
) -> None:
    one = evaluations.evaluated(name, part, folder)
    for rank in of_ranks:
        found = rank[f"{name}, {part}"]
        assert same(found["metrics"], one["metrics"]), (found["metrics"], one["metrics"])
        assert same(found["predictions"], one["predictions"])


COUNTS = {
    "grounding": ("grounding_cases", 8, 2),
    "weak grounding": ("weak_grounding_cases", 8, 2),
    "questions": ("vqa_questions", 7, 1),
    "pairs": ("nlvr2_statements", 7, 1),
    "captions": ("caption_images", 7, 2),
    "retrieval": ("retrieval_texts", 14, 2),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_record_is_asked_once(name: str, of_ranks: list[dict[str, dict[str, Any]]]) -> None:
    """In the source's order; what cannot be used is counted, whichever rank has found it."""
    metric, asked, bad = COUNTS[name]
    found = of_ranks[1][f"{name}, uneven"]
    assert found["metrics"][metric] == asked
    assert [v for k, v in found["metrics"].items() if k.endswith("bad_records")] == [bad]
    if name == "retrieval":
        assert [image["image"] for image in found["predictions"]["images"]] == [f"{n}.png" for n in range(5)]
        assert [text["image"] for text in found["predictions"]["texts"]] == [0, 0, 1, 1, *[2] * 6, 3, 3, 4, 4]
    else:
        keys = [one["key"] for one in found["predictions"]]
        assert len(keys) == asked and keys == sorted(keys)
