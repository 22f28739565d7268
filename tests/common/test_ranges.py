"""A number out of its range is an error before any file is opened: in a run, an option or a recipe.

The wrong values are derived from the declared ranges, so that new fields, options and arguments are tested
too.  One without a range fails.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest

from tests.tiny import with_sources
from xvlm.cli import bench, data, main, prepare
from xvlm.cli import eval as eval_command
from xvlm.cli.common.options import PredictOptions
from xvlm.cli.predict import inputs_of
from xvlm.cli.train import call_recipe, training_options
from xvlm.common.errors import InputError
from xvlm.common.json_file import to_json
from xvlm.common.ranges import (
    Ascending,
    Range,
    check_options,
    check_value,
    checked,
    from_text,
    type_hints,
    validate,
)
from xvlm.config import from_json
from xvlm.models.generation.config import GenerationConfig
from xvlm.registry import find, names
from xvlm.tasks.common.task import find_task, measure_of, measured_tasks, predicting_tasks
from xvlm.tasks.pretrain import PretrainRun

HUGE = 10**30
TASKS = names("tasks")


def numbers_in(hint: Any, name: str, ranges: tuple[Range, ...] = ()) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type (int or float) and ranges of every number in a type; a tuple's number ends in `.0`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        own = tuple(one for one in arguments[1:] if isinstance(one, Range))
        yield from numbers_in(arguments[0], name, ranges + own)
    elif origin in (typing.Union, types.UnionType):
        for kind in arguments:
            yield from numbers_in(kind, name)
    elif origin is not None and origin is not typing.Literal:
        for kind in arguments[:1]:
            yield from numbers_in(kind, f"{name}.0")
    elif dataclasses.is_dataclass(hint):
        for field, kind in type_hints(hint).items():
            yield from numbers_in(kind, f"{name}.{field}" if name else field)
    elif hint in (int, float):
        yield name, hint, ranges


def options_of_commands() -> dict[str, dict[str, Any]]:
    """Return the types of the arguments of each command, evaluation, prediction, benchmark and recipe."""
    hints = {name: type_hints(find("cli", name).command) for name in names("cli")}
    hints["train RECIPE"] = type_hints(training_options(PretrainRun()))
    for name in measured_tasks():
        hints[f"eval {name}"] = type_hints(eval_command.options_of(measure_of(name).evaluate))
    for name in names("bench"):
        hints[f"bench {name}"] = type_hints(bench.options_of(find("bench", name).bench))
    for name in predicting_tasks():
        inputs = {input_name: hint for input_name, hint, _ in inputs_of(find_task(name).predict)}
        hints[f"predict {name}"] = inputs | {"options": PredictOptions}
    hints["data look"] = type_hints(data.look)
    for name, function in {**prepare.OTHERS, "coco": prepare.release_command("coco")}.items():
        hints[f"prepare {name}"] = type_hints(function)
    for name in names("recipes"):
        hints[f"train {name}"] = type_hints(find("recipes", name).recipe)
    return hints


OPTIONS = options_of_commands()


@pytest.mark.parametrize("name", TASKS)
def test_every_number_of_a_run_has_a_range(name: str) -> None:
    numbers = list(numbers_in(find_task(name).run, ""))
    assert len(numbers) > 40
    assert [number for number, _, ranges in numbers if len(ranges) != 1] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_every_number_of_a_command_has_a_range(name: str) -> None:
    wrong = [
        number
        for option, hint in OPTIONS[name].items()
        if option not in ("return", "run")
        for number, _, ranges in numbers_in(hint, option)
        if len(ranges) != 1
    ]
    assert wrong == []


def wrong_values(kind: type, bounds: Range) -> list[Any]:
    """Return values just outside each bound, and values that no number may have."""
    step = 1 if kind is int else 1e-3
    out: list[Any] = [HUGE, -HUGE] if kind is int else [math.nan, math.inf, -math.inf, 1e39]
    out += [bounds.ge - step] if bounds.ge is not None else []
    out += [bounds.le + step] if bounds.le is not None else []
    out += [bound for bound in (bounds.gt, bounds.lt) if bound is not None]
    return [kind(one) for one in out]


def right_values(kind: type, bounds: Range) -> list[Any]:
    """Return each bound that is allowed, and a value just inside each that is not."""
    out = [bound for bound in (bounds.ge, bounds.le) if bound is not None]
    out += [bounds.gt + 1e-3] if bounds.gt is not None else []
    out += [bounds.lt - 1e-3] if bounds.lt is not None else []
    return [kind(one) for one in out or [-7, 7]]


def with_value(tree: Any, path: list[str], value: Any) -> Any:
    """Return a dataclass or tuple with one value replaced."""
    if not path:
        return value
    first, *rest = path
    if isinstance(tree, tuple):
        at = int(first)
        return (*tree[:at], with_value(tree[at], rest, value), *tree[at + 1 :])
    return dataclasses.replace(tree, **{first: with_value(getattr(tree, first), rest, value)})


@pytest.mark.parametrize("name", TASKS)
def test_a_run_with_a_number_out_of_its_range_is_an_error(name: str) -> None:
    """The error names the field and the allowed values, for a run from Python and from JSON."""
    kind = find_task(name).run
    run = with_sources(kind())
    validate(run)
    data = to_json(run)
    for field, number, (bounds,) in numbers_in(kind, ""):
        for value in wrong_values(number, bounds):
            with pytest.raises(InputError) as caught:
                validate(with_value(run, field.split("."), value))
            assert str(caught.value).startswith(f"{field} is {value}; it must be "), caught.value
        inner: Any = json.loads(json.dumps(data))
        top = inner
        *path, last = field.split(".")
        for step in path:
            inner = inner[int(step) if isinstance(inner, list) else step]
        inner[int(last) if isinstance(inner, list) else last] = wrong_values(number, bounds)[-1]
        with pytest.raises(InputError, match=f"^{field} is .*; it must be "):
            from_json(kind, top)


@pytest.mark.parametrize("name", TASKS)
def test_values_in_a_range_are_allowed(name: str) -> None:
    for field, number, (bounds,) in numbers_in(find_task(name).run, ""):
        for value in right_values(number, bounds):
            bounds.check(field, value)


@pytest.mark.parametrize("name", names("recipes"))
def test_every_recipe_is_within_all_ranges(name: str) -> None:
    validate(find("recipes", name).recipe())


REQUIRED = {
    "eval": ["--model", "none", "--data", "none.json", "--out", "none"],
    "layers": ["--model", "none", "--data", "none.json", "--out", "none"],
    "predict captioning": ["none.jpg", "--model", "none"],
    "predict entailment": ["none.jpg", "a dog", "--model", "none"],
    "predict multilabel": ["none.jpg", "a dog", "--model", "none"],
    "predict detection": ["none.jpg", "a dog", "--model", "none"],
    "predict grounding": ["none.jpg", "a dog", "--model", "none"],
    "predict nlvr2": ["none.jpg", "none.jpg", "two dogs", "--model", "none"],
    "predict self_critical": ["none.jpg", "--model", "none"],
    "predict vqa": ["none.jpg", "a dog?", "--model", "none"],
    "prepare coco": ["none", "--out", "none"],
    "prepare import": ["none", "--out", "none"],
    "prepare leaks": ["none"],
    "prepare mix": ["none"],
    "data": ["none"],
    "annotate": ["none", "--phrases", "a dog"],
    "calibrate": ["--model", "none", "--data", "none.json"],
    "find": ["none.jpg", "a dog"],
    "search": ["none", "a dog"],
    "weights": ["--model", "none", "--data", "none.json"],
    "photos": ["none"],
    "convert": ["none.th", "none"],
    "average": ["none", "nothing", "--out", "none"],
    "caption": ["none.jpg"],
    "ground": ["none.jpg", "a dog"],
    "match": ["none.jpg", "a dog"],
    "ask": ["none.jpg", "a dog?"],
    "compare": ["none.jpg", "none.jpg", "two dogs"],
}
"""Required arguments of commands.  The files do not exist, so that opening one would be another error."""


def wrong_command_lines() -> Iterator[tuple[str, list[str], str]]:
    """Yield option, command line and message for every number among the options of every command."""
    for command, hints in OPTIONS.items():
        words = command.split()
        if words[0] == "train":
            continue
        for option, hint in hints.items():
            prefix = "" if dataclasses.is_dataclass(hint) else option
            if get_origin(hint) is Annotated and dataclasses.is_dataclass(get_args(hint)[0]):
                prefix = ""  # its fields are options of their own
            for name, kind, (bounds,) in numbers_in(hint, prefix):
                value = wrong_values(kind, bounds)[-1]
                flag = f"--{name.removesuffix('.0').replace('_', '-')}"
                others = {"weights.0": ["1"], "box.0": ["1", "1", "1"], "near.0": ["1", "1"]}.get(name, [])
                arguments = [flag, f"{value}", *others]
                required = REQUIRED.get(command) or REQUIRED.get(words[0], [])
                line = [*words, *required, *arguments]
                yield name, line, f"xvlm: {name} is {value}; it must be "


@pytest.mark.parametrize(("option", "words", "message"), list(wrong_command_lines()))
def test_an_option_out_of_its_range_is_an_error(
    option: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.steps", "0"], "optim.steps is 0; it must be at least 1"),
        (["--optim.lr", "nan"], "optim.lr is nan; it must be finite in float32 and at least 0"),
        (["--optim.betas", "0.9", "1"], "optim.betas.1 is 1.0; it must be at least 0 and below 1"),
        (["--model.text.dropout", "2"], "model.text.dropout is 2.0; it must be at least 0 and below 1"),
        (
            ["--data.crop_scale", "0.9", "0.2"],
            "data.crop_scale is (0.9, 0.2); the smaller value must come first",
        ),
        (["--minutes", "nan"], "minutes is nan; it must be finite in float32 and at least 0"),
        (["--max-bad", "-1"], "max_bad is -1.0; it must be at least 0 and at most 1"),
        (
            ["--accumulation-steps", "3"],
            "data.pairs_batch_size is 16; it must be a multiple of 1 ranks x 3 micro-batches",
        ),
        (["--best-metric", "r_mean"], "best_metric is 'r_mean', but nothing is measured"),
    ],
)
def test_an_impossible_run_is_an_error_before_its_folder_exists(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "demo", *words]) == 2
    assert capsys.readouterr().err.startswith(f"xvlm: {message}")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_run_is_an_error_before_its_validation_data_are_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--optim.steps", "-1", "--validation.grounding", str(tmp_path / "none.json")]
    assert main(["train", "demo", *words]) == 2
    assert "optim.steps is -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("demo", {"scenes": "0"}, "scenes is 0; it must be at least 1"),
        ("demo", {"scenes": "abc"}, "scenes is 'abc'; it must be a whole number"),
        ("demo", {"scenes": "1.5"}, "scenes is '1.5'; it must be a whole number"),
        ("demo", {"scenes": ""}, "scenes is ''; it must be a whole number"),
        ("scenes/vqa", {"steps": "-1"}, "steps is -1; it must be at least 1"),
        ("photos/grounding", {"steps": "nan"}, "steps is 'nan'; it must be a whole number"),
        ("demo", {"scenes": str(HUGE)}, "of at most 64 bits"),
    ],
)
def test_arguments_of_recipes(recipe: str, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        call_recipe(recipe, arguments)


def test_arguments_of_recipes_are_used() -> None:
    assert call_recipe("demo", {"scenes": "12"}).data.pairs[0].path == "scenes:train:12"
    assert from_text(float, "0.5", "x") == 0.5 and from_text(str, "5", "x") == "5"
    with pytest.raises(InputError, match="x is 'a'; it must be a number"):
        from_text(float, "a", "x")


@pytest.mark.parametrize(
    ("bounds", "value", "message"),
    [
        (Range(ge=1), 0, "x is 0; it must be at least 1"),
        (Range(gt=0, le=1), 0.0, "x is 0.0; it must be above 0 and at most 1"),
        (Range(ge=0, lt=1), 1, "x is 1; it must be at least 0 and below 1"),
        (Range(le=2**32 - 1), 2**32, "x is 4294967296; it must be at most 4294967295"),
        (Range(), math.nan, "x is nan; it must be finite in float32"),
        (Range(), 2**63, f"x is {2**63}; it must be of at most 64 bits"),
        (Range(ge=0), np.int64(-1), "x is -1; it must be at least 0"),
        (Range(ge=0), np.float32("nan"), "x is nan; it must be finite in float32 and at least 0"),
        (Ascending(), (2, 1), r"x is (2, 1); the smaller value must come first"),
    ],
)
def test_messages(bounds: Range | Ascending, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        bounds.check("x", value)
    assert str(caught.value) == message


def test_only_numbers_have_a_range() -> None:
    check_value(Annotated[int, Range(ge=2)] | str | None, "a", "x")
    check_value(Annotated[int, Range(ge=2)] | None, None, "x")
    check_value(Annotated[bool, Range(ge=2)], True, "x")
    with pytest.raises(InputError, match="x is 1"):
        check_value(Annotated[int, Range(ge=2)] | str | None, 1, "x")


def test_functions_check_their_arguments() -> None:
    def add(a: Annotated[int, Range(ge=1)], b: Annotated[float, Range(lt=1)] = 0.5, *, c: str = "") -> float:
        return a + b

    wrapped: Callable[..., float] = checked(add)
    assert wrapped(1) == 1.5 and inspect.signature(wrapped) == inspect.signature(add)
    with pytest.raises(InputError, match="a is 0"):
        wrapped(0)
    for wrong in (lambda: wrapped(1, 1.0), lambda: wrapped(1, b=1.0)):
        with pytest.raises(InputError, match="b is 1"):
            wrong()


def test_the_fields_of_a_dataclass_are_options() -> None:
    generation = GenerationConfig()
    object.__setattr__(generation, "top_p", 2.0)
    with pytest.raises(InputError, match=r"^top_p is 2"):
        check_options({"generation": GenerationConfig}, {"generation": generation})
