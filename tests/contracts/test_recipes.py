"""Every recipe, by its file: it returns a whole run, which can be written, read back and built."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from tests import published_data
from tests.tiny import tiny_config, tiny_loaded, write_photos
from xvlm.lookup import find, names
from xvlm.model.folder import save_model
from xvlm.model.xvlm import ModelConfig
from xvlm.run import Run, from_json, to_json
from xvlm.tasks._build import Init
from xvlm.tasks._dev import DevConfig, FinetuneDev
from xvlm.train.start import read_run, train

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
        kind = parameter.annotation
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        assert kind in (int, float, str), "given as text on the command line"


def needs(run: Any) -> list[str]:
    """Python packages with weights that a run asks for."""
    asked = (run.init.vision, run.init.text, run.init.tokenizer)
    return [spec.removeprefix("python:") for spec in asked if spec.startswith("python:")]


def defaults(name: str) -> list[str]:
    return [str(one.default) for one in inspect.signature(find("recipes", name).recipe).parameters.values()]


OWN = [
    name for name in RECIPES if not any(default.startswith(("data/", "runs/")) for default in defaults(name))
]
"""Recipes that begin with nothing but public towers: their data are drawn or your own."""


@pytest.mark.parametrize("name", OWN)
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


def small(run: Any, model: ModelConfig, folder: Path) -> Any:
    """The same run on a tiny model, in two short steps."""
    data = run.data
    sizes = (
        {"batch": 4} if hasattr(data, "batch") else {"pairs_batch": 4, "regions_batch": 4, "region_rows": 6}
    )
    if run.init.model:
        size = 96 if run.init.image_size else 0
        run = replace(run, init=Init(model=str(folder), image_size=size))
        sizes |= {"stem_views": 0} if hasattr(data, "stem_views") else {}  # tiny models have no stem
    elif getattr(data, "stem_views", 0):
        sizes |= {"stem_views": 2}
    elif not needs(run):
        run = replace(run, init=Init(vocab_size=150, corpus=20), model=replace(model, parts=run.model.parts))
    return replace(
        run,
        data=replace(data, **sizes),
        optim=replace(run.optim, steps=2, epochs=0.0, warmup=1, warmup_share=0.0),
        workers=0,
        save_every=0,
    )


def asked_of(run: Any, root: Path) -> Any:
    """What a run is measured by, where its recipe leaves it open."""
    finetune, images = root / "finetune", str(root / "images")
    if run.task == "vqa":
        return FinetuneDev(str(finetune / "vqa_val.json"), images, answers=str(finetune / "answer_list.json"))
    if run.task == "nlvr2":
        return FinetuneDev(str(finetune / "nlvr_dev.json"), images)
    if run.task == "captioning":
        return FinetuneDev(str(finetune / "coco_karpathy" / "coco_karpathy_val.json"), images)
    grounding = str(finetune / "refcoco+_val.json")
    retrieval = "" if run.task == "grounding" else str(finetune / "coco_val.json")
    return DevConfig(retrieval, grounding, images)


@pytest.fixture(scope="module")
def published_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    published_data.write_all(root)
    published_data.write_own(root)
    save_model(tiny_loaded("swin"), root / "pretrained")
    return root


def arguments_of(name: str, root: Path) -> dict[str, Any]:
    """Where a recipe finds the toy files of its kind."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    given: dict[str, Any] = {}
    for argument in parameters.keys() & {"root", "images"}:
        default = Path(parameters[argument].default)
        given[argument] = str(
            root / default.relative_to("data") if default.parts[0] == "data" else root / default
        )
    if "scenes" in parameters:
        given["scenes"] = 8
    return given


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps_and_is_measured(
    name: str, faithful: bool, published_files: Path, tmp_path: Path
) -> None:
    """On files in the formats that the recipe names, with a tiny model in place of its own."""
    run = run_of(name, **arguments_of(name, published_files))
    if absent := [package for package in needs(run) if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    run = replace(
        small(run, tiny_config("swin", (64, 64)), published_files / "pretrained"), faithful=faithful
    )
    task = find("tasks", run.task)
    measure = task.evaluation(run)
    if measure is None and run.task != "assignment":
        measure = task.evaluation(replace(run, dev=asked_of(run, published_files)))
    _, state = train(run, tmp_path / "out", evaluate=measure)
    assert state.step == 2 and (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert state.bad["counts"] == {}
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in log if "loss" in row)
    names = {name for row in log for name in row}
    assert {"lr_large"} <= names if faithful else not {name for name in names if name.startswith("loss_")}
    if faithful and name in ("base_4m", "base_16m"):
        # where a log of the published code has these quantities; regions only before the second step
        assert {"loss_itc", "loss_itm", "loss_mlm", "loss_bbox", "loss_giou", "lr", "lr_large"} <= names
        assert [("loss_bbox" in row) for row in log if "loss" in row] == [False, True]
    measured = [row for row in log if row.get("event") == "eval"]
    assert len(measured) == (measure is not None)
    assert all(len(row) > 3 for row in measured), measured
