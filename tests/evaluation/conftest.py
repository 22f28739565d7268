"""Fixtures of the evaluation tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.kit import NAMES, write_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the images `NAMES`, and one that is named as in COCO."""
    return write_images(tmp_path_factory.mktemp("photos"), [*NAMES, "COCO_val2014_000000391895.jpg"])
