"""Phrases to photos: recall by whole vectors, with windows, and reranked; accuracy of the boxes in the hits.

Each phrase is searched for in an index of all photos; the photo that it was written for counts as the only
right one, so figures are lower bounds: "a man" fits many.  For example:

    python benchmarks/search_photos.py --model runs/photos --phrases photos/dev_grounding.json --root photos
        --out runs/search
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from xvlm.boxes import iou
from xvlm.common.progress import progress_bar
from xvlm.data.sources.json import JsonSource
from xvlm.search.index import EVERY_PHOTO, Index
from xvlm.search.ranking import vector_scores

KS = (1, 5, 10)
SMALL = 0.2
"""Fraction of the photo below which a box is small."""


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        model: model folder, or folder of a run.
        phrases: phrases with a box each.
        root: folder of the images that they name.
        out: folder for the photos' links, the indexes and the table.
        reranked: phrases that are reranked, evenly spaced; all are searched for by vectors.
        levels: pyramids of windows to compare, each as digits: 23 has 2 and 3 windows a side.
    """

    model: Path
    phrases: Path
    root: Path
    out: Path
    reranked: int = 1000
    levels: tuple[str, ...] = ("", "2", "3", "23", "234")


@dataclass(frozen=True)
class Case:
    """A phrase, its photo and its box as fractions of the photo."""

    phrase: str
    path: str
    box: tuple[float, float, float, float]
    pixels: tuple[float, float, float, float]

    @property
    def is_small(self) -> bool:
        """Whether the box covers little of the photo."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0) < SMALL


def read_cases(study: Study, index: Index) -> list[Case]:
    """Return the phrases whose photo is in the index."""
    rows = {row.path: row for row in index.table.rows("path", index.table.versions())}
    source, cases = JsonSource(study.phrases, str(study.root)), []
    for number in range(len(source)):
        record = source[number]
        path = str(Path(str(record.image)).absolute())
        row = rows[path]
        for concept in record.concepts:
            if concept.box_xyxy is None:
                continue
            x0, y0, x1, y1 = concept.box_xyxy
            box = (x0 / row.width, y0 / row.height, x1 / row.width, y1 / row.height)
            cases += [Case(text, path, box, concept.box_xyxy) for text in concept.texts]
    return [case for case in cases if index.predictor.is_known(case.phrase)]


def recalls(ranks: Sequence[int | None], cases: Sequence[Case]) -> str:
    """Return cells: R@1/5/10 of all phrases and of those of small boxes."""
    cells = []
    for chosen in ([True] * len(cases), [case.is_small for case in cases]):
        own = [rank for rank, use in zip(ranks, chosen, strict=True) if use]
        cells.append(" / ".join(f"{100 * np.mean([r is not None and r < k for r in own]):.1f}" for k in KS))
    return " | ".join(cells)


def main(study: Study) -> None:
    """Print the table."""
    photos = sorted({str(Path(str(r.image)).absolute()) for r in _records(study)})
    study.out.mkdir(parents=True, exist_ok=True)
    listed = study.out / "photos.txt"
    listed.write_text("\n".join(photos))
    print(f"{len(photos)} photos")
    print(
        "| vectors | R@1 / 5 / 10, all phrases | boxes below 20 % | MB | ms a query |\n|---|---|---|---|---|"
    )
    for levels in study.levels:
        folder = study.out / f"index{levels or 0}"
        shutil.rmtree(folder, ignore_errors=True)
        index = Index.create(folder, study.model, levels=tuple(map(int, levels)))
        update = index.update([str(listed)])
        health = index.health()
        cases = read_cases(study, index)
        queries = [index.encode_query(case.phrase, None) for case in cases]
        begin = time.perf_counter()
        found = [index.nearest(query, max(KS), EVERY_PHOTO) for query in queries]
        each = 1000 * (time.perf_counter() - begin) / len(queries)
        ranks = [
            next((place for place, row in enumerate(rows) if row.path == case.path), None)
            for rows, case in zip(found, cases, strict=True)
        ]
        name = f"whole and {len(index.window_C4)} windows ({levels})" if levels else "whole"
        print(f"| {name} | {recalls(ranks, cases)} | {health.bytes / 1e6:.1f} | {each:.1f} |", flush=True)
        if levels == "":
            rate = len(photos) / update.seconds
            print(f"<!-- {len(cases)} phrases; indexed at {rate:.1f} photos/s -->")
    rerank(study, index, cases[:: max(1, len(cases) // study.reranked)])


def rerank(study: Study, index: Index, cases: Sequence[Case]) -> None:
    """Print the row of reranked hits, and the accuracy of boxes in the right photo where it was found."""
    index.cache.features.budget = 12 * 10**9
    index.search(cases[0].phrase)
    ranks, right, seconds = [], [], 0.0
    by_vectors = []
    for case in progress_bar(cases, "reranking", len(cases)):
        query = index.encode_query(case.phrase, None)
        rows = index.nearest(query, 50, EVERY_PHOTO)
        order = np.argsort(-vector_scores(index.predictor, query.vector_E, rows))
        by_vectors.append(next((n for n, i in enumerate(order) if rows[i].path == case.path), None))
        pixels = index.cache.read(rows)
        index.cache.encode(rows, pixels)
        begin = time.perf_counter()
        hits = index.search(case.phrase, k=max(KS), min_probability=0.0)
        seconds += time.perf_counter() - begin
        place = next((number for number, hit in enumerate(hits) if hit.path == case.path), None)
        ranks.append(place)
        if place is not None:
            boxes = torch.tensor(hits[place].boxes_xyxy)
            overlaps = iou(boxes, torch.tensor(case.pixels)) if len(boxes) else torch.zeros(1)
            right.append((float(overlaps[0]) >= 0.5, float(overlaps.max()) >= 0.5))
    print(f"| the same, {len(cases)} phrases | {recalls(by_vectors, cases)} | | |")
    print(
        f"| reranked, {len(cases)} phrases | {recalls(ranks, cases)} | | {1000 * seconds / len(cases):.0f} |"
    )
    first, any_ = (100 * np.mean([one[place] for one in right]) for place in (0, 1))
    print(f"boxes in the right photo among the first 10: first box {first:.1f} %, any box {any_:.1f} %")
    (study.out / "ranks.json").write_text(json.dumps({"vectors": by_vectors, "reranked": ranks}))


def _records(study: Study) -> list:  # type: ignore[type-arg]
    source = JsonSource(study.phrases, str(study.root))
    return [source[number] for number in range(len(source))]


if __name__ == "__main__":
    main(tyro.cli(Study))
