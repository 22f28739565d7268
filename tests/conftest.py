"""Settings that every test shares."""

from __future__ import annotations

import os

import torch

# Without a GPU, Triton's interpreter runs the kernels.  Triton reads this when timm imports it.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
else:  # many tests compare two runs bit for bit
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)

from hypothesis import settings

from tests.published import full_folder

# No deadline: torch's first call of a kind is slow.  Derandomised: a run of the tests is repeatable.
settings.register_profile("xvlm", deadline=None, derandomize=True)
settings.load_profile("xvlm")


def pytest_report_header() -> str:
    """Which golden files the tests read."""
    return f"golden files: {full_folder() or 'tests/golden/data (the set in the repository)'}"
