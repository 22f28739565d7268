"""Upkeep of an index, looked after with every update: compaction, old versions, and the approximate index.

LanceDB does none of it by itself: each commit adds files and a version, rows that came after the approximate
index was built are compared one by one, and its partitions are those of the vectors that it was built on.
Compaction rewrites a table with an approximate index, which takes minutes for a million vectors, so that it
waits until there is enough to do; searches are exact for the rows that wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xvlm.common.json_file import read_json, write_json
from xvlm.config import from_json
from xvlm.search.filters import PhotoFilter
from xvlm.search.table import PhotoTable

FILE = "approximate.json"
APPROXIMATE_FROM = 50_000
"""Vectors from which an approximate index is built; fewer are compared one by one in less than 50 ms."""
REBUILD_GROWTH = 2.0
"""The index is built anew when the table has grown by this factor, since its partitions no longer fit."""
MAX_UNINDEXED = 0.02
"""Share of the photos that may wait for the approximate index; comparing them takes about as long."""
MAX_FRAGMENTS, MAX_VERSIONS = 50, 100
"""Files and states of the table that may wait for the next compaction, if it has an approximate index."""
WANTED_RECALL = 0.97
RECALL_AT = 10
FEWEST_PROBES = 8


@dataclass(frozen=True)
class Approximate:
    """The state of the approximate index.

    Attributes:
        partitions: number of partitions of the vectors.
        probes: number of partitions that a search looks into.
        rows: photos that the index was built on.
        recall: share of the true 10 nearest photos that a search returned when it was measured last.
    """

    partitions: int
    probes: int
    rows: int
    recall: float


@dataclass(frozen=True)
class Health:
    """What `xvlm index --check` prints.

    Attributes:
        photos, vectors: size of the table.
        bytes: size of the folder on disk.
        fragments, versions: files of the table, and states of it that are stored.
        unindexed: photos that the approximate index does not hold yet.
        approximate: the approximate index; `None` if there is none.
    """

    photos: int
    vectors: int
    bytes: int
    fragments: int
    versions: int
    unindexed: int
    approximate: Approximate | None

    def summary(self) -> str:
        """Return it in words."""
        text = (
            f"{self.photos:,} photos, {self.vectors:,} vectors, {self.bytes / 1e6:,.1f} MB, "
            f"{self.fragments} fragments, {self.versions} versions"
        )
        found = self.approximate
        if found is None:
            return f"{text}; search is exact"
        return (
            f"{text}; approximate search in {found.probes} of {found.partitions} partitions, "
            f"recall@{RECALL_AT} {found.recall:.3f} against exact search, {self.unindexed} photos not in it"
        )


def read_approximate(folder: Path) -> Approximate | None:
    """Return the state of the approximate index, or `None` if there is none."""
    path = folder / FILE
    return from_json(Approximate, read_json(path)) if path.exists() else None


def maintain(folder: Path, table: PhotoTable, windows: int, queries_QE: np.ndarray) -> Health:
    """Compact the table, delete old versions, and build or extend the approximate index, if that is due.

    Args:
        folder: folder of the index.
        windows: vectors of a photo.
        queries_QE: (Q, E) unit vectors to measure the recall by.
    """
    rows, state = len(table), read_approximate(folder)
    if state is not None and not _is_due(found := health(folder, table, windows)):
        return found
    table.compact()
    if rows * windows >= APPROXIMATE_FROM and (state is None or rows > REBUILD_GROWTH * state.rows):
        state = Approximate(max(1, math.isqrt(rows * windows)), FEWEST_PROBES, rows, 0.0)
        table.build_approximate(state.partitions)
    if state is not None:
        write_json(folder / FILE, with_recall(table, state, queries_QE))
    return health(folder, table, windows)


def _is_due(found: Health) -> bool:
    """Return whether a table with an approximate index is to be compacted."""
    return (
        found.unindexed > MAX_UNINDEXED * found.photos
        or found.fragments > MAX_FRAGMENTS
        or found.versions > MAX_VERSIONS
    )


def with_recall(table: PhotoTable, state: Approximate, queries_QE: np.ndarray) -> Approximate:
    """Return the state with the fewest probes that reach `WANTED_RECALL`, and the recall."""
    exact = [_paths(table, query_E, None) for query_E in queries_QE]
    probes = FEWEST_PROBES
    while True:
        found = [_paths(table, query_E, probes) for query_E in queries_QE]
        recall = recall_of(exact, found)
        if recall >= WANTED_RECALL or probes >= state.partitions:
            return replace(state, probes=probes, recall=recall)
        probes = min(2 * probes, state.partitions)


def recall_of(exact: Sequence[set[str]], found: Sequence[set[str]]) -> float:
    """Return the share of what exact search finds that was found."""
    total = sum(map(len, exact))
    return sum(len(a & b) for a, b in zip(exact, found, strict=True)) / total if total else 1.0


def _paths(table: PhotoTable, query_E: np.ndarray, probes: int | None) -> set[str]:
    return {row.path for row in table.nearest(query_E, RECALL_AT, PhotoFilter(), probes)}


def health(folder: Path, table: PhotoTable, windows: int) -> Health:
    """Describe the state of an index."""
    rows, state = len(table), read_approximate(folder)
    stats: Any = table.lance.stats()
    unindexed = 0
    if state is not None:
        unindexed = sum(one.num_unindexed_rows or 0 for one in table.lance.list_indices())
    return Health(
        rows,
        rows * windows,
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        stats["fragment_stats"]["num_fragments"],
        len(table.lance.list_versions()),
        unindexed,
        state,
    )
