"""Tasks, recipes and data sources of a user: named by the path of a file, or installed as a package."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded, tiny_run
from xvlm import registry
from xvlm.cli import main
from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import read_json, to_json, write_json
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.predict import Predictor
from xvlm.registry import find, load_file, names
from xvlm.training.run_folder import read_run
from xvlm.training.train import train

FILES = Path(__file__).parent / "user_files"


def forget_loaded_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the registry forget the user's files, as in a new process."""
    monkeypatch.setattr(registry, "_loaded", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, which holds the files and a photo."""
    for path in FILES.glob("*.py"):
        shutil.copy(path, tmp_path)
    photo(60, 50, 0).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    forget_loaded_files(monkeypatch)
    return tmp_path


def output_of(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """Run a command and return its standard output, or its standard error if it is expected to fail."""
    try:
        found = main([str(word) for word in words])
    except SystemExit as stopped:
        found = int(stopped.code or 0)
    out, err = capsys.readouterr()
    assert found == code, err
    return err if code else out


# Files.


def test_a_recipe_and_its_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.pairs-batch-size", 2, "--workers", 1]
    assert "model: runs/my_recipe/model" in output_of(capsys, "train", "./my_recipe.py", "size=6", *options)
    recorded: Any = read_json(folder / "runs" / "my_recipe" / "run.json")
    assert recorded["recipe"] == "./my_recipe.py" and recorded["data"]["pairs_batch_size"] == 2
    assert recorded["data"]["pairs"][0]["path"] == "./my_source.py:train?size=6"
    words = ["train", "./my_recipe.py", "size=6", *options]
    assert "holds a run already" in output_of(capsys, *words, code=2)
    output_of(capsys, *words, "--resume")


def test_a_recipe_by_its_absolute_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", folder / "my_recipe.py", f"source={folder}/my_source.py", "--out", "out")
    assert read_json(folder / "out" / "run.json")["recipe"] == f"{folder}/my_recipe.py"


def test_arguments_and_help_of_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "size is 0; it must be at least 1" in output_of(capsys, "train", "my_recipe.py", "size=0", code=2)
    wrong = output_of(capsys, "train", "my_recipe.py", "sise=3", code=2)
    assert "recipe my_recipe.py has no argument sise; it has size, source" in wrong
    assert "--data.pairs-batch-size" in output_of(capsys, "train", "./my_recipe.py", "--help")
    assert not (folder / "runs").exists()


def test_published_values_of_a_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "./my_recipe.py", "--faithful", "--out", "out", "--minutes", 0]
    output_of(capsys, *words)
    run = read_json(folder / "out" / "run.json")
    assert run["faithful"] and run["data"]["pairs_batch_size"] == 8


def test_a_task_is_trained_evaluated_and_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output_of(capsys, "train", "task=./my_task.py", "--data.batch-size", 3, "--scale", 1)
    out = folder / "runs" / "my_task"
    run = read_json(out / "run.json")
    assert (run["task"], run["recipe"], run["data"]["batch_size"]) == ("./my_task.py", "", 3)
    assert run["model"]["heads"] == ["rating"]
    data = ["--data", "./my_source.py:test?size=5"]
    results = ["--model", "runs/my_task", *data, "--out", "results", "--limit", 4]
    metrics = json.loads(output_of(capsys, "eval", "./my_task.py", *results))
    assert metrics["rated"] == 4 and 0 <= metrics["rating_mse"] <= 1
    assert "mean squared error" in (folder / "results" / "report.html").read_text()
    asked = ["predict", "./my_task.py", "photo.jpg", "a red square", "--model", "runs/my_task"]
    answer = json.loads(output_of(capsys, *asked, "--scale", 2, "--json"))["answer"]
    predictor = Predictor.load(out)
    assert answer == pytest.approx(predictor.predict("./my_task.py", "photo.jpg", "a red square", scale=2))
    assert answer == pytest.approx(2 * json.loads(output_of(capsys, *asked, "--json"))["answer"])


def test_help_of_a_task(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = output_of(capsys, "predict", "./my_task.py", "--help")
    assert "IMAGE TEXT" in shown and "Rate how well a text fits an image." in shown
    assert "factor of the rating" in shown and "the text." in shown
    assert "number of records; by default all" in output_of(capsys, "eval", "./my_task.py", "--help")
    assert "factor of the ratings" in output_of(capsys, "train", "task=./my_task.py", "--help")


def test_options_of_a_task_out_of_their_range(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "./my_task.py", "photo.jpg", "a dog", "--model", "none", "--scale", 0]
    assert "scale is 0; it must be at least 1" in output_of(capsys, *words, code=2)
    words = ["eval", "./my_task.py", "--model", "none", "--data", "none", "--out", "out", "--limit", 0]
    assert "limit is 0; it must be at least 1" in output_of(capsys, *words, code=2)
    assert "scale is 0" in output_of(capsys, "train", "task=./my_task.py", "--scale", 0, code=2)
    assert not (folder / "out").exists() and not (folder / "runs").exists()


def test_a_source_is_evaluated_by_a_task_of_the_package(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tiny_loaded("cnn"), folder / "model")
    words = ["--model", "model", "--data", "./my_source.py:test?size=4", "--out", "out", "--max-bad", 1]
    metrics = json.loads(output_of(capsys, "eval", "grounding", *words))
    assert metrics["grounding_cases"] == 4


def test_a_recorded_run_of_a_task_is_repeated_and_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are named again, each as `task=FILE.py`."""
    output_of(capsys, "train", "task=./my_task.py", "--out", "first")
    repeat = ["train", "--from", "first/run.json", "task=./my_task.py", "task=./my_source.py", "--out"]
    for words in (["second"], ["third", "--minutes", 0], ["third", "--resume"]):
        forget_loaded_files(monkeypatch)
        output_of(capsys, *repeat, *words)
    weights = [folder / name / "model" / "model.safetensors" for name in ("first", "second", "third")]
    assert weights[0].read_bytes() == weights[1].read_bytes() == weights[2].read_bytes()
    assert (folder / "first" / "run.json").read_text() == (folder / "second" / "run.json").read_text()
    forget_loaded_files(monkeypatch)
    for words, named in (([], "./my_task.py"), (["task=./my_task.py"], "./my_source.py")):
        message = output_of(capsys, "train", "--from", "first/run.json", *words, "--out", "fourth", code=2)
        assert f"first/run.json names the Python file {named}, which is loaded only if" in message
    message = output_of(capsys, "train", "--from", "first/run.json", "size=3", "--out", "fourth", code=2)
    assert "size=3 follows --from; only task=FILE.py may" in message
    assert not (folder / "fourth").exists()


def test_a_head_is_known_once_its_file_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output_of(capsys, "train", "task=./my_task.py", "--out", "out")
    forget_loaded_files(monkeypatch)
    with pytest.raises(InputError, match=r"no head is called 'rating'; .* known once that file is named"):
        load_model(folder / "out")
    load_file("my_task.py")
    assert load_model(folder / "out").model.config.heads == ("rating",)


def test_python_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = find("recipes", "./my_recipe.py").recipe(size=4)
    bundle, _ = train(run, folder / "out")
    assert bundle.model.config.heads == run.model.heads
    assert load_file("my_task.py") is load_file(folder / "my_task.py") is find("tasks", "./my_task.py")


# Wrong files.

WRONG_FILES = {
    "empty.py": "",
    "other.py": "TASK = 3\nrecipe = 3\nopen_source = 3\n",
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "./gone.py"], "./gone.py does not exist; it must be a Python file"),
        (["train", "task=./gone.py"], "./gone.py does not exist; it must be a Python file"),
        (["train", "./folder.py"], "./folder.py does not exist; it must be a Python file"),
        (["train", "./empty.py"], "./empty.py defines no recipe: it must hold a function recipe(...)"),
        (["train", "./other.py"], "./other.py defines no recipe: it must hold a function recipe(...)"),
        (["train", "task=./empty.py"], "./empty.py defines no task: it must hold TASK = Task(...)"),
        (["train", "task=./other.py"], "./other.py defines no task: it must hold TASK = Task(...)"),
        (["eval", "./empty.py", "--model", "m"], "./empty.py defines no task: it must hold TASK"),
        (["predict", "./empty.py", "--model", "m"], "./empty.py defines no task: it must hold TASK"),
        (["train", "./my_recipe.py", "source=./gone.py", "--out", "out"], "gone.py does not exist"),
        (["train", "./my_recipe.py", "source=./empty.py", "--out", "out"], "empty.py must define a function"),
    ],
)
def test_wrong_files_are_named(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in WRONG_FILES.items():
        (folder / name).write_text(text)
    (folder / "folder.py").mkdir()
    assert message in output_of(capsys, *words, code=2)


def test_an_error_in_a_file_keeps_its_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is neither hidden, nor remembered: the file is read again once it is mended."""
    (folder / "broken.py").write_text("recipe = 1 / 0\n")
    message = output_of(capsys, "train", "./broken.py", code=1)
    assert "broken.py" in message and "ZeroDivisionError" in message
    assert not any(name.startswith("xvlm_user_broken") for name in sys.modules)
    shutil.copy(folder / "my_recipe.py", folder / "broken.py")
    assert load_file("broken.py").recipe


def test_files_of_the_same_name_are_different_modules(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "my_source.py").write_text("value = 1\n")
    first, second = load_file("my_source.py"), load_file("other/my_source.py")
    assert second.value == 1 and first is not second and first.__name__ != second.__name__
    assert sys.modules[first.__name__] is first and sys.modules[second.__name__] is second


# Files that somebody else names.


@pytest.fixture
def hostile(folder: Path) -> Path:
    """Return the marker that `evil.py` creates when it is executed."""
    marker = folder / "executed"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return marker


def with_value(tree: Any, path: list[Any], value: Any) -> Any:
    first, *rest = path
    tree = list(tree) if isinstance(tree, list) else dict(tree)
    tree[first] = with_value(tree[first], rest, value) if rest else value
    return tree


NAMED = ["evil.py", "./evil.py", "FOLDER/evil.py", "evil.py:train?size=3"]
FIELDS: list[list[Any]] = [
    ["task"],
    ["data", "pairs", 0, "path"],
    ["data", "regions", 0, "path"],
    ["validation", "retrieval"],
    ["validation", "grounding"],
    ["init", "model"],
    ["init", "vision"],
    ["init", "text"],
    ["model", "vision", "name"],
    ["model", "heads", 0],
    ["best_metric"],
]


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_a_run_that_names_a_file_is_refused(path: list[Any], named: str, hostile: Path) -> None:
    folder = hostile.parent
    named = named.replace("FOLDER", str(folder))
    tree = with_value(json.loads(json.dumps(to_json(tiny_run("vit")))), path, named)
    write_json(folder / "run.json", tree)
    with pytest.raises(
        InputError, match=r"run\.json names the Python file .*evil\.py, which is loaded only if"
    ):
        read_run(folder / "run.json")
    assert main(["train", "--from", "run.json", "--out", "out"]) == 2
    assert not hostile.exists() and not (folder / "out").exists()


def test_a_resumed_folder_cannot_name_a_file(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hostile.parent
    write_json(folder / "good.json", tiny_run("vit", steps=2))
    words = ["train", "--from", "good.json", "--out", "out"]
    output_of(capsys, *words, "--minutes", 0)
    tree = with_value(read_json(folder / "out" / "run.json"), ["data", "pairs", 0, "path"], "evil.py:x")
    write_json(folder / "out" / "run.json", tree)
    assert "names the Python file evil.py" in output_of(capsys, *words, "--resume", code=2)
    assert not hostile.exists()


def test_the_recipe_of_a_recorded_run_is_not_executed(
    hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only says where the run came from."""
    folder = hostile.parent
    write_json(folder / "run.json", with_value(to_json(tiny_run("vit", steps=1)), ["recipe"], "./evil.py"))
    assert read_run(folder / "run.json").recipe == "./evil.py"
    output_of(capsys, "train", "--from", "run.json", "--out", "out", "--faithful")
    assert not hostile.exists()


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("path", [["heads", 0], ["vision", "name"], ["labels"], ["box_head"]])
def test_a_model_folder_cannot_name_a_file(path: list[Any], named: str, hostile: Path) -> None:
    folder = hostile.parent
    save_model(tiny_loaded("cnn"), folder / "model")
    config = read_json(folder / "model" / "config.json")
    named = named.replace("FOLDER", str(folder))
    value: Any = [named, "b"] if path == ["labels"] else named
    write_json(folder / "model" / "config.json", with_value(config, ["model", *path], value))
    if path == ["labels"]:  # any text may be a label
        load_model(folder / "model")
    else:
        with pytest.raises((InputError, MissingFileError)):
            load_model(folder / "model")
    assert not hostile.exists()


# Installed packages.


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package `my_package` with tasks, recipes and a source; yield the folder that it is in."""
    site = folder / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").touch()
    for path in FILES.glob("*.py"):
        path = Path(shutil.move(folder / path.name, site / "my_package" / path.name))
        path.write_text(
            path.read_text().replace("./my_source.py", "squares").replace("./my_task.py", "rating")
        )
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[xvlm.tasks]\nrating = my_package.my_task\nwrong = my_package.my_task:TASK\n"
        "[xvlm.recipes]\nmine/squares = my_package.my_recipe\nmy-recipe = my_package.my_recipe\n"
        "[xvlm.sources]\nsquares = my_package.my_source:open_source\n"
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_names_of_an_installed_package(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"rating", "vqa"} <= set(names("tasks")) and "mine/squares" in names("recipes")
    assert find("tasks", "rating").__name__ == "my_package.my_task"
    assert find("recipes", "mine/squares").recipe().data.pairs[0].path == "squares:train?size=8"
    assert find("recipes", "my-recipe") is find("recipes", "mine/squares")
    lines = [line.split(maxsplit=1) for line in output_of(capsys, "recipes").splitlines()]
    assert ["mine/squares", "A recipe outside the package: a tiny model on squares."] in lines
    with pytest.raises(InputError, match=r"entry point 'wrong' of xvlm\.tasks is Task\(.*must name a module"):
        find("tasks", "wrong")


def test_names_of_the_package_come_first(package: Path) -> None:
    info = package / "my_package-1.0.dist-info" / "entry_points.txt"
    info.write_text(
        "[xvlm.tasks]\nvqa = my_package.my_task\n[xvlm.sources]\nscenes = my_package.my_source:none\n"
    )
    importlib.invalidate_caches()
    assert find("tasks", "vqa").__name__ == "xvlm.tasks.vqa"


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_wrong_installed_task_leaves_the_others_usable(
    package: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--model" in output_of(capsys, command, "vqa", "--help")


def test_an_installed_package_is_trained_evaluated_and_asked(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = package / "my_package-1.0.dist-info" / "entry_points.txt"
    info.write_text(info.read_text().replace("wrong = my_package.my_task:TASK\n", ""))
    importlib.invalidate_caches()
    output_of(capsys, "train", "mine/squares", "size=6", "--out", "pretrained")
    run = read_json(Path("pretrained/run.json"))
    assert (run["recipe"], run["data"]["pairs"][0]["path"]) == ("mine/squares", "squares:train?size=6")
    output_of(capsys, "train", "task=rating", "--out", "rating")
    assert read_json(Path("rating/run.json"))["task"] == "rating"
    data = ["--data", "squares:test?size=5", "--out", "results"]
    metrics = json.loads(output_of(capsys, "eval", "rating", "--model", "rating", *data))
    assert metrics["rated"] == 5
    asked = ["predict", "rating", "photo.jpg", "a red square", "--model", "rating", "--json"]
    assert 0 <= json.loads(output_of(capsys, *asked))["answer"] <= 1
    assert "rating" in output_of(capsys, "eval", code=2) and "rating" in output_of(capsys, "predict", code=2)
    forget_loaded_files(monkeypatch)  # a recorded run needs no file of an installed package
    output_of(capsys, "train", "--from", "rating/run.json", "--out", "again")
    assert Path("again/run.json").read_text() == Path("rating/run.json").read_text()
    assert load_model("again").model.config.heads == ("rating",)
