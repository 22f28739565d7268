"""What a run is measured by: as its configuration says, and with what was not measured told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded
from xvlm.errors import InputError
from xvlm.run import from_json
from xvlm.tasks import _dev
from xvlm.tasks._dev import DevConfig, measured_zero_shot


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
        dev = from_json(DevConfig, {"retrieval": str(tmp_path / "dev.json"), "rerank": rerank})
        measure = measured_zero_shot(dev)
        assert measure is not None and measure(tiny_loaded())["t2i_r1"] == 1.0
    assert asked == ["both", "matching", "published"] and DevConfig().rerank == "both"
    with pytest.raises(InputError, match="rerank"):
        from_json(DevConfig, {"rerank": "best"})
    with pytest.raises(InputError, match="rerank is 'best'; it may be both, matching or published"):
        measured_zero_shot(DevConfig(retrieval=str(tmp_path / "dev.json"), rerank="best"))  # type: ignore[arg-type]


def test_what_is_not_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(60, 50, 0).save(tmp_path / "0.png")
    items = [{"image": "0.png", "text": "a dog", "bbox": box} for box in ([0, 0, 20, 20], [9, 9, 0, 5])]
    (tmp_path / "dev.json").write_text(json.dumps(items))
    measure = measured_zero_shot(DevConfig(grounding=str(tmp_path / "dev.json")))
    assert measure is not None and measure(tiny_loaded())["grounding_bad_records"] == 1
    assert "dev.json: 1 of 2 samples were skipped: 1 x box is empty (first: " in capsys.readouterr().err
