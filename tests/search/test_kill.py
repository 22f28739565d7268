"""`kill -9` while photos are indexed: what was committed stays, and the next run ends as if nothing was."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.search.collection import tiny_index, write_collection
from tests.search.test_update import assert_same
from xvlm.search.index import Index

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("XVLM_KILLS", "2"))
PHOTOS = 40


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    """A photo was changed and one removed since the first index, so every kind of commit is interrupted."""
    names = tuple(f"{number:03}.jpg" for number in range(PHOTOS))
    photos = write_collection(tmp_path / "photos", names[: PHOTOS // 2])
    tiny_index(tmp_path, photos=photos)
    write_collection(photos, names)
    for number in range(0, PHOTOS // 2, 3):
        shutil.copy(photos / names[-1 - number], photos / names[number])
    (photos / names[1]).unlink()
    rng, moments = random.Random(0), []
    for _ in range(KILLS):
        with start(tmp_path) as process:
            assert process.stdout is not None and process.stdout.readline() == "started\n"
            moments.append(rng.uniform(0, 1.0))
            time.sleep(moments[-1])
            process.kill()
            process.wait()
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read().splitlines()[-1] == "finished", moments
    anew = Index.create(tmp_path / "anew", tmp_path / "model", levels=(2,))
    anew.update([str(photos)])
    assert_same(Index.open(tmp_path / "index"), anew)


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.search.killed", str(folder)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
