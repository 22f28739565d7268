"""Ranges of numbers, declared in the type of a field, argument or option.

`steps: PositiveInt = 1000` declares that `steps` is at least 1.  `validate` checks a tree of dataclasses, and
`check_options` the arguments of a function or command; both raise InputError for the first wrong value.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from numbers import Integral, Real
from typing import Annotated, Any, ParamSpec, TypeVar

from xvlm.common.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

LARGEST_INT = 2**63 - 1
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127  # of float32, in which models compute


@dataclass(frozen=True)
class Range:
    """Bounds of a number: greater or equal, greater than, less or equal, less than.

    Even without bounds it excludes NaN, infinity, numbers too large for float32, and integers of more than 64
    bits.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise InputError if `value` is a number outside the range."""
        if type(value) is bool or not isinstance(value, Real):
            return
        is_integer = isinstance(value, Integral)
        number: Any = value
        is_finite = abs(number) <= (LARGEST_INT if is_integer else LARGEST_FLOAT)
        comparisons: list[tuple[str, float | None, Callable[[Any, float], bool]]] = [
            ("at least", self.ge, operator.ge),
            ("above", self.gt, operator.gt),
            ("at most", self.le, operator.le),
            ("below", self.lt, operator.lt),
        ]
        bounds = [(word, bound, compare) for word, bound, compare in comparisons if bound is not None]
        if is_finite and all(compare(number, bound) for _, bound, compare in bounds):
            return
        allowed = [f"{word} {bound:.12g}" for word, bound, _ in bounds]
        if not is_finite:
            allowed.insert(0, "of at most 64 bits" if is_integer else "finite in float32")
        raise InputError(f"{name} is {value}; it must be {' and '.join(allowed)}")


@dataclass(frozen=True)
class Ascending:
    """Constraint on a tuple of numbers: the values do not decrease."""

    def check(self, name: str, value: Any) -> None:
        """Raise InputError if a value is smaller than the one before it."""
        if list(value) != sorted(value):
            raise InputError(f"{name} is {tuple(value)}; the smaller value must come first")


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
SignificantBits = Annotated[int, Range(ge=0, le=16)]
FiniteFloat = Annotated[float, Range()]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
Seconds = Annotated[float, Range(gt=0, le=10_000_000)]
"""A time limit; larger ones exceed what timers can express."""
Probability = Annotated[float, Range(ge=0, le=1)]
Decay = Annotated[float, Range(ge=0, lt=1)]
"""Decay of a running average, or another fraction below 1, such as dropout."""
Epsilon = Annotated[float, Range(ge=1e-37)]
"""Term that avoids a division by 0; in float32, a smaller one would itself be 0."""
Seed = Annotated[int, Range(ge=0, le=2**32 - 1)]
MaxTokens = Annotated[int, Range(ge=2)]
"""Maximum length of a text: `[CLS]` and at least one token."""
CropScale = Annotated[
    tuple[Annotated[float, Range(gt=0, le=1)], Annotated[float, Range(gt=0, le=1)]], Ascending()
]
"""Smallest and largest area of a random crop, as fractions of the image's area."""


_cached_type_hints = cache(partial(typing.get_type_hints, include_extras=True))


def type_hints(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields or a function's arguments, ranges included."""
    return _cached_type_hints(kind)


def validate(tree: Any, where: str = "") -> None:
    """Check the ranges and the conflicts of a dataclass and of those nested in it.

    A dataclass may have a method `conflicts()`, which yields a sentence for each pair of fields that exclude
    each other.  The sentence begins with the name of a field.

    Args:
        where: prefix of the names in errors, such as "data.".
    Raises:
        InputError: a value is out of its range, or two fields conflict.
    """
    hints = type_hints(type(tree))
    for field in dataclasses.fields(tree):
        check_value(hints[field.name], getattr(tree, field.name), f"{where}{field.name}")
    conflicts: Iterator[str] = getattr(tree, "conflicts", lambda: iter(()))()
    for sentence in conflicts:
        raise InputError(f"{where}{sentence}")


def check_value(hint: Any, value: Any, name: str) -> None:
    """Check a value, and the values nested in it, against the ranges of its type.  Raises InputError."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        validate(value, f"{name}.")
    elif origin is Annotated:
        check_value(arguments[0], value, name)
        for constraint in arguments[1:]:
            if isinstance(constraint, Range | Ascending):
                constraint.check(name, value)
    elif origin in (typing.Union, types.UnionType):
        for kind in arguments if value is not None else ():
            check_value(kind, value, name)
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        for index, (kind, item) in enumerate(zip(kinds, value, strict=False)):
            check_value(kind, item, f"{name}.{index}")


def check_options(hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check the options of a command; the fields of a dataclass are options themselves.

    Raises InputError for the first value that is out of its range.
    """
    for name, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate(value)
        elif name != "self":  # of a method
            check_value(hints[name], value, name)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function: the wrapper raises InputError for an argument that is out of its range."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_options(type_hints(function), inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return call


def from_text(hint: Any, text: str, name: str) -> Any:
    """Convert a text to the type `hint`: `int`, `float` or `str`, possibly with a range.

    Raises InputError if the text is not such a value, or the value is out of its range.
    """
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    try:
        value = kind(text)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} is {text!r}; it must be {expected}") from None
    check_value(hint, value, name)
    return value
