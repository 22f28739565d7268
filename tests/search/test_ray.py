"""The Ray engine on two local workers: the same index, also when one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.search.collection import tiny_index, write_collection
from tests.search.test_update import assert_same
from xvlm.search.index import Index

pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 60


@pytest.mark.slow
def test_the_same_index_although_a_worker_is_killed(tmp_path: Path) -> None:
    photos = write_collection(tmp_path / "photos", tuple(f"{number:03}.jpg" for number in range(PHOTOS)))
    (photos / "noise.jpg").write_bytes(bytes(range(256)))
    local = tiny_index(tmp_path, photos=photos)
    words = [sys.executable, "-m", "tests.search.on_ray", str(tmp_path), "kill"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "killed 1" in done.stdout
    assert f"{PHOTOS} added, 0 changed, 0 removed, 0 unchanged, 1 cannot be used" in done.stdout
    assert_same(Index.open(tmp_path / "ray"), local)
