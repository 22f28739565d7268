"""Load on a running service: throughput with batches, a thousand clients, memory over many requests.

For example:

    xvlm serve --index runs/index --port 8000 &
    python benchmarks/service.py --url http://127.0.0.1:8000 --pid $!
"""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro
from PIL import Image

_WORDS = "red blue green yellow small large round ring star dog cat man woman street water two three"
WORDS = _WORDS.split()


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        url: address of the service.
        pid: its process, whose memory is read.
        clients: clients at once, for the throughput.
        crowd: clients at once, for the limits.
        requests: mixed requests, for the memory.
    """

    url: str
    pid: int
    clients: int = 32
    crowd: int = 1000
    requests: int = 20_000


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def image(seed: int) -> str:
    """Return a small picture in base64."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).resize((320, 240)).save(data, "JPEG")
    return base64.b64encode(data.getvalue()).decode()


def text(rng: random.Random) -> str:
    """Return a phrase."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))


Shape = Callable[[int], tuple[str, Any]]
"""Path and body of a request, by its number."""


async def many(
    url: str, numbers: range, clients: int, shape: Shape
) -> tuple[Counter[int], list[float], float]:
    """Send requests by `clients` connections; return statuses, seconds of each, and of all."""
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    rest = iter(numbers)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as web:

        async def client() -> None:
            for number in rest:
                path, content = shape(number)
                begin = time.perf_counter()
                answer = await web.post(f"{url}{path}", json=content)
                seconds.append(time.perf_counter() - begin)
                statuses[answer.status_code] += 1

        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
    return statuses, seconds, time.perf_counter() - begin


def mixed(number: int) -> tuple[str, Any]:
    """Return a request of any kind, some of them wrong."""
    rng = random.Random(number)
    kind = rng.choice(["search", "search", "match", "ground", "embeddings", "wrong"])
    if kind == "search":
        return "/v1/search", {"text": text(rng), "rerank": rng.random() < 0.3, "k": rng.randint(1, 30)}
    if kind == "embeddings":
        return "/v1/embeddings", {"input": [text(rng) for _ in range(rng.randint(1, 8))]}
    if kind == "wrong":
        return "/v1/match", {"image": "AAAA", "texts": [text(rng)]}
    texts = [text(rng) for _ in range(rng.randint(1, 5))]
    return f"/v1/{kind}", {"image": image(number % 500), "texts" if kind == "match" else "phrases": texts}


async def run(study: Study) -> None:
    """Print the tables."""
    print("| request | 1 client, a second | clients | a second | factor |\n|---|---|---|---|---|")
    shapes: dict[str, Shape] = {
        "embeddings of a text": lambda n: ("/v1/embeddings", {"input": text(random.Random(n))}),
        "match, 4 texts, a new image": lambda n: ("/v1/match", {"image": image(n), "texts": WORDS[:4]}),
        "search by vectors": lambda n: ("/v1/search", {"text": text(random.Random(n)), "rerank": False}),
        "search, reranked": lambda n: ("/v1/search", {"text": text(random.Random(n % 50))}),
    }
    for name, shape in shapes.items():
        await many(study.url, range(20), 1, shape)
        _, _, alone = await many(study.url, range(1000, 1100), 1, shape)
        several = range(5000, 5000 + 16 * study.clients)
        _, _, together = await many(study.url, several, study.clients, shape)
        one, all_ = 100 / alone, len(several) / together
        print(f"| {name} | {one:.1f} | {study.clients} | {all_:.1f} | {all_ / one:.2f} |", flush=True)
    statuses, seconds, total = await many(study.url, range(3 * study.crowd), study.crowd, mixed)
    print(f"{study.crowd} clients: {dict(statuses)} in {total:.1f} s, slowest {max(seconds):.1f} s")
    print(f"before mixed requests: {memory_mb(study.pid):.0f} MB")
    tenth = study.requests // 10
    for begin in range(0, study.requests, tenth):
        statuses, _, _ = await many(study.url, range(begin, begin + tenth), 16, mixed)
        done = f"after {begin + tenth} of them {dict(statuses)}"
        print(f"{done}: {memory_mb(study.pid):.0f} MB", flush=True)


if __name__ == "__main__":
    asyncio.run(run(tyro.cli(Study)))
