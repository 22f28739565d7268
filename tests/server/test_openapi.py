"""The service keeps what its own OpenAPI document says, for thousands of requests that nobody thought of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.process import serving
from tests.server.tiny_service import write_index

pytest.importorskip("schemathesis")
EXAMPLES = os.environ.get("XVLM_FUZZ_EXAMPLES", "15")
"""Requests to each route in each phase."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.mark.slow
def test_random_requests(tmp_path: Path) -> None:
    with serving(write_index(tmp_path)) as running:
        words = [sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"]
        words += ["--checks", ",".join(CHECKS), "--max-examples", EXAMPLES, "--seed", "1"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert running.process.poll() is None
