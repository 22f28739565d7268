"""Safe printing of untrusted text: control characters are shown as escapes, and never reach the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from xvlm.common.errors import printable

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


def print_notice(text: object) -> None:
    """Print one line on standard error, with control characters escaped."""
    print(printable(text), file=sys.stderr, flush=True)


class _EscapingStream:
    """A text stream that escapes control characters.  On a terminal it lets colours through."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        parts = _COLOUR.split(text) if self.stream.isatty() else [text]
        parts[::2] = [printable(part, lines=True) for part in parts[::2]]  # the others are colours
        self.stream.write("".join(parts))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def escaped_output() -> Iterator[None]:
    """Escape the output of a block: the command-line parser repeats the user's words unchanged."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _EscapingStream(sys.stdout), _EscapingStream(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
