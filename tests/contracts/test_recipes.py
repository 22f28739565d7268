"""Every recipe, by its file: it returns a whole run, which can be written, read back and built."""

from __future__ import annotations

import importlib.util
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_photos
from xvlm.lookup import find, names
from xvlm.run import Run, from_json, to_json
from xvlm.train.start import read_run

RECIPES = names("recipes")


def run_of(name: str, **arguments: Any) -> Any:
    return find("recipes", name).recipe(**arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_returns_a_whole_run(name: str, tmp_path: Path) -> None:
    run = run_of(name)
    assert isinstance(run, Run) and run.recipe == name
    kind = find("tasks", run.task).RUN
    assert type(run) is kind
    written = json.dumps(to_json(run))
    assert from_json(kind, json.loads(written)) == run
    (tmp_path / "run.json").write_text(written)
    assert read_run(tmp_path / "run.json") == run


@pytest.mark.parametrize("name", RECIPES)
def test_says_what_it_is_and_what_it_takes(name: str) -> None:
    module = find("recipes", name)
    assert (inspect.getdoc(module) or "").splitlines()[0].endswith(".")
    doc = inspect.getdoc(module.recipe) or ""
    for argument, parameter in inspect.signature(module.recipe, eval_str=True).parameters.items():
        assert f"{argument}: " in doc
        assert parameter.default is not inspect.Parameter.empty, "a recipe runs without arguments"
        assert parameter.annotation in (int, float, str), "given as text on the command line"


def needs(run: Any) -> list[str]:
    """Python packages with weights that a run asks for."""
    asked = (run.init.vision, run.init.text, run.init.tokenizer)
    return [spec.removeprefix("python:") for spec in asked if spec.startswith("python:")]


@pytest.mark.parametrize("name", RECIPES)
def test_builds(name: str, tmp_path: Path) -> None:
    """On a few photographs where it asks for a folder of them; not without the weights it needs."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    arguments = {}
    if "root" in parameters:
        write_photos(tmp_path / "photos", 4).rename(tmp_path / "photos" / "train.jsonl")
        arguments = {"root": str(tmp_path / "photos")}
    run = run_of(name, **arguments)
    absent = [package for package in needs(run) if importlib.util.find_spec(package) is None]
    if absent:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    built = find("tasks", run.task).build(run, tmp_path / "out")
    assert sum(p.numel() for p in built.loaded.model.parameters()) > 1e5
    if built.stem is None:
        assert len(built.feed[0].batches) == run.accumulate
    weighted = set(built.task.loss_weights())
    assert weighted
