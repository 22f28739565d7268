"""Ranges of numbers, declared as the type of the field, argument or option that they hold for.

`steps: PositiveInt = 1000` says that `steps` is at least 1.  `validate` checks a tree of dataclasses, and
`check_options` the arguments of a function or command; each refuses the first wrong value in one sentence.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Integral, Real
from typing import Annotated, Any, ParamSpec, TypeVar

from xvlm.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

LARGEST_INT = 2**63 - 1
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
"""Of float32, in which models compute."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number: greater or equal, greater than, less or equal, less than.

    Without bounds it still refuses NaN, infinity, what float32 cannot hold, and whole numbers of more than 64
    bits.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise InputError if `value` is a number out of the range."""
        if type(value) is bool or not isinstance(value, Real):
            return
        whole = isinstance(value, Integral)
        number: Any = value
        finite = abs(number) <= (LARGEST_INT if whole else LARGEST_FLOAT)
        bounds: dict[str, tuple[float | None, Callable[[Any, float], bool]]] = {
            "at least": (self.ge, operator.ge),
            "above": (self.gt, operator.gt),
            "at most": (self.le, operator.le),
            "below": (self.lt, operator.lt),
        }
        given = [(word, bound, holds) for word, (bound, holds) in bounds.items() if bound is not None]
        if finite and all(holds(number, bound) for _, bound, holds in given):
            return
        words = [f"{word} {bound:.12g}" for word, bound, _ in given]
        if not finite:
            words.insert(0, "of at most 64 bits" if whole else "finite in float32")
        raise InputError(f"{name} is {value}; it must be {' and '.join(words)}")


@dataclass(frozen=True)
class Ascending:
    """A tuple of numbers of which none is smaller than the one before."""

    def check(self, name: str, value: Any) -> None:
        """Raise InputError if the values are in another order."""
        if list(value) != sorted(value):
            raise InputError(f"{name} is {tuple(value)}; the smaller value must come first")


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
SignificantBits = Annotated[int, Range(ge=0, le=16)]
FiniteFloat = Annotated[float, Range()]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Probability = Annotated[float, Range(ge=0, le=1)]
Decay = Annotated[float, Range(ge=0, lt=1)]
"""Of a running average; also a share of which something must be left, such as dropout."""
Epsilon = Annotated[float, Range(ge=1e-37)]
"""What keeps a division by 0 away in float32, in which a smaller one is 0."""
Seed = Annotated[int, Range(ge=0, le=2**32 - 1)]
MaxTokens = Annotated[int, Range(ge=2)]
"""`[CLS]` and at least one token of the text."""
CropScale = Annotated[
    tuple[Annotated[float, Range(gt=0, le=1)], Annotated[float, Range(gt=0, le=1)]], Ascending()
]
"""Smallest and largest share of an image's area that a random crop has."""


def hints_of(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields or a function's arguments, ranges included."""
    return _hints_of(kind)


@cache
def _hints_of(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def validate(tree: Any, where: str = "") -> None:
    """Check the ranges of a dataclass and those in it, then what does not fit together.

    A dataclass may have a method `conflicts()` that yields a sentence, which begins with the name of a field,
    for each thing that its own fields rule out.

    Args:
        where: stands before each name in the error, such as "data.".
    Raises:
        InputError: the first value that is out of its range, or the first conflict.
    """
    hints = hints_of(type(tree))
    for one in dataclasses.fields(tree):
        check_value(hints[one.name], getattr(tree, one.name), f"{where}{one.name}")
    conflicts: Iterator[str] = getattr(tree, "conflicts", lambda: iter(()))()
    for sentence in conflicts:
        raise InputError(f"{where}{sentence}")


def check_value(hint: Any, value: Any, name: str) -> None:
    """Check a value, and what is in it, against the ranges of its type.  Raises InputError."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        validate(value, f"{name}.")
    elif origin is Annotated:
        check_value(arguments[0], value, name)
        for bound in arguments[1:]:
            if isinstance(bound, Range | Ascending):
                bound.check(name, value)
    elif origin in (typing.Union, types.UnionType):
        for kind in arguments if value is not None else ():
            check_value(kind, value, name)
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        for number, (kind, item) in enumerate(zip(kinds, value, strict=False)):
            check_value(kind, item, f"{name}.{number}")


def check_options(hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check the options of a command.  A dataclass among them has its fields as options of their own.

    Raises InputError for the first value that is out of its range.
    """
    for name, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate(value)
        else:
            check_value(hints[name], value, name)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which first refuses arguments that are out of their range."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
        check_options(hints_of(function), given)
        return function(*args, **kwargs)

    return call


def from_text(hint: Any, text: str, name: str) -> Any:
    """The `int`, `float` or `str` that a text stands for.

    Raises InputError if it stands for none, or for one out of its range.
    """
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    try:
        value = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} is {text!r}; it must be {wanted}") from None
    check_value(hint, value, name)
    return value
