"""The table of an index in LanceDB: one row a photo, with its file, time, place and vectors.

A photo's vectors stand in one list, the whole image's first, so a photo is added, replaced or removed in one
step, and the nearest photo is that with the nearest vector.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

# Lance's warnings about its partitions mean nothing to a user; recall is measured after every change of them.
os.environ.setdefault("LANCEDB_LOG", "error")
import lancedb
from lancedb.index import IvfSq

from xvlm.common.errors import DamagedIndexError, InputError, OutputError, first_line
from xvlm.search.filters import PhotoFilter, quoted
from xvlm.search.rows import FileVersion, PhotoRow

TABLE, VECTORS = "photos", "vectors"
_VERSION = ("size", "mtime_ns", "hash", "root")
_SHOWN = ("time", "has_exif_time", "latitude", "longitude", "width", "height")
OLD_VERSIONS = timedelta(hours=1)
"""Versions older than this are deleted; a search that is running reads a version of some seconds ago."""
REFINE = 3
"""Times as many photos as wanted are compared in full precision, since the index has 8 bits a number."""
_KEYS_AT_ONCE = 1000
"""Keys in one condition of SQL."""

_CANNOT_WRITE = ("No space left", "quota", "Permission denied", "Read-only file system")
_DAMAGED = ("Not found", "LanceError(IO)", "invalid magic", "Schema Error")
"""Parts of LanceDB's messages, which has no classes of errors."""


def schema(embed_dim: int) -> pa.Schema:
    """Return the columns of the table."""
    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("root", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
            pa.field("hash", pa.string(), nullable=False),
            pa.field("time", pa.timestamp("us")),
            pa.field("has_exif_time", pa.bool_(), nullable=False),
            pa.field("latitude", pa.float64()),
            pa.field("longitude", pa.float64()),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field(VECTORS, pa.list_(pa.list_(pa.float16(), embed_dim))),
        ]
    )


