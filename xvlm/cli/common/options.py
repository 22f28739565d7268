"""Options of commands: made from functions, dataclasses and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import tyro
from docstring_parser import parse
from tyro.conf import FlagCreatePairsOff, Positional

from xvlm.common.errors import InputError
from xvlm.common.ranges import PositiveInt, SignificantBits, check_options, checked, type_hints
from xvlm.common.terminal import escaped_output
from xvlm.data.files.limits import change_limits

Flag = FlagCreatePairsOff[bool]
ImageArgument = Positional[Annotated[str, tyro.conf.arg(metavar="IMAGE")]]


@dataclass(frozen=True)
class PredictOptions:
    """Options of the commands that ask a model about images.

    Attributes:
        json: print JSON.
        max_pixels: maximum width x height of an image.
        significant_bits: significant bits of a 16-bit image; 0 infers them from its values.
        device: cpu, cuda or cuda:NUMBER; by default the GPU, if there is one.
    """

    json: bool = False
    max_pixels: PositiveInt = 100_000_000
    significant_bits: SignificantBits = 0
    device: str | None = None

    def predictor(self, model: Path) -> Any:
        """Load the model that answers, and set the limits of images."""
        from xvlm.predict import Predictor

        change_limits(max_pixels=self.max_pixels, significant_bits=self.significant_bits)
        return Predictor.load(model, self.device)


Predict = Annotated[PredictOptions, tyro.conf.arg(name="")]
PREDICT_DEFAULTS = PredictOptions()


def returning_call(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Return a function of the same signature that returns the call instead of making it.

    So only the parsing happens within tyro, and the call refuses values out of their range.
    """

    @wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(checked(command), *args, **kwargs)

    return later


def first_word(
    words: Sequence[str], command: str, kind: str, known: Callable[[], Sequence[str]]
) -> tuple[str, list[str]]:
    """Split off the word that decides the options.  Raises InputError if there is none.

    Args:
        known: returns the words that may stand there, for the message; to know them may take imports.
    """
    if not words or words[0].startswith("-"):
        raise InputError(
            f"xvlm {command} needs a {kind} first ({', '.join(known())}); "
            f"`xvlm {command} {kind.upper()} --help` lists its options"
        )
    return words[0], list(words[1:])


def parse_options(kind: Any, words: Sequence[str], prog: str, description: str) -> dict[str, Any]:
    """Parse words as the fields of a dataclass, and return the values by name.

    Raises InputError for a value out of its range.
    """
    with escaped_output():
        parsed = tyro.cli(kind, args=words, prog=prog, description=description)
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    check_options(type_hints(kind), values)
    return values


Option = tuple[str, Any, Any]
"""Name, annotated type and field of an option, as `dataclasses.make_dataclass` takes them."""


def option(name: str, kind: Any, text: str, **default: Any) -> Option:
    """Return an option with its help."""
    return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(**default)


def options_of_function(function: Callable[..., Any], first: int) -> list[Option]:
    """Return the keyword arguments of a function as options, with the help of its docstring.

    The list of `skipped` samples is left out, which a shell cannot provide.

    Args:
        first: number of leading parameters that are no options.
    """
    help_of = argument_help(function)
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    return [
        option(one.name, one.annotation, help_of.get(one.name, ""), default=one.default)
        for one in parameters[first:]
        if one.name != "skipped"
    ]


def argument_help(documented: Any) -> dict[str, str]:
    """Return the documentation of each argument of a function, or of each field of a dataclass."""
    params = parse(inspect.getdoc(documented) or "").params
    return {one.arg_name: " ".join((one.description or "").split()) for one in params}


def summary(documented: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(documented) or "").split("\n", 1)[0]
