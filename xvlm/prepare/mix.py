"""A mix of data sets for pre-training, as one TOML file: what is in it, and what training on it means.

steps = 200_000
pairs_batch_size = 1024
regions_batch_size = 384
images_per_second = 900.0      # measured rate of training, for the hours

[[pairs]]
path = "shards/coco"           # relative to this file; a folder of shards, or any data that xvlm reads
weight = 2.0                   # optional: share among the pairs; by default the number of images

[[regions]]
path = "shards/vg"

[[evaluation]]                 # none of its images may be in the others
path = "shards/refcoco-val"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import parse_json
from xvlm.common.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, validate
from xvlm.config import from_json
from xvlm.data.files import storage
from xvlm.data.files.output import join
from xvlm.data.sources.open import find_opener, open_source
from xvlm.prepare.prepare import DATASET_FILE


@dataclass(frozen=True)
class MixSource:
    """A source of a mix.

    Attributes:
        path: data, as for `open_source`.
        weight: share among the sources of its kind; 0 uses the number of records.
        image_root: folder or URL that image paths are relative to; empty: the folder of the file.
    """

    path: str
    weight: NonNegativeFloat = 0.0
    image_root: str = ""


@dataclass(frozen=True)
class Mix:
    """A mix of data sets.

    Attributes:
        pairs, regions: sources of image-text pairs and of images with regions.
        evaluation: data that must share no image with them.
        steps: optimiser steps.
        pairs_batch_size, regions_batch_size: images of a step.
        images_per_second: rate of training; 0 if it is unknown.
    """

    pairs: tuple[MixSource, ...] = ()
    regions: tuple[MixSource, ...] = ()
    evaluation: tuple[MixSource, ...] = ()
    steps: NonNegativeInt = 0
    pairs_batch_size: PositiveInt = 1024
    regions_batch_size: PositiveInt = 384
    images_per_second: NonNegativeFloat = 0.0


def read_mix(path: str | Path) -> Mix:
    """Read a mix; its paths become relative to the working folder.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not TOML, or has other fields.
    """
    try:
        value = tomllib.loads(storage.read_all(str(path)).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    mix = from_json(Mix, value, str(path))
    validate(mix)
    if not (mix.pairs or mix.regions):
        raise InputError(f"{path} has neither [[pairs]] nor [[regions]]")
    folder = os.path.dirname(path)
    kinds = {name: _located(getattr(mix, name), folder) for name in ("pairs", "regions", "evaluation")}
    return Mix(**{**vars(mix), **kinds})


def _located(sources: Sequence[MixSource], folder: str) -> tuple[MixSource, ...]:
    return tuple(
        MixSource(
            _relative_to(folder, one.path),
            one.weight,
            one.image_root and _relative_to(folder, one.image_root),
        )
        for one in sources
    )


def _relative_to(folder: str, path: str) -> str:
    if storage.is_remote(path) or os.path.isabs(path) or find_opener(path) is not None:
        return path
    return os.path.join(folder, path)


def describe_mix(
    path: str | Path,
    images_per_second: float | None = None,
    check_leaks: bool = True,
    allow_unread: bool = False,
) -> str:
    """Return a table of the sources, and what training on them means.

    Args:
        images_per_second: rate of training; by default that of the mix.
        check_leaks: look for images of the evaluation data in the others.
        allow_unread: of images of them that cannot be read ids alone are compared; else that is an error.
    Raises:
        MissingFileError, InputError: a source does not exist or cannot be read.
        LeakError: an image of the evaluation data is in a source.
    """
    mix = read_mix(path)
    lines = ["| source | images | texts | boxes | epochs |", "|---|---|---|---|---|"]
    for kind in ("pairs", "regions"):
        sources = getattr(mix, kind)
        counts = [_counts(one) for one in sources]
        shares = [one.weight or count["samples"] for one, count in zip(sources, counts, strict=True)]
        batch = getattr(mix, f"{kind}_batch_size")
        for one, count, share in zip(sources, counts, shares, strict=True):
            seen = mix.steps * batch * share / sum(shares)
            epochs = f"{seen / count['samples']:.2f}" if mix.steps else ""
            cells = [
                f"{kind}: {one.path}",
                f"{count['samples']:,}",
                _number(count, "texts"),
                _number(count, "boxes"),
            ]
            lines.append(f"| {' | '.join([*cells, epochs])} |")
    images = (bool(mix.pairs) * mix.pairs_batch_size + bool(mix.regions) * mix.regions_batch_size) * mix.steps
    rate = mix.images_per_second if images_per_second is None else images_per_second
    if mix.steps:
        hours = f", {images / rate / 3600:,.1f} hours at {rate:g} images/s" if rate else ""
        lines += ["", f"{mix.steps:,} steps, {images:,} images{hours}"]
    for one in mix.evaluation:
        _counts(one)
    if check_leaks and mix.evaluation:
        from xvlm.prepare.leaks import find_leaks, raise_leaks

        # A folder may be a source of pairs and of regions.
        train = list(dict.fromkeys(one.path for one in (*mix.pairs, *mix.regions)))
        roots = {one.path: one.image_root for one in (*mix.pairs, *mix.regions, *mix.evaluation)}
        found = find_leaks(train, [one.path for one in mix.evaluation], image_roots=roots)
        raise_leaks(found, allow_unread)
        lines.append(f"no image of the evaluation data is in the {len(train)} sources")
    return "\n".join(lines)


def _counts(source: MixSource) -> dict[str, Any]:
    """Return the number of samples, and of texts and boxes where `xvlm prepare` has counted them."""
    if storage.is_folder(source.path):
        try:
            path = join(source.path, DATASET_FILE)
            counts = parse_json(storage.read_all(path), path)["counts"]
            return {**counts, "texts": counts["captions"] + counts["region_texts"]}
        except MissingFileError:
            pass
    return {"samples": len(open_source(source.path, source.image_root or None))}


def _number(counts: dict[str, Any], name: str) -> str:
    return f"{counts[name]:,}" if name in counts else ""
