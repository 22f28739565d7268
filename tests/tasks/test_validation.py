"""What a run is measured by: as its configuration says, and with what was not measured told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded
from xvlm.common.errors import InputError
from xvlm.config import from_json
from xvlm.tasks.common import validation as _dev
from xvlm.tasks.common.validation import ZeroShotValidation, zero_shot_validation


def test_a_run_chooses_what_reranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(60, 50, 0).save(tmp_path / "0.png")
    (tmp_path / "dev.json").write_text(json.dumps([{"image": "0.png", "caption": "a dog"}]))
    asked: list[str] = []
    evaluate = _dev.evaluate_retrieval

    def kept(*args: Any, **options: Any) -> Any:
        asked.append(args[4])
        return evaluate(*args, **options)

    monkeypatch.setattr(_dev, "evaluate_retrieval", kept)
    for rerank in ("both", "matching", "published"):
        dev = from_json(ZeroShotValidation, {"retrieval": str(tmp_path / "dev.json"), "rerank": rerank})
        measure = zero_shot_validation(dev)
        assert measure is not None and measure(tiny_loaded())["t2i_r1"] == 1.0
    assert asked == ["both", "matching", "published"] and ZeroShotValidation().rerank == "both"
    with pytest.raises(InputError, match="rerank"):
        from_json(ZeroShotValidation, {"rerank": "best"})
    with pytest.raises(InputError, match="rerank is 'best'; it may be both, matching or published"):
        zero_shot_validation(ZeroShotValidation(retrieval=str(tmp_path / "dev.json"), rerank="best"))  # type: ignore[arg-type]


def test_what_is_not_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(60, 50, 0).save(tmp_path / "0.png")
    items = [{"image": "0.png", "text": "a dog", "bbox": box} for box in ([0, 0, 20, 20], [9, 9, 0, 5])]
    (tmp_path / "dev.json").write_text(json.dumps(items))
    measure = zero_shot_validation(ZeroShotValidation(grounding=str(tmp_path / "dev.json")))
    assert measure is not None and measure(tiny_loaded())["grounding_skipped"] == 1
    assert "dev.json: 1 of 2 samples were skipped: 1 x box is empty (first: " in capsys.readouterr().err
