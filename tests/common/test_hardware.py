"""Keeping freed memory saves page faults; a precision without hardware support is replaced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from xvlm.common.hardware import deterministic_algorithms, usable_precision

PROGRAM = """
import resource, sys
if sys.argv[1] == "reuse":
    from xvlm.common.memory import keep_freed_memory
    assert keep_freed_memory()
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(10_000_000)
before = faults()
for _ in range(20):
    torch.ones(10_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can do it")
def test_fewer_page_faults() -> None:
    def faults(word: str) -> int:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True
        )
        return int(result.stdout)

    assert faults("reuse") * 10 < faults("leave")


def test_a_precision_without_instructions_is_replaced_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("xvlm.common.hardware.supports_bfloat16", lambda device: False)
    assert usable_precision("bf16", cpu) == "fp32"
    assert "no instructions for bfloat16" in capsys.readouterr().err
    assert usable_precision("fp32", cpu) == "fp32"
    monkeypatch.setattr("xvlm.common.hardware.supports_bfloat16", lambda device: True)
    assert usable_precision("bf16", cpu) == "bf16"
    assert capsys.readouterr().err == ""


def test_deterministic_algorithms_are_used_within_the_context_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(False):
        assert torch.are_deterministic_algorithms_enabled() == before
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with pytest.raises(KeyError), deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.utils.deterministic.fill_uninitialized_memory
        raise KeyError
    assert torch.are_deterministic_algorithms_enabled() == before
