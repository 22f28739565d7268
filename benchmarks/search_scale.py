"""Time and recall of the vectors of a million windows, beside FAISS on the same vectors.

Photos are made of those of an index: their vectors with noise.  Queries are phrases.  For example:

    python benchmarks/search_scale.py --index runs/index --phrases photos/dev_grounding.json --out runs/scale

FAISS (`pip install faiss-cpu`) holds single vectors, so a photo is found there by the best of its vectors; it
keeps them in memory, and no files, times, places or filters.
"""

from __future__ import annotations

import gc
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from xvlm.common.progress import progress_bar
from xvlm.data.sources.json import JsonSource
from xvlm.search.filters import PhotoFilter
from xvlm.search.index import Index
from xvlm.search.rows import FileVersion, PhotoRow
from xvlm.search.table import PhotoTable
from xvlm.search.upkeep import RECALL_AT, maintain, recall_of

NOISE = 0.5
"""Length of the noise beside that of a vector, which is 1."""
BATCH, MORE = 4000, 0.01
"""Photos of a commit; share of photos that are added at the end."""


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        index: index whose vectors the photos are made of.
        phrases: phrases to search for.
        out: folder for the table.
        vectors: number of vectors.
        queries: number of phrases.
        faiss: also measure FAISS.
    """

    index: Path
    phrases: Path
    out: Path
    vectors: int = 1_000_000
    queries: int = 200
    faiss: bool = True


def noisy(vectors_NCE: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return (count, windows, E) float16 unit vectors: of photos chosen at random, with noise."""
    rng = np.random.default_rng(seed)
    chosen = vectors_NCE[rng.integers(0, len(vectors_NCE), count)].astype(np.float32)
    chosen += NOISE / chosen.shape[-1] ** 0.5 * rng.standard_normal(chosen.shape, dtype=np.float32)
    return (chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)).astype(np.float16)


def row(number: int, vectors_CE: np.ndarray) -> PhotoRow:
    """Return the row of a photo that is no file."""
    version = FileVersion(1, 1, f"{number:032x}", "/photos")
    return PhotoRow(f"/photos/{number}.jpg", version, None, False, None, None, 1, 1, vectors_CE)


def timed(queries_QE: np.ndarray, search: Callable[[np.ndarray], set[str]]) -> tuple[list[set[str]], str]:
    """Search for each query, and return what was found, and cells with median and 99 % time in ms."""
    for query_E in queries_QE[:10]:
        search(query_E)
    found, times = [], []
    for query_E in queries_QE:
        begin = time.perf_counter()
        found.append(search(query_E))
        times.append(1000 * (time.perf_counter() - begin))
    return found, f"{np.median(times):.1f} | {np.quantile(times, 0.99):.1f}"


