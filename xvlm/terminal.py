"""Foreign text on a terminal: what would act on it is shown as an escape, whoever prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from xvlm.errors import printable

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def notice(text: object) -> None:
    """Print one line on standard error; names and keys in it are shown, not sent."""
    print(printable(text), file=sys.stderr, flush=True)


class _Escaping:
    """A stream that shows control characters; on a terminal colours stay."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        parts = _COLOUR.split(text) if self.stream.isatty() else [text]
        self.stream.write(
            "".join(p if number % 2 else printable(p, lines=True) for number, p in enumerate(parts))
        )
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """While the command line is parsed: its library repeats words as they were given."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Escaping(sys.stdout), _Escaping(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
