"""Tar shards of generated photographs with captions and regions, as large and as dense as published data.

The images are 640 x 480 pixels, smooth colours with grain, and their files are as large as a photograph's.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
QUALITY = 90
CAPTION_WORDS, PHRASE_WORDS = 12, 6
REGIONS = 20
"""Regions of an image, of which a sample reads five."""
SHARD_IMAGES = 256
WORDS = (
    *("a", "the", "of", "in", "on", "with", "near", "two", "three", "small", "large", "young", "old", "red"),
    *("green", "blue", "white", "black", "wooden", "brown", "dog", "cat", "horse", "bird", "man", "woman"),
    *("child", "people", "car", "bus", "train", "table", "chair", "plate", "bowl", "window", "door", "wall"),
    *("street", "grass", "park", "beach", "water", "sky", "tree", "house", "holding", "wearing", "standing"),
)


def noise_jpeg(seed: int) -> bytes:
    """Return a JPEG file of smooth colours with grain: about 90 kB, as photographs of this size have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0, 7, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_shards(folder: Path, files: Sequence[bytes], regions: bool) -> str:
    """Write JPEG files with captions, and with regions if wanted, to shards; return a glob of them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for start in range(0, len(files), SHARD_IMAGES):
        with tarfile.open(folder / f"{start:06}.tar", "w") as tar:
            for index, file in enumerate(files[start : start + SHARD_IMAGES], start):
                fields = {"caption": text(rng, CAPTION_WORDS).capitalize() + "."}
                elems = {"elems": [region(rng) for _ in range(REGIONS)]} if regions else {}
                for name, data in member_files(index, file, fields | elems):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / "*.tar")


def member_files(index: int, file: bytes, fields: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the members of one sample."""
    yield f"{index:06}.jpg", file
    yield f"{index:06}.json", json.dumps(fields).encode()


def text(rng: np.random.Generator, words: int) -> str:
    """Return random words."""
    return " ".join(rng.choice(WORDS, words))


def region(rng: np.random.Generator) -> dict[str, Any]:
    """Return a region in the published form, with a box within the image."""
    width, height = rng.uniform(0.05, 0.5, 2) * (WIDTH, HEIGHT)
    x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
    box = [round(float(one), 1) for one in (x, y, width, height)]
    return {"caption": text(rng, PHRASE_WORDS), "attributes": [], "bb": box}
