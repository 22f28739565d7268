"""Every name of the version before this one leads to a name that exists, and is still read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from tests.tiny import tiny_loaded, tiny_run, write_photos
from xvlm.cli import main, parse
from xvlm.cli.eval import options_of
from xvlm.common.errors import InputError
from xvlm.common.json_file import to_json, write_json
from xvlm.common.ranges import type_hints
from xvlm.common.renames import (
    FIELDS,
    HEADS,
    OPTIONS,
    RECIPES,
    TASKS,
    renamed_model,
    renamed_run,
    renamed_words,
)
from xvlm.config import from_json
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.xvlm import HEADS as MODEL_HEADS
from xvlm.registry import find, names
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task, measure_of, measured_tasks
from xvlm.training.run_folder import read_run


def fields_of(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields of a dataclass; those of sources as `data.*.path`."""
    for name, hint in type_hints(kind).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            yield from fields_of(hint, f"{prefix}{name}.")
        elif get_origin(hint) is tuple and dataclasses.is_dataclass(get_args(hint)[0]):
            yield from fields_of(get_args(hint)[0], f"{prefix}*.")


RUN_FIELDS = {task: set(fields_of(find_task(task).run)) for task in names("tasks")}
ALL_FIELDS = set().union(*RUN_FIELDS.values())
EVAL_OPTIONS = {
    task: {field.name for field in dataclasses.fields(options_of(measure_of(task).evaluate))}
    for task in measured_tasks()
}


def test_old_fields_lead_to_fields_that_exist() -> None:
    assert set(FIELDS.values()) <= ALL_FIELDS
    assert not FIELDS.keys() & ALL_FIELDS, "a name that is used again cannot be an old one"


def test_old_options_lead_to_options_that_exist() -> None:
    options = set().union(*EVAL_OPTIONS.values(), {one.name for one in dataclasses.fields(GenerationConfig)})
    known = {name.replace("_", "-") for name in options}
    assert set(OPTIONS.values()) <= known and not OPTIONS.keys() & known


def test_old_recipes_tasks_and_heads_lead_to_those_that_exist() -> None:
    newer = {"grefcoco", "photos/detection", "scenes/detection"}
    assert {*RECIPES.values(), "demo", *newer} == set(names("recipes"))
    assert not RECIPES.keys() & set(names("recipes"))
    assert set(TASKS.values()) <= set(names("tasks")) and not TASKS.keys() & set(names("tasks"))
    assert set(HEADS.values()) <= MODEL_HEADS.keys() and not HEADS.keys() & MODEL_HEADS.keys()


# Files.

OLD_FIELDS = {new: old for old, new in FIELDS.items()}
OLD_HEADS = {new: old for old, new in HEADS.items()}
OLD_RECIPES = {new: old for old, new in RECIPES.items()}
OLD_TASKS = {new: old for old, new in TASKS.items()}


def with_old_names(tree: Any, prefix: str = "") -> Any:
    """Return the JSON of a run with the old names of its fields."""
    if isinstance(tree, list):
        return [with_old_names(one, "data.*.") for one in tree]
    if not isinstance(tree, dict):
        return tree
    old = {name: OLD_FIELDS.get(f"{prefix}{name}", name).rpartition(".")[2] for name in tree}
    return {old[name]: with_old_names(value, f"{prefix}{name}.") for name, value in tree.items()}


def old_run(run: Any) -> Any:
    """Return the JSON of a run as the version before wrote it."""
    old = with_old_names(json.loads(json.dumps(to_json(run))))
    old["model"]["parts"] = [OLD_HEADS.get(name, name) for name in old["model"]["parts"]]
    old["task"] = OLD_TASKS.get(run.task, run.task)
    old["recipe"] = OLD_RECIPES.get(run.recipe, run.recipe)
    return old


@pytest.mark.parametrize("recipe", names("recipes"))
def test_an_old_run_is_read_as_the_same_run(recipe: str, tmp_path: Path) -> None:
    run = find("recipes", recipe).recipe()
    old = old_run(run)
    assert old.keys() >= {"accumulate", "keep_best", "dev"} and {"clip", "warmup"} <= old["optim"].keys()
    assert from_json(type(run), renamed_run(old)) == run
    write_json(tmp_path / "run.json", old)
    assert read_run(tmp_path / "run.json") == run


def test_the_source_of_an_old_run() -> None:
    old = {"data": {"pairs": [{"path": "a.json", "cache": True}]}}
    assert renamed_run(old) == {"data": {"pairs": [{"path": "a.json", "cache_in_memory": True}]}}