def main(study: Study) -> None:
    """Print the table."""
    index = Index.open(study.index)
    real = np.stack([one.vectors_CE for one in index.table.rows("path", index.table.versions())])
    windows, dim = real.shape[1:]
    count = study.vectors // windows
    source = JsonSource(study.phrases)
    texts = list(
        dict.fromkeys(text for n in range(len(source)) for c in source[n].concepts for text in c.texts)
    )
    chosen = [text for text in texts if index.predictor.is_known(text)]
    chosen = chosen[:: max(1, len(chosen) // study.queries)][: study.queries]
    queries_QE = np.stack([index.encode_query(text, None).vector_E for text in chosen])
    print(f"{len(real)} real photos, {count} made of them, {windows} vectors of {dim}; {len(chosen)} phrases")
    print(f"| search | build, s | p50, ms | p99, ms | recall@{RECALL_AT} | size | {MORE:.0%} more, s |")
    print("|---|---|---|---|---|---|---|")
    made = np.concatenate([noisy(real, min(BATCH, count - n), n) for n in range(0, count, BATCH)])
    more = noisy(real, int(MORE * count), 10**6)
    exact = lance(study, made, more, queries_QE)
    if study.faiss:
        faiss_rows(made, more, queries_QE, exact)


def lance(study: Study, made: np.ndarray, more: np.ndarray, queries_QE: np.ndarray) -> list[set[str]]:
    """Print the rows of the table of xvlm, and return what exact search finds."""
    shutil.rmtree(study.out, ignore_errors=True)
    table = PhotoTable(study.out, made.shape[-1])
    begin = time.perf_counter()
    for start in progress_bar(range(0, len(made), BATCH), "adding photos", -(-len(made) // BATCH)):
        table.add([row(start + n, one) for n, one in enumerate(made[start : start + BATCH])])
    added = time.perf_counter() - begin
    begin, everything = time.perf_counter(), PhotoFilter()
    health = maintain(study.out, table, made.shape[1], queries_QE[:50])
    built = time.perf_counter() - begin
    exact, cells = timed(
        queries_QE[:50], lambda query: {one.path for one in table.nearest(query, RECALL_AT, everything)}
    )
    print(f"| xvlm, exact | {added:.0f} | {cells} | 1 | {health.bytes / 1e6:.0f} MB of disk | |", flush=True)
    rest = queries_QE[50:]
    exact += [{one.path for one in table.nearest(query, RECALL_AT, everything)} for query in rest]
    assert health.approximate is not None
    probes = health.approximate.probes
    found, cells = timed(
        queries_QE, lambda query: {one.path for one in table.nearest(query, RECALL_AT, everything, probes)}
    )
    name = f"xvlm, {probes} of {health.approximate.partitions} partitions"
    recall = recall_of(exact, found)
    begin = time.perf_counter()
    table.add([row(len(made) + n, one) for n, one in enumerate(more)])
    maintain(study.out, table, made.shape[1], queries_QE[:50])
    grown = time.perf_counter() - begin
    print(f"| {name} | {built:.0f} | {cells} | {recall:.3f} | the same | {grown:.1f} |", flush=True)
    few, cells = timed(
        queries_QE,
        lambda query: {
            one.path for one in table.nearest(query, RECALL_AT, PhotoFilter(folder="/photos/nothing"), probes)
        },
    )
    assert not any(few)
    print(f"| xvlm, a filter that leaves nothing | | {cells} | | | |", flush=True)
    return exact


def faiss_rows(made: np.ndarray, more: np.ndarray, queries_QE: np.ndarray, exact: list[set[str]]) -> None:
    """Print the rows of FAISS."""
    import faiss

    flat, windows, dim = made.reshape(-1, made.shape[-1]).astype(np.float32), made.shape[1], made.shape[-1]
    partitions = int(len(flat) ** 0.5)
    for name in ("IVF", "HNSW"):
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        if name == "IVF":
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, partitions, faiss.METRIC_INNER_PRODUCT)
            index.train(flat[:: max(1, len(flat) // (64 * partitions))])
        else:
            index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.add(flat)
        built = time.perf_counter() - begin
        for effort in (8, 32, 128):
            if name == "IVF":
                index.nprobe = effort
            else:
                index.hnsw.efSearch = 2 * effort
            option = f"nprobe {effort}" if name == "IVF" else f"efSearch {2 * effort}"
            label = f"FAISS {name}, {option}"

            def search(query_E: np.ndarray, index: object = index) -> set[str]:
                _, found = index.search(query_E[None], RECALL_AT * windows)  # type: ignore[attr-defined]
                photos = dict.fromkeys(
                    f"/photos/{number // windows}.jpg" for number in found[0] if number >= 0
                )
                return set(list(photos)[:RECALL_AT])

            found, cells = timed(queries_QE, search)
            print(f"| {label} | {built:.0f} | {cells} | {recall_of(exact, found):.3f} | | |", flush=True)
        begin = time.perf_counter()
        index.add(more.reshape(-1, dim).astype(np.float32))
        grown = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"| FAISS {name} | | | | {used / 1e3:.0f} MB of memory at most | {grown:.1f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Study))
