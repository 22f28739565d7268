"""A small collection of photos on disk, and an index of it by a tiny model."""

from __future__ import annotations

from pathlib import Path

from tests.tiny import photo, tiny_loaded
from xvlm.models.checkpoints.folder import save_model
from xvlm.search.index import Index

NAMES = ("a.jpg", "b.png", "deep/c.webp", "deep/er/d.jpg", "e.jpg")


def write_collection(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Photos of different sizes and colours, one a name."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(60 + 10 * number, 50, seed=number).save(path)
    return folder


def tiny_index(folder: Path, kind: str = "cnn", photos: Path | None = None) -> Index:
    """An index in `folder/index` by a model in `folder/model`, of `photos` if there are some."""
    model = folder / "model"
    if not model.exists():
        save_model(tiny_loaded(kind), model)
    index = Index.create(folder / "index", model, levels=(2,))
    if photos is not None:
        index.update([str(photos)])
    return index
