"""Wrong command lines of every command fail with one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.tiny import tiny_loaded, tiny_loaded_for, write_photos
from xvlm.cli import main
from xvlm.models.checkpoints.folder import save_model
from xvlm.registry import names
from xvlm.search.index import Index
from xvlm.tasks.common.task import measured_tasks, predicting_tasks

FILES = ("gone", "empty", "folder", "noise", "words", "loop", "x" * 300, "a\x1b[31m\u202e")
"""Paths that are given where a file is needed."""
FEW = ("gone", "folder", "words")
"""Those that each of many tasks is given, whose files are read alike."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of every kind, photos, and wrong files of every kind."""
    folder = tmp_path_factory.mktemp("wrong")
    save_model(tiny_loaded("cnn"), folder / "model")
    for head in ("vqa_decoder", "caption_decoder", "pair_classifier"):
        save_model(tiny_loaded_for(head), folder / head)
    save_model(tiny_loaded_for("detection"), folder / "detection")
    for head in ("classifier", "multilabel"):
        save_model(tiny_loaded_for(head, ("entailment", "neutral")), folder / head)
    write_photos(folder, 2)
    Index.create(folder / "index", folder / "model").update([str(folder / "0.jpg")])
    (folder / "empty").touch()
    (folder / "folder").mkdir()
    (folder / "noise").write_bytes(bytes(range(256)) * 8)
    (folder / "words").write_text("no JSON at all,\nin two lines\n")
    (folder / "loop").symlink_to("loop")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "object.json").write_text('{"task": "pretrain", "seed": NaN}')
    return folder


MODELS = {
    "find": "detection",
    "ground": "model",
    "match": "model",
    "caption": "caption_decoder",
    "ask": "vqa_decoder",
    "compare": "pair_classifier",
}
INPUTS = {
    "find": ["IMAGE", "a dog"],
    "ground": ["IMAGE", "a dog"],
    "match": ["IMAGE", "a dog"],
    "caption": ["IMAGE"],
    "ask": ["IMAGE", "who?"],
    "compare": ["IMAGE", "IMAGE", "two dogs"],
}
PREDICTED = {
    "detection": ("detection", ["IMAGE", "a dog"]),
    "grounding": ("model", ["IMAGE", "a dog"]),
    "vqa": ("vqa_decoder", ["IMAGE", "who?"]),
    "nlvr2": ("pair_classifier", ["IMAGE", "IMAGE", "two dogs"]),
    "captioning": ("caption_decoder", ["IMAGE"]),
    "self_critical": ("caption_decoder", ["IMAGE"]),
    "entailment": ("classifier", ["IMAGE", "a dog"]),
    "multilabel": ("multilabel", ["IMAGE", "a dog"]),
}
"""Model and inputs of `xvlm predict`, by task."""
MEASURES = {
    "detection": "detection",
    "grounding": "model",
    "weak_grounding": "model",
    "retrieval": "model",
    "vqa": "vqa_decoder",
    "nlvr2": "pair_classifier",
    "captioning": "caption_decoder",
    "entailment": "classifier",
    "multilabel": "multilabel",
}


def predicting() -> Iterator[list[str]]:
    """Yield wrong calls of the commands that predict: images, models, options."""
    for command, words in INPUTS.items():
        model = ["--model", MODELS[command]]
        for wrong in FILES:
            yield [command, *[wrong if word == "IMAGE" else word for word in words], *model]
            yield [command, *[_photo(word) for word in words], "--model", wrong]
        yield [command]
        yield [command, *[_photo(word) for word in words], *model, "--jsn"]
        yield [command, *[_photo(word) for word in words], *model, "--model"]
    yield ["ground", "0.jpg", "a dog", "--model", "model", "--draw", "words/drawn.png"]
    yield ["ground", "0.jpg", "", "--model", "model"]
    yield ["find", "0.jpg", "--model", "detection"]
    yield ["find", "0.jpg", "a dog", "", "--model", "detection"]
    yield ["find", "0.jpg", "...", "--noun-phrases", "--model", "detection"]
    yield ["find", "0.jpg", "a dog", "--model", "detection", "--draw", "words/drawn.png"]
    yield ["find", "0.jpg", "a dog", "--model", "model"]
    yield ["match", "0.jpg", "--model", "model"]
    yield ["match", "0.jpg", "a dog", "", "--model", "model"]
    yield ["ask", "0.jpg", "who?", "--model", "model"]
    yield ["compare", "0.jpg", "1.jpg", "two dogs", "--model", "caption_decoder"]
    yield ["caption", "0.jpg", "--model", "caption_decoder", "--num-beams", "many"]
    yield ["caption", "0.jpg", "--model", "caption_decoder", "--max-tokens", "1.5"]
    yield ["caption", "0.jpg", "--model", "model"]


