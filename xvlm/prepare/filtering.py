"""Filters of texts and images, by name: built-in ones, and a user's own files.

A filter file defines `make(**options)`, which returns a `Filter`; its options come from the specification
`NAME:option=value,option=value` as texts, and are converted to the types of the parameters.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from xvlm import registry
from xvlm.common.errors import InputError
from xvlm.data.images.decode import ImageFile
from xvlm.records import Concept

ROOM = "prepare.filters"
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Filter:
    """Functions that return why something is left out, a short fixed phrase, or `None` to keep it.

    Attributes:
        text: of a text.
        image: of an image.
        captions: of each caption of an image; for what needs both, `text` is cheaper.
        regions: of each region of an image, in order.
    """

    text: Callable[[str], str | None] | None = None
    image: Callable[[ImageFile], str | None] | None = None
    captions: Callable[[Sequence[str], ImageFile], Iterable[str | None]] | None = None
    regions: Callable[[Sequence[Concept], ImageFile], Iterable[str | None]] | None = None


def make_filters(specs: Sequence[str]) -> list[Filter]:
    """Return the filters of specifications.

    Raises UnknownNameError or InputError if there is no such filter, or it has no such option.
    """
    return [_make(spec) for spec in specs]


def _make(spec: str) -> Filter:
    name, _, rest = spec.partition(":")
    module = registry.find(ROOM, name)
    if not callable(getattr(module, "make", None)):
        raise InputError(f"{name} must define a function make(...) that returns a Filter")
    parameters = inspect.signature(module.make).parameters
    hints = typing.get_type_hints(module.make)
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        option, equals, text = part.partition("=")
        if not equals or option not in parameters:
            known = ", ".join(parameters) or "none"
            raise InputError(f"{spec!r}: {part!r} is no option of the filter {name}; it has {known}")
        values[option] = _convert(text, hints.get(option, str), spec, option)
    missing = [one.name for one in parameters.values() if one.default is one.empty and one.name not in values]
    if missing:
        raise InputError(f"{spec!r} needs the option {missing[0]}")
    return module.make(**values)  # type: ignore[no-any-return]


def _convert(text: str, kind: Any, spec: str, option: str) -> Any:
    try:
        return _TRUE[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise InputError(f"{spec!r}: {option} is {text!r}; it must be {kind.__name__}") from None


def why_not_text(filters: Sequence[Filter], text: str) -> str | None:
    """Return the first reason to leave out a text, or `None`."""
    reasons = (one.text(text) for one in filters if one.text is not None)
    return next(filter(None, reasons), None)


def why_not_image(filters: Sequence[Filter], image: ImageFile) -> str | None:
    """Return the first reason to leave out an image, or `None`."""
    reasons = (one.image(image) for one in filters if one.image is not None)
    return next(filter(None, reasons), None)


def unwanted_captions(filters: Sequence[Filter], texts: Sequence[str], image: ImageFile) -> dict[str, str]:
    """Return the first reason to leave out a caption of an image, by caption."""
    reasons: dict[str, str] = {}
    for one in filters:
        left = [text for text in texts if text not in reasons]
        if one.captions is not None and left:
            found = one.captions(left, image)
            reasons |= {text: why for text, why in zip(left, found, strict=True) if why is not None}
    return reasons


def unwanted_regions(
    filters: Sequence[Filter], concepts: Sequence[Concept], image: ImageFile
) -> dict[int, str]:
    """Return the first reason to leave out a region, by its place among the concepts of an image."""
    reasons: dict[int, str] = {}
    for one in filters:
        if one.regions is not None:
            places = [
                place
                for place, concept in enumerate(concepts)
                if concept.box_xyxy is not None and place not in reasons
            ]
            found = one.regions([concepts[place] for place in places], image)
            reasons |= {place: why for place, why in zip(places, found, strict=True) if why is not None}
    return reasons
