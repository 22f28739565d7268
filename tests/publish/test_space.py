"""The folder of a Space runs with a stand-in for Gradio, which holds back newer packages than it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.tiny import photo, tiny_loaded
from xvlm.cli import main
from xvlm.common.errors import OutputError
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.publish.space import write_space

TITLE = 'Cups: where is "it"?'


class Part:
    """Any component; it keeps what it was made with."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named


@pytest.mark.parametrize("heads", [PRETRAINING, (*PRETRAINING, "detection")])
def test_the_app_answers(heads: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tiny_loaded(heads=heads), tmp_path / "org/model")
    monkeypatch.chdir(tmp_path)
    assert main(["space", "org/model", "--out", "space", "--title", TITLE]) == 0
    assert (tmp_path / "space/requirements.txt").read_text().startswith("xvlm==")
    readme = (tmp_path / "space/README.md").read_text()
    assert yaml.safe_load(readme.split("---")[1])["title"] == TITLE
    gradio = ModuleType("gradio")
    for name in ("Interface", "Image", "Textbox", "Slider", "AnnotatedImage"):
        setattr(gradio, name, Part)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    names: dict[str, Any] = {"__name__": "app"}
    exec((tmp_path / "space/app.py").read_text(), names)
    assert names["page"].named["title"] == TITLE
    find = names["page"].given[0]
    image = photo(80, 60, 2)
    (shown, boxes), text = find(image, "a red dog", 0.0)
    assert shown is image and boxes and text == f"{len(boxes)} found"
    assert all(len(box) == 4 and label.startswith("a red dog ") for box, label in boxes)
    assert find(None, "a red dog", 0.0)[1] == "Choose a photo and type a phrase."


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(OutputError, match=r"holds mine.txt, which `xvlm space` did not write"):
        write_space("org/model", tmp_path)
    write_space("org/model@v1", tmp_path / "new")
    write_space("org/model@v1", tmp_path / "new")
    assert '"org/model@v1"' in (tmp_path / "new/app.py").read_text()