def predicting_with_tasks() -> Iterator[list[str]]:
    """Yield wrong calls of `xvlm predict` of every task."""
    yield ["predict"]
    yield ["predict", "--model", "model"]
    for name in ("nothing", "pretrain", "gone.py", "folder.py", "x" * 300):
        yield ["predict", name, "0.jpg", "a dog", "--model", "model"]
    for task, (model, words) in PREDICTED.items():
        inputs = [_photo(word) for word in words]
        for wrong in FEW:
            images = [wrong if word == "IMAGE" else word for word in words]
            yield ["predict", task, *images, "--model", model]
            yield ["predict", task, *inputs, "--model", wrong]
        yield ["predict", task]
        yield ["predict", task, *inputs]
        yield ["predict", task, *inputs, "one more", "--model", model]
        yield ["predict", task, *inputs, "--model", model, "--jsn"]
        yield ["predict", task, *inputs, "--model", model, "--max-pixels", "0"]
        yield ["predict", task, *inputs, "--model", "model" if task != "grounding" else "vqa_decoder"]
    yield ["predict", "vqa", "0.jpg", "who?", "--model", "vqa_decoder", "--answers"]


def _photo(word: str) -> str:
    return "0.jpg" if word == "IMAGE" else word


def measuring() -> Iterator[list[str]]:
    """Yield wrong calls of `xvlm eval` of every task, of `xvlm layers` and of `xvlm weights`."""
    yield ["eval"]
    yield ["eval", "recall", "--model", "model", "--data", "photos.jsonl", "--out", "out"]
    yield ["eval", "--model", "model"]
    commands = [(["eval", measure], model) for measure, model in MEASURES.items()] + [(["layers"], "model")]
    for command, model in commands:
        usual = [*command, "--model", model, "--data", "photos.jsonl"]
        files = FILES if command == ["eval", "retrieval"] else FEW
        for wrong in (*files, "list.json", "nowhere:train", "scenes:dev"):
            yield [*command, "--model", model, "--data", wrong, "--out", "out"]
        for wrong in FEW:
            yield [*command, "--model", wrong, "--data", "photos.jsonl", "--out", "out"]
        yield usual
        yield [*usual, "--out", "out", "--limit", "some"]
        yield [*usual, "--out", "out", "--limitt", "3"]
        yield [*usual, "--out", "out", "--image-root", "gone"]
    eval_ = ["--model", "model", "--data", "photos.jsonl", "--out", "out"]
    yield ["eval", "grounding", *eval_, "--precision", "fp16"]
    yield ["eval", "vqa", *eval_]
    for wrong in (*FILES, "list.json", "object.json"):
        yield ["eval", "weak_grounding", *eval_, "--detections", wrong]
        answers = ["--model", "vqa_decoder", "--data", "photos.jsonl", "--out", "out", "--answers", wrong]
        yield ["eval", "vqa", *answers]
    for command in ("weights", "calibrate"):
        for wrong in (*FILES, "list.json", "nowhere:train"):
            yield [command, "--model", "model", "--data", wrong]
        for wrong in ("gone", "some/repository", "folder", "words"):
            yield [command, "--model", wrong, "--data", "photos.jsonl"]
        yield [command, "--model", "model"]
        yield [command, "--model", "model", "--data", "photos.jsonl", "--image-root", "gone"]
    yield ["calibrate", "--model", "detection", "--data", "absent:photos.jsonl?absent_texts=0"]
    yield ["calibrate", "--model", "caption_decoder", "--data", "photos.jsonl"]
    yield ["eval", "weak_grounding", *eval_, "--layer", "17"]
    yield ["eval", "retrieval", *eval_, "--rerank", "nothing"]