class PhotoTable:
    """The photos of an index.  One process may write at a time; others may search meanwhile.

    Args:
        folder: folder of the database.
        embed_dim: E, length of the vectors.
    """

    def __init__(self, folder: Path, embed_dim: int) -> None:
        """Open the table, or create it."""
        self.folder, self.embed_dim = folder, embed_dim
        with self._lance_errors():
            database = lancedb.connect(folder)
            self.lance = database.create_table(TABLE, schema=schema(embed_dim), exist_ok=True)

    def __len__(self) -> int:
        return int(self.lance.count_rows())

    @contextmanager
    def _lance_errors(self) -> Iterator[None]:
        """Name the folder in errors of files, and how to go on."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = first_line(error).partition(", /")[0].removeprefix("lance error: ")
            if any(one in reason for one in _CANNOT_WRITE):
                raise OutputError(
                    f"{self.folder} cannot be written: {reason}; what was committed stays, and the next "
                    "`xvlm index` goes on from there"
                ) from error
            if any(one in reason for one in _DAMAGED):
                raise DamagedIndexError(
                    f"{self.folder} is damaged: {reason}; index the photos again into another folder"
                ) from error
            raise

    def versions(self) -> dict[str, FileVersion]:
        """Return path -> version of the file, of all photos."""
        found: dict[str, FileVersion] = {}
        with self._lance_errors():
            for batch in self.lance.search().select(["path", *_VERSION]).to_batches():
                columns = [batch.column(name).to_pylist() for name in _VERSION]
                versions = (FileVersion(*one) for one in zip(*columns, strict=True))
                found.update(zip(batch.column("path").to_pylist(), versions, strict=True))
        return found

    def add(self, rows: Sequence[PhotoRow]) -> None:
        """Append rows whose paths are not in the table, in one transaction."""
        if rows:
            table = self._to_arrow(rows)
            with self._lance_errors():
                self.lance.add(table)

    def replace(self, rows: Sequence[PhotoRow]) -> None:
        """Replace the rows that have the same paths, and append the others, in one transaction."""
        if rows:
            table = self._to_arrow(rows)
            merge = self.lance.merge_insert("path").when_matched_update_all().when_not_matched_insert_all()
            with self._lance_errors():
                merge.execute(table)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete the rows with these paths."""
        for condition in _conditions("path", paths):
            with self._lance_errors():
                self.lance.delete(condition)

    def compact(self) -> None:
        """Join small files, delete old versions, and add new rows to the approximate index, if any."""
        with self._lance_errors():
            self.lance.optimize(cleanup_older_than=OLD_VERSIONS)

    def build_approximate(self, partitions: int) -> None:
        """Build the approximate index anew, with 8 bits a number."""
        with self._lance_errors():
            index = IvfSq(distance_type="cosine", num_partitions=partitions)
            self.lance.create_index(VECTORS, config=index, replace=True)

    def rows(self, column: str, keys: Iterable[str]) -> Iterator[PhotoRow]:
        """Yield the rows whose `column` has one of the keys."""
        for condition in _conditions(column, keys):
            with self._lance_errors():
                found = self.lance.search().where(condition).to_arrow()
            yield from _to_rows(found)

    def nearest(
        self, query_E: np.ndarray, count: int, allowed: PhotoFilter, probes: int | None = None
    ) -> list[PhotoRow]:
        """Return the photos with the vectors nearest to a unit vector (E,), nearest first.

        Args:
            count: number of photos.
            allowed: photos that may be returned.
            probes: partitions of the approximate index to look into; `None` compares all vectors.
        """
        query: Any = self.lance.search(np.asarray(query_E, np.float32), vector_column_name=VECTORS)
        query = query.distance_type("cosine").limit(count)
        if condition := allowed.sql():
            query = query.where(condition, prefilter=True)
        if probes is None:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(probes).refine_factor(REFINE)
        with self._lance_errors():
            found = query.to_arrow()
        return list(_to_rows(found))

    def sample(self, count: int) -> list[PhotoRow]:
        """Return up to `count` photos, evenly spaced in the table."""
        total = len(self)
        offsets = sorted({total * number // count for number in range(min(count, total))})
        if not offsets:
            return []
        with self._lance_errors():
            found = self.lance.take_offsets(offsets).to_arrow()
        return list(_to_rows(found))

    def _to_arrow(self, rows: Sequence[PhotoRow]) -> pa.Table:
        vectors = [np.asarray(row.vectors_CE, np.float16) for row in rows]
        if any(one.ndim != 2 or one.shape[1] != self.embed_dim for one in vectors):
            shapes = sorted({one.shape for one in vectors})
            raise InputError(f"vectors have shapes {shapes}; they must be (windows, {self.embed_dim})")
        flat = pa.array(np.concatenate(vectors).ravel())
        offsets = np.cumsum([0, *map(len, vectors)], dtype=np.int32)
        lists = pa.ListArray.from_arrays(
            pa.array(offsets), pa.FixedSizeListArray.from_arrays(flat, self.embed_dim)
        )
        columns: dict[str, Any] = {
            "path": [row.path for row in rows],
            **{name: [getattr(row.file, name) for row in rows] for name in _VERSION},
            **{name: [getattr(row, name) for row in rows] for name in _SHOWN},
            VECTORS: lists,
        }
        return pa.table(columns, schema=schema(self.embed_dim))


def _to_rows(table: pa.Table) -> Iterator[PhotoRow]:
    lists = [one for chunk in table.column(VECTORS).chunks for one in _vectors(chunk)]
    for vectors_CE, values in zip(lists, table.drop_columns(VECTORS).to_pylist(), strict=True):
        version = FileVersion(**{name: values[name] for name in _VERSION})
        shown = {name: values[name] for name in _SHOWN}
        yield PhotoRow(values["path"], version, **shown, vectors_CE=vectors_CE)


def _vectors(lists: pa.ListArray) -> Iterator[np.ndarray]:
    """Yield the (1 + windows, E) vectors of each photo."""
    width = lists.type.value_type.list_size
    flat = lists.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))
    yield from np.split(flat, ends[:-1]) if len(ends) else []


def _conditions(column: str, keys: Iterable[str]) -> Iterator[str]:
    rest = iter(keys)
    while some := list(islice(rest, _KEYS_AT_ONCE)):
        yield f"{column} in ({', '.join(map(quoted, some))})"
