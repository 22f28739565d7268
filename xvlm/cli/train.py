"""`xvlm train`: trains a recipe, a task or a recorded run."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag, Option, option, parse_options, summary
from xvlm.common.errors import InputError
from xvlm.common.ranges import NonNegativeFloat, from_text
from xvlm.registry import find, load_file, names


def command(words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RECIPE ...")]] = ()) -> None:
    """Train: xvlm train RECIPE [name=value ...] [--FIELD VALUE ...]; RECIPE may be a Python file.

    Args:
        words: a recipe and its arguments as name=value, or `task=TASK` (a name or a Python file), or
            `--from run.json`; then fields of the run by their dotted names, which `xvlm train RECIPE --help`
            lists.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse a recipe, its arguments and the fields of the run, and return the call."""
    run, source, rest = start_of(list(words))
    prog = f"xvlm train {source}"
    values = parse_options(training_options(run), rest, prog, summary(command))
    asks_precision = any(word.split("=")[0] == "--precision" for word in rest)
    return partial(train_run, values, asks_precision)


def start_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """Return the run that the first words name, those words, and the remaining ones."""
    from xvlm.recipes.common.faithful import as_published
    from xvlm.tasks.common.task import find_task
    from xvlm.training.train import read_run

    options = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if words[:1] == ["--from"] and len(words) > 1:
        options = next((i for i, word in enumerate(words[2:], 2) if word.startswith("-")), len(words))
        for word in words[2:options]:
            if not word.startswith("task="):
                raise InputError(f"{word} follows --from; only task=FILE.py may, whose code is loaded")
            load_file(word.removeprefix("task="))
        return read_run(Path(words[1])), "--from run.json", words[options:]
    first, rest = words[:options], words[options:]
    if not first:
        raise InputError(
            f"xvlm train needs a recipe first ({', '.join(names('recipes'))}), task=TASK, or "
            "--from run.json; `xvlm train RECIPE --help` lists every field"
        )
    if first[0].startswith("task=") and len(first) == 1:
        name = first[0].removeprefix("task=")
        return find_task(name).run(task=name), first[0], rest
    recipe, *arguments = first
    run = call_recipe(recipe, split_arguments(arguments))
    if recipe.endswith(".py") or not run.recipe:
        run = dataclasses.replace(run, recipe=recipe)
    if "--faithful" in rest:
        run = as_published(run)
    return run, recipe, rest


def split_arguments(words: Sequence[str]) -> dict[str, str]:
    """Split words of the form name=value.  Raises InputError for any other."""
    for word in words:
        if "=" not in word:
            raise InputError(f"{word!r} is no argument; arguments have the form name=value")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def call_recipe(name: str, arguments: dict[str, str]) -> Any:
    """Return the run of a recipe.

    Args:
        arguments: arguments of the recipe's function, as text.
    Raises:
        InputError: the recipe has no such argument, or its value is of another type or out of its range.
    """
    function = getattr(find("recipes", name), "recipe", None)
    if not callable(function):
        raise InputError(f"{name} defines no recipe: it must hold a function recipe(...) that returns a run")
    parameters = inspect.signature(function, eval_str=True).parameters
    for word in arguments:
        if word not in parameters:
            raise InputError(
                f"recipe {name} has no argument {word}; it has {', '.join(parameters) or 'none'}"
            )
    return function(
        **{word: from_text(parameters[word].annotation, value, word) for word, value in arguments.items()}
    )


def training_options(run: Any) -> Any:
    """Return a dataclass of the fields of a run, under their own names, and of how it is trained."""
    fields: list[Option] = [
        option("out", Path | None, "folder of the run; by default runs/RECIPE", default=None),
        option("resume", Flag, "continue the run in this folder", default=False),
        option(
            "minutes", NonNegativeFloat | None, "stop, saved, after this time over all sessions", default=None
        ),
        ("run", Annotated[type(run), tyro.conf.arg(name="")], dataclasses.field(default=run)),
    ]
    return dataclasses.make_dataclass("TrainingOptions", fields)


def train_run(values: dict[str, Any], new_precision: bool) -> None:
    """Train the parsed run."""
    from xvlm.training.train import log_on_main, train

    run = values["run"]
    name = Path(run.recipe or run.task)
    out = values["out"] or Path("runs") / (name.stem if name.suffix == ".py" else name)
    train(run, out, resume=values["resume"], minutes=values["minutes"], new_precision=new_precision)
    log_on_main(f"model: {out / 'model'}")