def training() -> Iterator[list[str]]:
    """Yield wrong calls of `xvlm train` and of the other commands that train."""
    yield ["train"]
    yield ["train", "--out", "out"]
    yield ["train", "--from"]
    for wrong in (*FILES, "list.json", "object.json", "/dev/zero"):
        yield ["train", "--from", wrong, "--out", "out"]
    for recipe in names("recipes"):
        yield ["train", recipe, "nothing=3"]
    for recipe in ("demo", "published/vqa", "scenes/grounding"):
        yield ["train", recipe, "--optim.lrr", "3"]
        yield ["train", recipe, "--optim.steps", "many"]
        yield ["train", recipe, "--seed", "1.5"]
        yield ["train", recipe, "--precision", "fp16"]
    yield ["train", "demo", "--out"]
    yield ["train", "demo", "--minutes", "soon"]
    yield ["train", "demo", "--data.pairs.0.path", "gone", "--out", "out"]
    yield ["train", "demo", "--validation.retrieval", "gone", "--out", "out"]
    yield ["photos"]
    yield ["photos", "gone", "--out", "out"]
    yield ["photos", "folder", "--out", "out"]
    yield ["photos", "folder", "--minutes", "soon"]
    yield ["ablate", "--on", "words"]
    yield ["ablate", "--on", "photos", "--root", "gone", "--out", "out"]
    yield ["demo", "--tasks", "nothing", "--out", "gone"]
    yield ["demo", "--oout", "gone"]


def others() -> Iterator[list[str]]:
    """Yield wrong calls of all other commands."""
    yield ["nothing"]
    yield [""]
    yield ["--model", "model"]
    yield ["recipes", "3"]
    yield ["bench"]
    yield ["bench", "nothing"]
    for benchmark in names("bench"):
        yield ["bench", benchmark, "--nothing", "3"]
        yield ["bench", benchmark, "--json"]
        for wrong in ("gone", "empty", "folder", "words", "list.json", "object.json"):
            yield ["bench", benchmark, "--check", wrong]
    yield ["bench", "step", "--steps", "many"]
    yield ["convert"]
    yield ["convert", "gone"]
    for wrong in FILES:
        yield ["convert", wrong, "out"]
        yield ["convert", wrong, "out.pth", "--to-published"]
        yield ["average", "model", wrong, "--out", "out"]
        yield ["card", wrong, "--out", "out"]
        yield ["export", wrong, "--out", "out"]
        yield ["card", "model", "--out", "out", "--results", wrong]
        yield ["push", wrong, "org/name"]
        yield ["annotate", wrong, "--phrases", "a dog", "--model", "model", "--out", "out"]
        yield ["annotate", "0.jpg", "--phrases", "a dog", "--model", wrong, "--out", "out"]
    yield ["annotate", "0.jpg", "--model", "model", "--out", "out"]
    yield ["annotate", "0.jpg", "--phrases", "a dog", "--model", "model", "--out", "words"]
    yield ["annotate", "0.jpg", "--phrases", "a", "a", "--model", "model", "--out", "out"]
    yield ["annotate", "0.jpg", "--phrases", "a", "--model", "model", "--out", "out", "--formats", "png"]
    yield ["card"]
    yield ["export", "model"]
    yield ["export", "model", "--out", "words"]
    yield ["export", "model", "--out", "out", "--precision", "int4"]
    yield ["card", "model", "--out", "out", "--image", "words"]
    yield ["push", "model"]
    yield ["space"]
    yield ["space", "org/name", "--out", "model"]
    yield ["push", "model", "not a name!"]
    yield ["convert", "noise", "out", "--text-heads", "many"]
    yield ["average", "model", "--out", "out"]
    yield ["average", "--out", "out"]
    yield ["average", "model", "model", "--weights", "1", "--out", "out"]
    yield ["average", "model", "model", "--weights", "a", "b", "--out", "out"]