def test_fields_of_an_old_run_that_had_no_effect_are_left_out(tmp_path: Path) -> None:
    """They are errors today, but the version before wrote and trained such runs."""
    run = find_task("pretrain").run()
    pairs = (SourceConfig("a.json"),)
    for changes in (
        {"data": {"region_texts_per_batch": 1024, "max_regions": 9, "cached_crop_scale": (0.1, 1.0)}},
        {"data": {"random_crop": False, "crop_scale": (0.1, 0.3)}},
        {"losses": {"itm": 0.0, "global_negatives": True}},
        {"validation": {"rerank_top_k": 5, "detections": "boxes.json"}, "eval_every": 7},
        {"init": {"model": "m", "vocab_size": 90}, "model": {"embed_dim": 99, "labels": ("a",)}},
        {"init": {"text": "bert", "tokenizer": "t"}},
        {"init": {"image_size": 96, "evenly_spaced_layers": True}},
    ):
        changed = replace(run, data=replace(run.data, pairs=pairs))
        for name, change in changes.items():
            section = getattr(changed, name)
            value = replace(section, **change) if isinstance(change, dict) else change
            changed = replace(changed, **{name: value})
        write_json(tmp_path / "new.json", changed)
        with pytest.raises(InputError, match=r"has no effect|needs"):
            read_run(tmp_path / "new.json")
        write_json(tmp_path / "old.json", old_run(changed))
        read: Any = read_run(tmp_path / "old.json")
        assert read.data.pairs == pairs and read.init.model == changed.init.model


@pytest.mark.parametrize("junk", [None, 3, "x", [], [[1]], {}, {"a": [{}]}])
def test_old_runs_with_other_types_are_refused_or_read(junk: Any, tmp_path: Path) -> None:
    for section in ("init", "data", "losses", "model", "dev", "optim"):
        tree = {"model": {"parts": ["box"]}, section: junk}
        if section == "model":
            tree = {"model": {"parts": junk, "vision": junk, "text": junk}}
        write_json(tmp_path / "run.json", tree)
        try:
            read_run(tmp_path / "run.json")
        except InputError as error:
            assert str(error).startswith(f"{tmp_path}/run.json: ")


def test_options_of_the_vision_encoder_are_not_renamed() -> None:
    """They are timm's arguments, which may have any names."""
    options = {"cache": True, "freeze_norm": 3}
    assert renamed_model({"vision": {"options": options}})["vision"]["options"] == options


def test_names_of_today_are_not_changed() -> None:
    for task in names("tasks"):
        run = json.loads(json.dumps(to_json(find_task(task).run())))
        assert renamed_run(run) == run
    for words in (
        ["train", "photos/vqa", "--num-samples=3", "--optim.warmup-steps", "7", "--validation.data", "x"],
        ["train", "--from", "photos", "task=assignment.py", "--data.train.0.no-cache-in-memory"],
        ["ask", "photos", "vqa"],
        ["bench", "data", "--batch", "4"],
        ["eval", "vqa", "--answers", "top"],
        [],
    ):
        assert renamed_words(words) == words


# Command lines.


