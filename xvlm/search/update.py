"""Bring the table of an index up to date with the photos: new, changed, moved and removed ones.

Every commit is a transaction of the table, and what is left to do is found by comparing table and files.  So
an update that was interrupted, also by `kill -9`, goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xvlm.common.errors import InputError
from xvlm.common.progress import Progress
from xvlm.data.files import storage
from xvlm.records import BadRecord
from xvlm.search.encode import Encoded, ReadPhoto
from xvlm.search.photos import SUFFIXES, PhotoFile, list_photos, split_tar
from xvlm.search.rows import FileVersion, PhotoRow
from xvlm.search.table import PhotoTable
from xvlm.search.upkeep import Health

Encode = Callable[[Sequence[PhotoFile], Collection[str]], Iterable[Encoded]]
COMMIT_SECONDS, COMMIT_ROWS = 20.0, 4096
"""Rows are committed after this time or number, whichever comes first."""
COMPACT_EVERY = 100
"""Commits after which the table is compacted."""
UNREADABLE = (
    "image file unreadable",
    "folder unreadable",
    "tar unreadable",
    "image needs a package that is not installed",
)
"""Reasons for which nothing can be concluded about a photo, so that its row stays."""


@dataclass
class Update:
    """What an update did.

    Attributes:
        added, changed: photos that were added, or whose content or date had changed.
        reused: those of them whose content the index had already, by another name or date, so that nothing
            was encoded.
        removed: photos that are no longer there.
        unchanged: photos whose size and date were those of the table.
        bad: photos that cannot be used, and what could not be listed.
        seconds: time of the update.
        health: state of the index afterwards.
    """

    added: int = 0
    changed: int = 0
    reused: int = 0
    removed: int = 0
    unchanged: int = 0
    bad: list[BadRecord] = field(default_factory=list)
    seconds: float = 0.0
    health: Health | None = None

    def summary(self) -> str:
        """Return the counts in words."""
        parts = [f"{self.added:,} added", f"{self.changed:,} changed", f"{self.removed:,} removed"]
        parts += [f"{self.unchanged:,} unchanged", f"{len(self.bad):,} cannot be used"]
        text = ", ".join(parts) + f" in {self.seconds:.1f} s"
        return text + (f"; {self.reused:,} were known by another name or date" if self.reused else "")

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons of what cannot be used with their counts, most frequent first."""
        return Counter(one.reason for one in self.bad).most_common()


def update_table(
    table: PhotoTable, encode: Encode, roots: Sequence[str], allow_empty: bool = False
) -> Update:
    """Add, replace and remove rows until the table holds the photos of `roots`; those of others stay.

    Args:
        encode: yields rows for photos, given the hashes of contents that have vectors already.
        roots: see `list_photos`.
        allow_empty: remove all photos of a root that has none any more; else this is an error, since the disk
            may not be mounted.
    Raises:
        MissingFileError: a root does not exist.
        InputError: a root has no photo, or none any more.
    """
    begin, update = time.monotonic(), Update()
    known = table.versions()
    listed = list(list_photos(roots))
    files: dict[str, PhotoFile] = {}
    for one in listed:
        if isinstance(one, PhotoFile):
            files.setdefault(one.path, one)
    update.bad = [one for one in listed if isinstance(one, BadRecord)]
    gone = _missing(known, listed, roots, allow_empty)
    due = [one for one in files.values() if _is_due(one, known.get(one.path))]
    update.unchanged = len(files) - len(due)
    progress = Progress("indexing photos", len(due))
    try:
        parts = _commits(encode(due, {one.hash for one in known.values()}), progress)
        for number, part in enumerate(parts, 1):
            _commit(table, part, known, update, encode)
            if number % COMPACT_EVERY == 0:
                table.compact()  # a table of thousands of small files is slow to search meanwhile
    finally:
        progress.close()
    unusable = {one.key for one in update.bad if one.reason not in UNREADABLE}
    gone |= {path for path in unusable if path in known}
    table.delete(sorted(gone))
    update.removed = len(gone)
    update.seconds = time.monotonic() - begin
    return update


