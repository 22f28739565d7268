"""Images, sources and models of the evaluation tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded_for
from xvlm.data.sources.json import JsonSource
from xvlm.predict import Predictor

NAMES = [f"{number}.jpg" for number in range(5)]


def write_images(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Write images of different sizes, and return the folder."""
    for number, name in enumerate(names):
        photo(60 + 5 * number, 50, number).save(folder / name)
    return folder


def source_of(folder: Path, items: list[dict[str, Any]], name: str = "items.json") -> JsonSource:
    """Write records to a JSON file, and open it."""
    path = folder / name
    path.write_text(json.dumps(items))
    return JsonSource(path)


def predictor_of(head: str, labels: tuple[str, ...] = ()) -> Predictor:
    """Return a tiny model with one head."""
    return Predictor(tiny_loaded_for(head, labels))


def count_encoded(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of images of each call of `encode_images`."""
    counts: list[int] = []
    encode = predictor.encode_images
    monkeypatch.setattr(
        predictor, "encode_images", lambda pixels: counts.append(len(pixels)) or encode(pixels)
    )
    return counts
