"""The entries of a release's lists: one that is not as released is counted, and the others are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from xvlm.common.errors import InputError, XVLMError
from xvlm.common.short_repr import short_repr
from xvlm.records import BadRecord

NOT_AS_RELEASED = "entry is not as released"
_Read = TypeVar("_Read")


def read_entries(
    read: Callable[[Any], _Read | BadRecord | None], entries: Iterable[Any], name: str
) -> Iterator[_Read | BadRecord]:
    """Yield what a function makes of each entry, unless that is `None`.

    An entry that lacks a field, or has it of another type, becomes a `BadRecord`.

    Args:
        entries: plain values; a `BadRecord` among them is yielded as it is.
        name: name of the list in errors.
    """
    for number, entry in enumerate(entries):
        if isinstance(entry, BadRecord):
            yield entry
            continue
        try:
            found = read(entry)
        except BadRecord as error:
            found = error
        except XVLMError:
            raise
        except KeyError as error:
            found = BadRecord(NOT_AS_RELEASED, f"{name}[{number}]", f"it has no {error}")
        except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
            found = BadRecord(NOT_AS_RELEASED, f"{name}[{number}]", f"{short_repr(entry)}: {error}")
        if found is not None:
            yield found


def read_parts(
    read: Callable[[Any], _Read | BadRecord | None], entries: Iterable[Any], name: str, bad: list[BadRecord]
) -> Iterator[_Read]:
    """Yield what a function makes of each entry, as `read_entries` does, and add bad ones to a list."""
    for found in read_entries(read, entries, name):
        if isinstance(found, BadRecord):
            bad.append(found)
        else:
            yield found


def read_with_parts(
    read: Callable[[Any, list[BadRecord]], _Read | BadRecord | None], entries: Iterable[Any], name: str
) -> Iterator[_Read | BadRecord]:
    """Yield what a function makes of each entry, as `read_entries` does, after what it adds to a list.

    Args:
        read: also takes the list, for parts of the entry that cannot be used.
    """
    bad: list[BadRecord] = []
    for found in read_entries(lambda entry: read(entry, bad), entries, name):
        yield from bad
        bad.clear()
        yield found
    yield from bad


def list_in(value: Any, key: str, name: str) -> list[Any]:
    """Return the list in a plain value under a key, or the value itself if the key is empty.

    Raises InputError, which names the file, if there is none.
    """
    found = value
    if key:
        found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        what = f"list {key!r}" if key else "list"
        raise InputError(f"{name} has no {what}: it is not as it was released")
    return found