def _is_due(file: PhotoFile, version: FileVersion | None) -> bool:
    """Return whether a photo is new, or may have changed."""
    return (
        version is None or not file.mtime_ns or (version.size, version.mtime_ns) != (file.size, file.mtime_ns)
    )


def _missing(
    known: dict[str, FileVersion],
    listed: Sequence[PhotoFile | BadRecord],
    roots: Sequence[str],
    allow_empty: bool,
) -> set[str]:
    """Return the paths in the table that a root no longer leads to, or of deleted files below it."""
    files = [one for one in listed if isinstance(one, PhotoFile)]
    bad = [one for one in listed if isinstance(one, BadRecord)]
    present, full = {file.path for file in files}, {file.root for file in files}
    unreadable = tuple(f"{one.key}/" for one in bad if one.reason in UNREADABLE)
    present |= {one.key for one in bad}  # unusable ones are removed once that is certain
    named = {storage.absolute(root) for root in roots}
    counts = Counter(version.root for version in known.values())
    for root in sorted(named - full - {storage.absolute(one.key) for one in bad}):
        if not counts[root] and not any(one.key.startswith(f"{root}/") for one in bad):
            raise InputError(f"{root} holds no photo; photos end in {', '.join(sorted(SUFFIXES))}")
        if counts[root] and not allow_empty and not any(f"{root}/".startswith(one) for one in unreadable):
            raise InputError(
                f"{root} holds no photo any more, and the index has {counts[root]:,} of it; is its disk "
                "mounted?  --allow-empty removes them from the index"
            )
    above = tuple(f"{root}/" for root in named)
    return {
        path
        for path, version in known.items()
        if path not in present
        and not path.startswith(unreadable)
        and (version.root in named or (path.startswith(above) and _is_deleted(path)))
    }


def _is_deleted(path: str) -> bool:
    """Return whether a photo on disk does not exist, which another root led to.

    One that exists may be hidden or linked, so that the folder above does not list it.
    """
    inside = split_tar(path)
    return not storage.is_remote(path) and not os.path.lexists(path if inside is None else inside[0])


def _commits(rows: Iterable[Encoded], progress: Progress) -> Iterator[list[Encoded]]:
    """Yield what is committed at a time; after Ctrl-C what is there, once more."""
    part: list[Encoded] = []
    last, done, begin = time.monotonic(), 0, time.monotonic()
    try:
        for row in rows:
            part.append(row)
            done += 1
            now = time.monotonic()
            progress.update(done, f"{done / (now - begin + 1e-9):.1f} photos/s")
            if len(part) >= COMMIT_ROWS or now - last > COMMIT_SECONDS:
                yield part
                part, last = [], time.monotonic()
    except KeyboardInterrupt:
        yield part
        raise
    yield part


def _commit(
    table: PhotoTable,
    part: Sequence[Encoded],
    known: dict[str, FileVersion],
    update: Update,
    encode: Encode,
) -> None:
    """Write rows in at most two transactions: one of new photos, one of changed ones."""
    copies = [one for one in part if isinstance(one, ReadPhoto)]
    vectors = {row.file.hash: row.vectors_CE for row in table.rows("hash", {one.hash for one in copies})}
    # The only photo with a content may itself have been replaced since: two files that changed names.
    lost = encode([one.file for one in copies if one.hash not in vectors], ())
    part = [*(one for one in part if not isinstance(one, ReadPhoto)), *lost]
    copies = [one for one in copies if one.hash in vectors]
    rows = [one for one in part if isinstance(one, PhotoRow)]
    rows += [one.row(vectors[one.hash]) for one in copies]
    added = [row for row in rows if row.path not in known]
    changed = [row for row in rows if row.path in known]
    table.add(added)
    table.replace(changed)
    update.added += len(added)
    update.changed += len(changed)
    update.reused += len(copies)
    update.bad += [one for one in part if isinstance(one, BadRecord)]
