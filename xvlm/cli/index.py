"""`xvlm index`: makes an index of photos, or brings it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag
from xvlm.common.errors import InputError, printable
from xvlm.common.ranges import PositiveInt

SHOWN_REASONS = 3
"""Reasons of photos that cannot be used, and photos of each, that are printed; all are in a file."""


def command(
    photos: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[PHOTOS ...]")]] = (),
    out: Path = Path("runs/index"),
    model: Path | None = None,
    levels: tuple[PositiveInt, ...] | None = None,
    batch_size: PositiveInt = 32,
    threads: PositiveInt = 4,
    allow_empty: Flag = False,
    engine: Literal["local", "ray"] = "local",
    workers: PositiveInt = 2,
    check: Flag = False,
    max_pixels: PositiveInt = 100_000_000,
    device: str | None = None,
) -> None:
    """Index photos for `xvlm search`: new, changed, moved and removed ones since the last time.

    Args:
        photos: folders with the folders below them, tar shards, lists (.txt, a path a line), or photos, local
            or remote.
        out: folder of the index; an interrupted command goes on.
        model: model folder, run folder or hub repository; by default that of the index.
        levels: windows a side of each level, which have vectors beside that of the whole photo; 2 3 by
            default.
        batch_size: photos that are encoded at a time.
        threads: threads that read and decode.
        allow_empty: remove all photos of a folder that has none any more.
        engine: local: encode in this process; ray: on the workers of a Ray cluster (RAY_ADDRESS, else one
            on this machine).
        workers: number of Ray workers.
        check: print the state of the index, and the recall of approximate search measured now.
        max_pixels: maximum width x height of a photo.
        device: cpu, cuda or cuda:NUMBER; by default the GPU, if there is one.
    """
    from xvlm.data.files.limits import change_limits
    from xvlm.search.index import Index
    from xvlm.search.manifest import read_manifest

    if bool(photos) == check:
        raise InputError("xvlm index needs photos, or --check alone")
    change_limits(max_pixels=max_pixels)
    if check:
        print(Index.open(out, model, device).health().summary())
        return
    index = Index.create(out, model or read_manifest(out).model, device, levels)
    update = index.update(photos, batch_size, threads, allow_empty, engine, workers)
    print(update.summary())
    for reason, count in update.reasons()[:SHOWN_REASONS]:
        some = [printable(one.key) for one in update.bad if one.reason == reason][:SHOWN_REASONS]
        print(f"  {count:,} x {reason}: {', '.join(some)}{', ...' if count > len(some) else ''}")
    if update.bad:
        print(f"  all of them are in {index.bad_photos}")
    if update.health is not None:
        print(update.health.summary())
