"""A service in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A process, and where it listens."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Running]:
    """Start `xvlm serve --index folder/index` on a free port; kill it at the end if it still runs."""
    words = [sys.executable, "-m", "xvlm", "serve", "--index", str(folder / "index"), "--port", "0", *options]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    log = (folder / "serve.log").open("w")
    with (
        log,
        subprocess.Popen(
            words, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving at http"), (folder / "serve.log").read_text()
            yield Running(process, line.split()[2])
        finally:
            process.kill()