def searching() -> Iterator[list[str]]:
    """Yield wrong calls of `xvlm index` and `xvlm search`."""
    for wrong in FILES:
        yield ["index", wrong, "--out", "index"]
        yield ["index", "0.jpg", "--model", wrong, "--out", "out"]
        yield ["index", "0.jpg", "--out", wrong]
        yield ["search", wrong, "a dog"]
        yield ["search", "index", "--like", wrong]
        yield ["search", "index", "a dog", "--model", wrong]
    yield ["index", "0.jpg", "--model", "model", "--out", "folder/../words"]
    yield ["index", "0.jpg", "--model", "detection", "--out", "out"]
    yield ["index", "0.jpg", "--model", "vqa_decoder", "--out", "index"]
    yield ["index", "--out", "index"]
    yield ["index", "0.jpg", "--check", "--out", "index"]
    yield ["index", "0.jpg", "--out", "index", "--levels", "0"]
    yield ["app", "--port", "70000"]
    yield ["app", "--oout", "gone"]
    yield ["serve"]
    yield ["serve", "--index", "gone"]
    yield ["serve", "--index", "index", "--model", "gone"]
    yield ["serve", "--index", "index", "--model", "detection"]
    yield ["serve", "--model", "gone"]
    yield ["serve", "--model", "model", "--host", "0.0.0.0"]
    yield ["serve", "--model", "model", "--host", "no.such.host.invalid"]
    yield ["serve", "--model", "model", "--port", "70000"]
    yield ["serve", "--model", "model", "--max-queue", "0"]
    yield ["search"]
    yield ["search", "index"]
    yield ["search", "index", ""]
    yield ["search", "index", "a dog", "--k", "0"]
    yield ["search", "index", "a dog", "--after", "yesterday"]
    yield ["search", "index", "a dog", "--near", "91", "0", "1"]
    yield ["search", "index", "a dog", "--near", "9", "0"]
    yield ["search", "index", "a dog", "--box", "0", "0", "5", "5"]
    yield ["search", "index", "--like", "0.jpg", "--box", "0", "0", "5000", "5"]
    yield ["search", "index", "a dog", "--min-probability", "2"]
    yield ["search", "index", "a dog", "--rerank", "some"]
    yield ["search", "index", "a dog", "--sheet", "words/sheet.html"]


def preparing() -> Iterator[list[str]]:
    """Yield wrong calls of `xvlm prepare` and `xvlm data`."""
    for wrong in FILES:
        yield ["prepare", "coco", wrong, "--out", "out"]
        yield ["prepare", "import", wrong, "--out", "out"]
        yield ["prepare", "mix", wrong]
        yield ["prepare", "leaks", wrong, "--against", "photos.jsonl"]
        yield ["prepare", "leaks", "photos.jsonl", "--against", wrong]
        yield ["data", "look", wrong]
    for wrong in ("noise", "words", "loop", "x" * 300):
        yield ["prepare", "import", "photos.jsonl", "--out", wrong]
    yield ["prepare"]
    yield ["prepare", "cocoo", "folder", "--out", "out"]
    yield ["prepare", "coco", "folder"]
    yield ["prepare", "coco", "folder", "--out", "out", "--split", "dev"]
    yield ["prepare", "coco", "folder", "--out", "out", "--resize", "3"]
    yield ["prepare", "coco", "folder", "--out", "out", "--quality", "96"]
    yield ["prepare", "coco", "folder", "--out", "out", "--filters", "lenght"]
    yield ["prepare", "coco", "folder", "--out", "out", "--exclude", "words"]
    yield ["prepare", "import", "photos.jsonl", "--out", "out", "--form", "cocoo"]
    yield ["prepare", "leaks", "photos.jsonl"]
    yield ["prepare", "leaks"]
    yield ["data"]
    yield ["data", "lok", "photos.jsonl"]
    yield ["data", "look", "photos.jsonl", "--samples", "0"]


CALLS = [
    *predicting(),
    *predicting_with_tasks(),
    *measuring(),
    *training(),
    *searching(),
    *preparing(),
    *others(),
]


def test_every_command_is_called_wrongly() -> None:
    assert {call[0] for call in CALLS if call} >= set(names("cli"))
    assert len(CALLS) >= 200
    assert set(MEASURES) == set(measured_tasks()) and set(PREDICTED) == set(predicting_tasks())


def name_of(call: Sequence[str]) -> str:
    return "-".join(word[:20] for word in call).encode("unicode_escape").decode() or "nothing"


@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_one_sentence_and_exit_code_2(
    call: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = set(folder.rglob("*"))
    try:
        code = main(call)
    except SystemExit as stopped:  # tyro's own errors, in a box
        code = stopped.code
        own = False
    else:
        own = True
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert "Traceback" not in err and "\x1b[31m" not in err and "\u202e" not in err, err
    if own:
        assert err.startswith("xvlm: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert 20 < len(err) < 1000, err
        assert not re.match(r"xvlm: ('[^']*'$|\[Errno)", err), "the text of a KeyError or an OSError"
    written = sorted(str(path.relative_to(folder)) for path in set(folder.rglob("*")) - before)
    shutil.rmtree(folder / "out", ignore_errors=True)
    assert written in ([], ["out"], ["out", "out/run.json"]), (
        "more was written than the folder of a run that did not begin"
    )
