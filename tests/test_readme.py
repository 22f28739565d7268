"""Every Python snippet of the README and the docs runs, in order, one namespace a file.

A block fenced as ```python no-run is only compiled: it needs what a test cannot have (a large checkpoint).
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tests.tiny import photo, tiny_loaded, tiny_loaded_for, write_photos
from xvlm.cli import main, parse
from xvlm.common.errors import XVLMError
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```python(?P<flags>[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def snippets(text: str) -> list[tuple[int, str, bool]]:
    """Return (line before the code, code, whether to run it) for each fenced block."""
    return [
        (text.count("\n", 0, match.start("code")), match["code"], "no-run" not in match["flags"].split())
        for match in FENCE.finditer(text)
    ]


def run(text: str, name: str) -> int:
    """Compile every snippet, run those that are to run, and return the number of snippets."""
    module = sys.modules["__snippet__"] = ModuleType("__snippet__")  # dataclasses look their module up
    found = snippets(text)
    for line, code, to_run in found:
        # Leading newlines make a traceback show the line of the document.
        compiled = compile("\n" * line + code, name, "exec")
        if to_run:
            exec(compiled, module.__dict__)
    return len(found)


def documents() -> list[Path]:
    """Return the documents with snippets of one step; `tests/test_site.py` runs the tutorials."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The snippets use a trained model (a tiny one of the same form here) and a photo.
    everything = tiny_loaded(heads=(*PRETRAINING, "detection"))
    save_model(everything, tmp_path / "runs" / "demo" / "model")
    photo(64, 48, seed=1).save(tmp_path / "street.jpg")
    write_photos(tmp_path / "photos", 3)
    run(path.read_text(encoding="utf-8"), str(path))


def test_commands_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every `xvlm` line in a bash block of the README; long trainings are parsed but not started."""
    monkeypatch.chdir(tmp_path)
    for run_folder in ("runs/demo", "runs/mine", "runs/retrieval"):
        save_model(tiny_loaded(heads=(*PRETRAINING, "detection")), tmp_path / run_folder / "model")
    for run_folder, part in (
        ("vqa", "vqa_decoder"),
        ("captioning", "caption_decoder"),
        ("nlvr2", "pair_classifier"),
    ):
        save_model(tiny_loaded_for(part), tmp_path / "runs" / run_folder / "model")
    for seed, name in enumerate(("street.jpg", "left.jpg", "right.jpg")):
        photo(64, 48, seed).save(name)
    write_photos(tmp_path / "PHOTOS" / "holiday", 2)
    rows = [json.loads(line) for line in write_photos(tmp_path, 2).read_text().splitlines()]
    data = "".join(json.dumps({**row, "absent": ["a large tree above the car"]}) + "\n" for row in rows)
    for name in ("phrases.json", "captions.json", "held_out.jsonl", "dev.jsonl", "MY_FOLDER/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(data)
    Path("questions.json").write_text('[{"image": "street.jpg", "question": "a dog?", "answer": ["a dog"]}]')
    started = []
    names = ("experiments.photos.run_photos", "experiments.ablation.run_ablation", "training.train.train")
    names += ("models.checkpoints.convert.convert", "models.checkpoints.convert.convert_back")
    for name in (*names, "cli.bench.run_benchmark", "server.run.serve"):
        function = name.rpartition(".")[2]
        note = partial(lambda name, *given, **named: started.append((name, given)), function)
        monkeypatch.setattr(f"xvlm.{name}", note)
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("xvlm ")]
    lines = [shlex.split(line, comments=True) for line in commands]
    assert len(lines) >= 8
    for line in lines:
        try:
            assert main(line[1:]) == 0, line
        except SystemExit as done:  # of --help
            assert done.code == 0 and "--help" in line
    assert {name for name, _ in started} >= {"run_photos", "run_ablation", "train"}
    assert all(given for _, given in started)


@pytest.mark.parametrize("path", documents()[1:], ids=lambda path: path.stem)
def test_commands_of_other_documents_have_options_that_exist(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are parsed and not run; files that they name need not be here."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    for line in (line for block in blocks for line in block.replace("\\\n", " ").splitlines()):
        found = re.match(r"(?:torchrun .*-m )?xvlm (.*)", line.strip())
        if found is None or "..." in line:
            continue
        try:
            parse(shlex.split(found[1], comments=True))
        except SystemExit as done:
            assert done.code == 0 or "--help" in line, f"{line}\n{capsys.readouterr().err}"
        except XVLMError as error:
            assert "No such file" in str(error) or "no file matches" in str(error), f"{line}\n{error}"


EXAMPLE = """# Title
```python
x = 1
```
text
```python no-run
raise RuntimeError
```
```bash
not python
```
```python
assert x == 1
y = x / 0
```
"""


def test_snippets_share_a_namespace_and_errors_name_the_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(EXAMPLE, "example.md")
    assert caught.traceback[-1].lineno == 13  # counted from 0


def test_no_run_is_compiled_all_the_same() -> None:
    assert run("```python no-run\nraise RuntimeError\n```\n", "example.md") == 1
    with pytest.raises(SyntaxError):
        run("```python no-run\nthis is no python\n```\n", "example.md")
