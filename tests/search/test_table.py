"""The table against a plain list of rows: vectors, filters, changes; and the approximate index."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xvlm.common.errors import InputError
from xvlm.search import upkeep
from xvlm.search.filters import Circle, PhotoFilter
from xvlm.search.rows import FileVersion, PhotoRow
from xvlm.search.table import PhotoTable
from xvlm.search.upkeep import maintain, recall_of

DIM, WINDOWS = 16, 3
FOLDERS = ("/photos/", "/photos/2024/", "/photos%/", "/o'clock/", "/photos_2/")


def random_rows(count: int, seed: int = 0, first: int = 0) -> list[PhotoRow]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + count):
        vectors = rng.standard_normal((WINDOWS, DIM)) + 2 * np.eye(DIM)[number % 7]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        path = f"{FOLDERS[number % len(FOLDERS)]}{number}.jpg"
        has_place = bool(rng.random() < 0.7)
        rows.append(
            PhotoRow(
                path,
                FileVersion(1000 + number, 10**18 + number, f"{number:032x}", "/photos"),
                datetime(2024, 1, 1) + timedelta(hours=number) if number % 11 else None,
                bool(number % 2),
                float(rng.uniform(-90, 90)) if has_place else None,
                float(rng.uniform(-180, 180)) if has_place else None,
                640,
                480,
                vectors.astype(np.float16),
            )
        )
    return rows


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def nearest_by_loops(rows: Sequence[PhotoRow], query_E: np.ndarray, count: int) -> list[str]:
    scored = [(max(float(v.astype(np.float32) @ query_E) for v in row.vectors_CE), row.path) for row in rows]
    return [path for _, path in sorted(scored, reverse=True)[:count]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhotoTable, list[PhotoRow]]:
    table, rows = PhotoTable(tmp_path_factory.mktemp("table"), DIM), random_rows(200)
    table.add(rows[:120])
    table.add(rows[120:])
    return table, rows


def test_rows_come_back_as_they_were(filled: tuple[PhotoTable, list[PhotoRow]]) -> None:
    table, rows = filled
    found = {row.path: row for row in table.rows("path", [row.path for row in rows])}
    assert len(table) == len(found) == len(rows)
    for row in rows:
        other = found[row.path]
        assert (other.vectors_CE == row.vectors_CE).all()
        for name in ("file", "time", "has_exif_time", "latitude", "longitude", "width", "height"):
            assert getattr(other, name) == getattr(row, name), name
    assert table.versions() == {row.path: row.file for row in rows}


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_that_of_a_loop(filled: tuple[PhotoTable, list[PhotoRow]], seed: int) -> None:
    table, rows = filled
    found = table.nearest(unit(seed), 10, PhotoFilter())
    assert [row.path for row in found] == nearest_by_loops(rows, unit(seed), 10)


def is_near(row: PhotoRow, near: Circle) -> bool:
    if row.latitude is None or row.longitude is None:
        return False
    a, b = math.radians(row.latitude), math.radians(near.latitude)
    cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(
        math.radians(row.longitude - near.longitude)
    )
    return 6371.0 * math.acos(max(-1.0, min(1.0, cosine))) <= near.radius_km


times = st.integers(-5, 205).map(lambda hours: datetime(2024, 1, 1, 0, 30) + timedelta(hours=hours))
circles = st.builds(Circle, st.floats(-90, 90), st.floats(-180, 180), st.floats(10, 15000))
folders = st.sampled_from(["/photos", "/photos/", "/photos/2024", "/photos%", "/o'clock", "/photos_2", "/"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    after=st.none() | times, before=st.none() | times, folder=st.none() | folders, near=st.none() | circles
)
def test_filters_are_those_of_a_loop(
    filled: tuple[PhotoTable, list[PhotoRow]],
    after: datetime | None,
    before: datetime | None,
    folder: str | None,
    near: Circle | None,
) -> None:
    """Filters come before vectors: as many are found as there are, however few."""
    table, rows = filled
    allowed = [
        row
        for row in rows
        if (after is None or (row.time is not None and row.time >= after))
        and (before is None or (row.time is not None and row.time < before))
        and (folder is None or row.path.startswith(folder.rstrip("/") + "/"))
        and (near is None or is_near(row, near))
    ]
    found = table.nearest(unit(1), 10, PhotoFilter(after, before, folder, near))
    assert [row.path for row in found] == nearest_by_loops(allowed, unit(1), 10)


def test_times_with_a_zone_and_days(
    filled: tuple[PhotoTable, list[PhotoRow]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos have local times, so a time with a zone is converted to the local one; a day begins at 0:00."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for given_time, local in (
            (datetime(2024, 1, 3, 3, tzinfo=UTC), datetime(2024, 1, 3, 12)),
            (date(2024, 1, 3), datetime(2024, 1, 3)),
        ):
            assert PhotoFilter(after=given_time).sql() == PhotoFilter(after=local).sql()
            table, rows = filled
            found = table.nearest(unit(1), 1000, PhotoFilter(before=given_time))
            assert {row.path for row in found} == {one.path for one in rows if one.time and one.time < local}
        for edge in ("0001-01-01T00:00+14:00", "9999-12-31T23:00-14:00"):
            with pytest.raises(InputError, match="no local time"):
                PhotoFilter(after=datetime.fromisoformat(edge))
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["after", "before"])
@pytest.mark.parametrize("value", ["2024-01-01", 20240101])
def test_times_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is .* must be a datetime or a date"):
        PhotoFilter(**{name: value})


@pytest.mark.parametrize("near", [(91, 0, 1), (0, 181, 1), (0, 0, 0), (0, 0, math.inf), (math.nan, 0, 1)])
def test_circles_that_make_no_sense(near: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="latitude"):
        PhotoFilter(near=Circle(*near))


def test_changes(tmp_path: Path) -> None:
    table, rows = PhotoTable(tmp_path, DIM), random_rows(30)
    table.add(rows)
    changed = [PhotoRow(**{**fields(row), "width": 1}) for row in random_rows(10, seed=5)]
    table.replace(changed)
    table.delete([row.path for row in rows[20:]])
    table.delete([])
    assert len(table) == 20
    found = {row.path: row for row in table.rows("path", [row.path for row in rows])}
    assert [found[row.path].width for row in rows[:20]] == [1] * 10 + [640] * 10
    assert (found[rows[0].path].vectors_CE == changed[0].vectors_CE).all()
    again = PhotoTable(tmp_path, DIM)
    assert again.versions() == table.versions()


def fields(row: PhotoRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in PhotoRow.__dataclass_fields__}


def test_vectors_of_another_length_are_refused(tmp_path: Path) -> None:
    table = PhotoTable(tmp_path, DIM + 1)
    with pytest.raises(InputError, match=r"\(3, 16\).*17"):
        table.add(random_rows(1))


def test_the_approximate_index_is_built_measured_extended_and_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small table takes the place of a large one."""
    monkeypatch.setattr(upkeep, "APPROXIMATE_FROM", 300 * WINDOWS)
    queries_QE = np.stack([unit(seed) for seed in range(20)])
    table = PhotoTable(tmp_path, DIM)
    for start in range(0, 250, 50):
        table.add(random_rows(50, start, start))
    before = maintain(tmp_path, table, WINDOWS, queries_QE)
    assert (before.approximate, before.fragments, before.photos) == (None, 1, 250)

    table.add(random_rows(50, 250, 250))
    built = maintain(tmp_path, table, WINDOWS, queries_QE)
    assert built.approximate is not None
    assert (built.approximate.rows, built.unindexed) == (300, 0)
    assert built.approximate.recall >= upkeep.WANTED_RECALL
    exact = [{row.path for row in table.nearest(query, 10, PhotoFilter())} for query in queries_QE]
    found = [
        {row.path for row in table.nearest(query, 10, PhotoFilter(), built.approximate.probes)}
        for query in queries_QE
    ]
    assert recall_of(exact, found) == pytest.approx(built.approximate.recall)

    table.add(random_rows(6, 900, 900))
    waiting = maintain(tmp_path, table, WINDOWS, queries_QE)
    assert (waiting.unindexed, waiting.fragments) == (6, 2), "a few rows wait"
    late = {row.path for row in random_rows(6, 900, 900)}
    assert late <= {row.path for row in table.nearest(unit(0), 306, PhotoFilter(), 17)}, "and are found"
    table.delete(late)

    table.add(random_rows(200, 300, 300))
    assert upkeep.health(tmp_path, table, WINDOWS).unindexed == 200
    extended = maintain(tmp_path, table, WINDOWS, queries_QE)
    assert extended.approximate is not None
    assert (extended.approximate.rows, extended.unindexed) == (300, 0), "new rows join the old partitions"

    table.add(random_rows(200, 500, 500))
    rebuilt = maintain(tmp_path, table, WINDOWS, queries_QE)
    assert rebuilt.approximate is not None and rebuilt.approximate.rows == 700
    assert "approximate search" in rebuilt.summary()


def test_recall() -> None:
    assert recall_of([{"a", "b"}, {"c"}], [{"a"}, {"c", "d"}]) == pytest.approx(2 / 3)
    assert recall_of([], []) == 1.0