@pytest.mark.parametrize("old", FIELDS)
def test_an_old_option_of_train(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In all its spellings: `--a.b_c`, `--a.b-c`, `--a.no-b-c`, `--a.b-c=1`."""
    section, dot, name = FIELDS[old].replace("*", "pairs.0").rpartition(".")
    option = f"--{section}{dot}{name}".replace("_", "-")
    negated = f"--{section}{dot}no-{name}".replace("_", "-")
    section, dot, name = old.replace("*", "pairs.0").rpartition(".")
    for before, after in (
        (f"--{section}{dot}{name}", option),
        (f"--{section}{dot}{name}".replace("_", "-"), option),
        (f"--{section}{dot}no-{name}".replace("_", "-"), negated),
        (f"--{section}{dot}{name}=a_b", f"{option}=a_b"),
    ):
        assert renamed_words(["train", "demo", before, "x"]) == ["train", "demo", after, "x"]
        notice = f"{before} is now called {after}; the next version will not know the old name\n"
        assert capsys.readouterr().err == notice


@pytest.mark.parametrize("field", ["data", "image_root", "limit", "answers", "retrieval", "rerank"])
def test_old_options_of_validation(field: str) -> None:
    old, new = f"--dev.{field}".replace("_", "-"), f"--validation.{field}".replace("_", "-")
    assert renamed_words(["train", "demo", old]) == ["train", "demo", new]


def value_of(tree: Any, field: str) -> Any:
    for part in field.split("."):
        tree = getattr(tree, part)
    return tree


def other_value(value: Any) -> Any:
    """Return a value of the same type."""
    if isinstance(value, tuple):
        return tuple(map(other_value, value))
    if isinstance(value, bool):
        return not value
    return "other" if isinstance(value, str) else value + 1 if isinstance(value, int) else value / 2 + 0.125


def parsed_run(*words: str) -> Any:
    """Return the run that `xvlm train` would train."""
    call: Any = parse(renamed_words(["train", *words]))
    return call.args[0]["run"]


@pytest.mark.parametrize("old", [old for old in FIELDS if old not in ("dev", "data.*.cache")])
def test_an_old_option_of_train_sets_the_field(
    old: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = next(task for task in names("tasks") if FIELDS[old] in RUN_FIELDS[task])
    value = other_value(value_of(find_task(task).run(), FIELDS[old]))
    words = [f"--{old}", *(str(one) for one in (value if isinstance(value, tuple) else (value,)))]
    if isinstance(value, bool):
        section, dot, name = old.rpartition(".")
        words = [f"--{section}{dot}{'' if value else 'no-'}{name}"]
    monkeypatch.setattr("xvlm.cli.common.options.check_options", lambda hints, values: None)
    assert value_of(parsed_run(f"task={task}", *words), FIELDS[old]) == value
    assert f"{words[0]} is now called --" in capsys.readouterr().err


@pytest.mark.parametrize("cached", [False, True])
def test_an_old_option_of_a_source_sets_its_field(cached: bool, tmp_path: Path) -> None:
    run = find_task("vqa").run()
    train = (SourceConfig("a.json", cache_in_memory=not cached),)
    write_json(tmp_path / "run.json", replace(run, data=replace(run.data, train=train)))
    option = "--data.train.0.cache" if cached else "--data.train.0.no-cache"
    assert parsed_run("--from", str(tmp_path / "run.json"), option).data.train[0].cache_in_memory is cached


@pytest.mark.parametrize("old", RECIPES)
def test_an_old_recipe(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed_run(old).recipe == RECIPES[old]
    assert capsys.readouterr().err.startswith(f"{old} is now called {RECIPES[old]}; ")
    assert renamed_words(["train", old.replace("_", "-")]) == ["train", RECIPES[old]]


@pytest.mark.parametrize("old", TASKS)
def test_an_old_task(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed_run(f"task={old}").task == TASKS[old]
    assert f"task={old} is now called task={TASKS[old]}; " in capsys.readouterr().err


OLD_EVAL_OPTIONS = [
    (task, old)
    for task, options in EVAL_OPTIONS.items()
    for old, new in OPTIONS.items()
    if new.replace("-", "_") in options
]


@pytest.mark.parametrize(("task", "old"), OLD_EVAL_OPTIONS)
def test_an_old_option_of_eval(task: str, old: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", task, "--model", "m", "--data", "d", "--out", "o", f"--{old}", "7"]
    call: Any = parse(renamed_words(words))
    assert call.args[2][OPTIONS[old].replace("-", "_")] == 7
    assert f"--{old} is now called --{OPTIONS[old]}; " in capsys.readouterr().err


@pytest.mark.parametrize("old", ["beams", "samples"])
def test_an_old_option_of_caption(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    call: Any = parse(renamed_words(["caption", "a.jpg", f"--{old}", "7"]))
    assert getattr(call.keywords["generation"], OPTIONS[old].replace("-", "_")) == 7
    assert f"--{old} is now called --{OPTIONS[old]}; " in capsys.readouterr().err


def test_old_words_evaluate_and_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tiny_loaded("cnn"), tmp_path / "model")
    data = write_photos(tmp_path / "photos", 3)
    words = ["--model", tmp_path / "model", "--data", data, "--out", tmp_path / "results"]
    assert main(["eval", "retrieval", *map(str, words), "--top", "2", "--memory=0.5"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["retrieval_texts"] == 6
    assert "--top is now called --rerank-top-k" in shown.err and "--memory=0.5 is now called" in shown.err
    write_json(tmp_path / "run.json", tiny_run("vit", steps=1))
    words = ["--from", tmp_path / "run.json", "--out", tmp_path / "out", "--accumulate", 2]
    assert main(["train", *map(str, words), "--data.no-flip"]) == 0
    shown = capsys.readouterr()
    run: Any = read_run(tmp_path / "out" / "run.json")
    assert run.accumulation_steps == 2 and not run.data.random_flip
    assert "--data.no-flip is now called --data.no-random-flip" in shown.err
