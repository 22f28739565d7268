"""`--help` of every command exits with code 0, names the positional arguments and explains all arguments."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from xvlm.cli import main
from xvlm.cli.common.options import PredictOptions, argument_help
from xvlm.cli.train import call_recipe, training_options
from xvlm.common.ranges import type_hints
from xvlm.data.sources.record_fields import FieldNames
from xvlm.models.generation.config import GenerationConfig
from xvlm.registry import find, names
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task, measure_of, measured_tasks, predicting_tasks

POSITIONALS = {
    "ablate": "",
    "annotate": "PHOTOS [PHOTOS ...]",
    "app": "",
    "ask": "IMAGE QUESTION",
    "average": "MODEL [MODEL ...]",
    "bench": "BENCHMARK ...",
    "calibrate": "",
    "caption": "IMAGE",
    "card": "MODEL",
    "compare": "LEFT RIGHT STATEMENT",
    "convert": "CHECKPOINT FOLDER",
    "data": "look ...",
    "demo": "",
    "eval": "TASK ...",
    "export": "MODEL",
    "find": "IMAGE PHRASE [PHRASE ...]",
    "ground": "IMAGE PHRASE",
    "index": "[PHOTOS ...]",
    "layers": "",
    "match": "IMAGE TEXT [TEXT ...]",
    "photos": "FOLDER",
    "predict": "TASK ...",
    "prepare": "WHAT ...",
    "push": "MODEL REPO",
    "recipes": "",
    "search": "INDEX [TEXT]",
    "serve": "",
    "space": "REPO",
    "train": "RECIPE ...",
    "weights": "",
}
"""Positional arguments of each command, as its help shows them."""

PREDICTION_INPUTS = {
    "captioning": "IMAGE",
    "entailment": "IMAGE HYPOTHESIS",
    "multilabel": "IMAGE TEXT",
    "detection": "IMAGE PHRASE",
    "grounding": "IMAGE PHRASE",
    "nlvr2": "LEFT RIGHT STATEMENT",
    "self_critical": "IMAGE",
    "vqa": "IMAGE QUESTION",
}
"""Positional arguments of `xvlm predict`, by task."""


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    shown = capsys.readouterr()
    assert stopped.value.code in (0, None) and not shown.err
    return shown.out


def positionals(shown: str) -> str:
    """Return the positional arguments in the usage line of a help."""
    usage = " ".join(shown[: shown.index("\n\n")].split())
    usage = re.sub(r"\[-h\]|\[OPTIONS\]|\[--?[^\[\]]*(\[[^\[\]]*(\[[^\[\]]*\])?\])*\]", "", usage)
    usage = re.sub(r" --[a-z-]+ [A-Z]+", "", usage)
    return " ".join(usage.partition("xvlm ")[2].split()[1:])


@pytest.mark.parametrize("name", names("cli"))
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, name)
    assert positionals(shown) == POSITIONALS[name]
    summary = (inspect.getdoc(find("cli", name).command) or "").splitlines()[0]
    assert " ".join(summary.split()) in " ".join(shown.split())


@pytest.mark.parametrize("name", names("cli"))
def test_every_argument_of_a_command_is_explained(name: str) -> None:
    command = find("cli", name).command
    explained = argument_help(command)
    for argument, hint in type_hints(command).items():
        is_group = dataclasses.is_dataclass(getattr(hint, "__origin__", hint))
        assert argument == "return" or is_group or explained.get(argument), argument


def test_help_of_the_program_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys)
    assert [name for name in names("cli") if not re.search(rf"• {name} +[A-Z]", shown)] == []


@pytest.mark.parametrize(
    "words",
    [
        *(["eval", task] for task in measured_tasks()),
        *(["bench", name] for name in names("bench")),
        *(["train", recipe] for recipe in names("recipes")),
        *(["train", f"task={task}"] for task in names("tasks")),
    ],
    ids="-".join,
)
def test_help_of_names_with_options_of_their_own(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(capsys, *words)
    assert shown.startswith(f"usage: xvlm {' '.join(words)} ") and positionals(shown) == words[1]
    assert ("--out" in shown) == (words[0] != "bench")


@pytest.mark.parametrize("task", predicting_tasks())
def test_help_of_a_prediction(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "predict", task)
    assert positionals(shown) == f"{task} {PREDICTION_INPUTS[task]}"
    summary = (inspect.getdoc(find_task(task).predict) or "").splitlines()[0]
    assert summary in shown


def unexplained(kind: Any, prefix: str = "") -> list[str]:
    """Return the fields of a dataclass, nested ones included, that its docstring does not explain."""
    explained = {name for base in kind.__mro__ for name in argument_help(base)}
    found = []
    for name, hint in type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found += unexplained(hint, f"{prefix}{name}.")
        elif name not in explained:
            found.append(f"{prefix}{name}")
    return found


@pytest.mark.parametrize("task", names("tasks"))
def test_every_field_of_a_run_is_explained(task: str) -> None:
    assert unexplained(find_task(task).run) == []


@pytest.mark.parametrize("kind", [GenerationConfig, PredictOptions, FieldNames, SourceConfig])
def test_every_shared_option_is_explained(kind: type) -> None:
    assert unexplained(kind) == []


@pytest.mark.parametrize(
    "function",
    [
        *(measure_of(task).evaluate for task in measured_tasks()),
        *(find("bench", name).bench for name in names("bench")),
        *(find("recipes", name).recipe for name in names("recipes")),
        *(find_task(task).predict for task in predicting_tasks()),
    ],
    ids=lambda function: f"{function.__module__}.{function.__name__}",
)
def test_every_option_of_a_name_is_explained(function: Callable[..., Any]) -> None:
    parameters = set(inspect.signature(function).parameters) - {"skipped", "predictor", "source"}
    assert {name for name in parameters if not argument_help(function).get(name)} == set()


def test_options_of_training_keep_the_run() -> None:
    run = call_recipe("demo", {})
    fields = {one.name: one.default for one in dataclasses.fields(training_options(run))}
    assert fields == {"out": None, "resume": False, "minutes": None, "run": run}


def test_help_loads_no_pytorch() -> None:
    """It takes half a second instead of three."""
    code = "import sys; from xvlm.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "assert not {'torch', 'timm', 'scipy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
