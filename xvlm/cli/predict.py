"""`xvlm predict`: the prediction of any task, also of a user's own, on images and texts."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import (
    Option,
    Predict,
    PredictOptions,
    argument_help,
    first_word,
    option,
    parse_options,
    summary,
)
from xvlm.cli.common.output import print_answer
from xvlm.common.errors import InputError


def command(words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")]] = ()) -> None:
    """Predict with a task's model: xvlm predict TASK --model M INPUT ...; TASK may be a Python file.

    Args:
        words: a task, then its inputs and options; `xvlm predict TASK --help` lists them.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse a task and its options, and return the call."""
    from xvlm.tasks.common.task import find_task, predicting_tasks

    name, rest = first_word(words, "predict", "task", predicting_tasks)
    predict = find_task(name).predict
    if predict is None:
        raise InputError(f"task {name} predicts nothing; those that do are {', '.join(predicting_tasks())}")
    kind = dataclasses.make_dataclass(
        "PredictionOptions",
        [
            *inputs_of(predict),
            option("model", Path, "model folder, run folder or hub repository"),
            ("options", Predict, dataclasses.field(default=PredictOptions())),
        ],
        kw_only=True,
    )
    values = parse_options(kind, rest, f"xvlm predict {name}", summary(predict))
    model, options = values.pop("model"), values.pop("options")
    return lambda: print_prediction(predict(options.predictor(model), **values), options.json)


def inputs_of(predict: Callable[..., Any]) -> list[Option]:
    """Return the parameters of a prediction after the first: arguments, or options if they have defaults."""
    help_of = argument_help(predict)
    inputs = []
    for one in list(inspect.signature(predict, eval_str=True).parameters.values())[1:]:
        text = help_of.get(one.name, "")
        if one.default is inspect.Parameter.empty:
            kind: Any = Annotated[one.annotation, tyro.conf.arg(metavar=one.name.upper(), help=text)]
            positional: Any = Positional
            inputs.append((one.name, positional[kind], dataclasses.field()))
        else:
            inputs.append(option(one.name, one.annotation, text, default=one.default))
    return inputs


def print_prediction(prediction: Any, as_json: bool) -> None:
    """Print a prediction: the fields of a named tuple or dataclass, a mapping, or one value."""
    if isinstance(prediction, tuple) and hasattr(prediction, "_asdict"):
        prediction = prediction._asdict()
    elif dataclasses.is_dataclass(prediction) and not isinstance(prediction, type):
        prediction = dataclasses.asdict(prediction)
    print_answer(prediction if isinstance(prediction, dict) else {"answer": prediction}, as_json)
