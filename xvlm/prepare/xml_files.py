"""Read XML files of annotations, without entities and what else XML can do to a reader."""

from __future__ import annotations

from typing import Any

from xvlm.common.errors import MissingPackageError
from xvlm.data.files import storage
from xvlm.records import BadRecord


def read_xml(path: str) -> Any:
    """Return the root element of a file.  Raises BadRecord if it is damaged or has entities."""
    try:
        from defusedxml import DefusedXmlException, ElementTree
    except ImportError as error:
        raise MissingPackageError(
            f"reading {path} needs the extra: pip install 'xvlm[prepare]' ({error})"
        ) from error
    try:
        return ElementTree.fromstring(storage.read_all(path))
    except (ElementTree.ParseError, DefusedXmlException, ValueError) as error:
        raise BadRecord("not XML", path, f"{type(error).__name__}: {error}") from error


def number(element: Any, *names: str) -> list[float]:
    """Return the numbers in child elements.  Raises BadRecord if one is missing or no number."""
    found = []
    for name in names:
        text = element.findtext(name)
        try:
            found.append(float(text))
        except (TypeError, ValueError):
            raise BadRecord("wrong type", element.tag, f"{name} is {text!r}, expected a number") from None
    return found
