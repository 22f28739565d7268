"""The card of a model says what is known of it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.tiny import photo, tiny_loaded, tiny_run
from xvlm.cli import main
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import to_json
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.publish.card import model_card
from xvlm.publish.options import CardOptions


def results(folder: Path) -> Path:
    """The results of an evaluation."""
    folder.mkdir()
    command = "xvlm eval grounding --model runs/photos --data data/dev.json --out results"
    metrics = {"grounding_acc50": 0.5637, "grounding_miou": 0.5, "grounding_cases": 3731.0}
    made = {"task": "grounding", "command": command, "metrics": metrics}
    (folder / "evaluation.json").write_text(json.dumps(made))
    return folder


def test_a_run_and_its_results(tmp_path: Path) -> None:
    save_model(tiny_loaded(heads=(*PRETRAINING, "caption_decoder")), tmp_path / "run/model")
    run = to_json(tiny_run(steps=1234, recipe="photos/pretrain"))
    run["data"]["pairs"] = [{"path": "/home/somebody/secret/train.jsonl"}]
    (tmp_path / "run/run.json").write_text(json.dumps(run))
    options = CardOptions(licence="apache-2.0", results=(results(tmp_path / "results"),), phrase="a cup")
    text = model_card(tmp_path / "run", "org/photos", options)
    card = ModelCard(text)
    assert card.data.library_name == "xvlm" and card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-to-text"
    (result, *_) = card.data.eval_results
    assert result.metric_type == "grounding_acc50" and result.dataset_name == "dev.json"
    assert result.metric_value == 0.5637
    for part in ('from_pretrained("org/photos")', 'photo.ground("a cup")', "1,234", "`train.jsonl`"):
        assert part in text, part
    assert "xvlm eval grounding --model runs/photos --data data/dev.json" in text
    assert "not calibrated" in text and "secret" not in text and "somebody" not in text


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    save_model(tiny_loaded(heads=("contrastive", "matching")), tmp_path / "model")
    text = model_card(tmp_path / "model", "org/plain", CardOptions())
    assert "## Training" not in text and "photo.ground" not in text and "No results are given" in text
    assert ModelCard(text).data.pipeline_tag is None
    with pytest.raises(MissingFileError, match=r"has no evaluation.json, which `xvlm eval` writes"):
        model_card(tmp_path / "model", "a/b", CardOptions(results=(tmp_path,)))
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(InputError, match="is not one that `xvlm eval` wrote"):
        model_card(tmp_path / "model", "a/b", CardOptions(results=(tmp_path,)))


def test_a_phrase_with_quotes_and_a_readme_of_someone_else(tmp_path: Path) -> None:
    save_model(tiny_loaded(), tmp_path / "model")
    words = ["card", str(tmp_path / "model"), "--phrase", 'the "big" ring', "--out", str(tmp_path / "card")]
    assert main(words) == main(words) == 0
    code = (tmp_path / "card/README.md").read_text().split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    (tmp_path / "card/README.md").write_text("mine")
    assert main(words) == 2 and (tmp_path / "card/README.md").read_text() == "mine"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the card is that of a user."""
    save_model(tiny_loaded(heads=(*PRETRAINING, "detection")), tmp_path / "model")
    photo(64, 48, 1).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert main(["card", "model", "--image", "photo.jpg", "--phrase", "a red dog", "--out", "card"]) == 0
    text = (tmp_path / "card/README.md").read_text()
    assert "![a red dog](thumbnail.jpg)" in text
    from PIL import Image

    with Image.open(tmp_path / "card/thumbnail.jpg") as image:
        assert max(image.size) == 640
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
