"""Nothing half-written is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from xvlm.whole import whole_or_nothing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
def test_what_breaks_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), whole_or_nothing(tmp_path / "deep" / "partial"):
        (tmp_path / "deep" / "partial" / "half").write_text("half")
        raise error
    assert list((tmp_path / "deep").iterdir()) == []


def test_tensors_that_cannot_be_written_name_the_folder(tmp_path: Path) -> None:
    said = r"model\.partial cannot be written: .*No space left"
    with pytest.raises(OSError, match=said), whole_or_nothing(tmp_path / "model.partial"):
        raise SafetensorError("I/O error: No space left on device")
    assert not (tmp_path / "model.partial").exists()


def test_it_begins_empty(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "stale").write_text("from a run that was killed")
    with whole_or_nothing(tmp_path / "partial"):
        (tmp_path / "partial" / "new").write_text("new")
    assert [path.name for path in (tmp_path / "partial").iterdir()] == ["new"]
