"""`xvlm prepare`: make the shards of a data set, and `dataset.json`, which says what is in them.

Work that was done stays: a shard with a report of the same digest is not made again.  So an interrupted
preparation goes on, a repeated one changes nothing, and any number of processes makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from xvlm.common.errors import InputError
from xvlm.common.json_file import json_text
from xvlm.common.lock import folder_lock
from xvlm.common.progress import Progress
from xvlm.data.files import storage
from xvlm.data.files.limits import current_limits
from xvlm.data.files.output import join, remove_file, write_bytes
from xvlm.data.files.storage import SIDECARS
from xvlm.data.samples.concept_checks import corners_hint
from xvlm.prepare.filtering import make_filters
from xvlm.prepare.image_hashes import read_excluded
from xvlm.prepare.local_engine import make_locally
from xvlm.prepare.named_files import named_files
from xvlm.prepare.preparation import check_out, write_preparation
from xvlm.prepare.release import Dataset, Release
from xvlm.prepare.repeats import count_samples
from xvlm.prepare.settings import Settings
from xvlm.prepare.shard import Maker, find_dataset
from xvlm.prepare.shard_report import ShardReport, Tally
from xvlm.prepare.work import Work, plan

PER_SHARD = 1000
DATASET_FILE = "dataset.json"
Engine = Literal["local", "ray"]
_COUNTS = ("samples", "captions", "region_texts", "boxes", "task_items")


@dataclass
class Prepared:
    """What a preparation has made.

    Attributes:
        out: folder or URL of the shards.
        shards: reports of the shards, in order.
    """

    out: str
    shards: list[ShardReport]

    def total(self, name: str) -> int:
        """Return the sum of a count over the shards."""
        return sum(getattr(one, name) for one in self.shards)

    def tally(self, name: str) -> Tally:
        """Return what was left out or changed, of all shards."""
        total = Tally()
        for one in self.shards:
            total.merge(getattr(one, name))
        return total

    def summary(self) -> str:
        """Return what was made, and what was left out, in words."""
        parts = [f"{self.total(name):,} {name.replace('_', ' ')}" for name in _COUNTS if self.total(name)]
        size = self.total("bytes") / 1e6
        lines = [f"{', '.join(parts)} in {sum(bool(one.name) for one in self.shards)} shards, {size:,.1f} MB"]
        whole = (
            ("left out", "left_out"),
            ("texts and boxes left out", "parts_left_out"),
            ("changed", "notes"),
        )
        for title, name in whole:
            tally = self.tally(name)
            for reason, count in sorted(tally.counts.items(), key=lambda item: -item[1]):
                lines.append(f"  {title}: {count:,} x {reason}, such as {tally.examples[reason][0]}")
        if hint := self.box_hint():
            lines.append(f"  {hint}")
        return "\n".join(lines)

    def box_hint(self) -> str:
        """Return a hint if boxes look as if their files held two corners; else an empty text."""
        return corners_hint(self.total("corners"), self.total("unfit_boxes"))


def prepare(
    name: str,
    root: str,
    out: str,
    split: str = "",
    settings: Settings | None = None,
    per_shard: int = PER_SHARD,
    engine: Engine = "local",
    workers: int = 2,
    room: str = "prepare.datasets",
    images: str | None = None,
) -> Prepared:
    """Make the shards of a data set, unless they are there.

    Args:
        name: data set or form, see `datasets/` and `forms/`, or the path of a user's file.
        root: folder or URL of the release.
        out: folder or URL of the shards.
        split: part of the data set; by default the first of its splits.
        settings: what becomes of images and texts.
        per_shard: samples of a shard, unless the release has shards.
        engine: "local" for processes of this machine, "ray" for the workers of a Ray cluster.
        workers: number of processes or workers.
        room: room that has `name`.
        images: folder of the images, if annotations do not say where they are.
    Raises:
        UnknownNameError: there is no such data set.
        InputError: there is no such split, or no sample of it can be used.
        MissingFileError: the release lacks a file.
        OutputError: the folder holds another preparation, or something else.
    """
    dataset, settings = find_dataset(room, name), settings or Settings()
    split = split or dataset.splits[0]
    if split not in dataset.splits:
        raise InputError(f"split is {split!r}; {name} has {', '.join(dataset.splits)}")
    make_filters(settings.filters)
    release = Release(root, split, images)
    preparation = {"dataset": name, "split": split, "per_shard": per_shard, "settings": asdict(settings)}
    whole_root = storage.absolute(root)
    sources = {"root": whole_root, "images": images and storage.absolute(images)}
    with _lock(out):
        check_out(out, preparation | sources)
        count, repeated = count_samples(dataset, release, settings.max_repeats)
        write_preparation(out, preparation | sources)
        excluded, files = read_excluded(settings.exclude, whole_root), named_files(name, settings.filters)
        maker = Maker(name, room, split, out, settings, current_limits(), repeated, excluded, files)
        reports = _make_all(plan(dataset, release, per_shard), maker, _engine(engine, workers), count)
        prepared = Prepared(out, [reports[one] for one in sorted(reports)])
        _check_not_empty(prepared, root)
        _remove_others(out, reports)
        made_of = preparation | {"release": root.rstrip("/").rpartition("/")[2]}
        description = _description(dataset, prepared, made_of)
        write_bytes(join(out, DATASET_FILE), json_text(description, 1).encode())
    return prepared


_Run = Callable[[Iterator[Work], Maker], Iterator[tuple[Work, ShardReport]]]


def _engine(engine: Engine, workers: int) -> _Run:
    if engine == "ray":
        from xvlm.prepare.ray_engine import make_on_ray

        return partial(make_on_ray, workers=workers)
    return partial(make_locally, workers=workers)


def _make_all(works: Iterator[Work], maker: Maker, run: _Run, count: int) -> dict[str, ShardReport]:
    reports: dict[str, ShardReport] = {}
    progress = Progress(f"preparing {maker.dataset}", count)
    done = 0
    try:
        for work, report in run(works, maker):
            reports[work.name] = report
            done += 1 if work.tar else len(work.samples)
            progress.update(done)
    finally:
        progress.close()
    return reports


def _lock(out: str) -> AbstractContextManager[object]:
    return nullcontext() if storage.is_remote(out) else folder_lock(Path(out))


def _remove_others(out: str, made: Container[str]) -> None:
    """Remove shards that were made of samples which the release no longer has."""
    for report in storage.list_names(join(out, SIDECARS)):
        name, _, suffix = report.rpartition(".")
        if suffix == "npz" and name not in made:
            for path in (f"{name}.tar", f"{name}.tar.idx", f"{name}.jsonl"):
                remove_file(join(out, path))
            for path in (f"{name}.json", f"{name}.npz"):
                remove_file(join(out, f"{SIDECARS}/{path}"))


def _check_not_empty(prepared: Prepared, root: str) -> None:
    if prepared.total("samples"):
        return
    tally = prepared.tally("left_out")
    first = next(((reason, some[0]) for reason, some in tally.examples.items() if some), None)
    problem = f"; first problem: {first[0]} ({first[1]})" if first else ": it is empty"
    raise InputError(f"no sample of {root} can be used{problem}")


def _description(dataset: Dataset, prepared: Prepared, preparation: dict[str, Any]) -> dict[str, Any]:
    shards = [one for one in prepared.shards if one.name]
    return {
        "title": dataset.title,
        "link": dataset.link,
        "licence": dataset.licence,
        **preparation,
        "counts": {name: prepared.total(name) for name in _COUNTS},
        "published": dict(dataset.published),
        **{name: asdict(prepared.tally(name)) for name in ("left_out", "parts_left_out", "notes")},
        "shards": [
            {name: getattr(one, name) for name in ("name", "samples", "bytes", "sha256")} for one in shards
        ],
    }
