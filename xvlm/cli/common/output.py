"""Printing answers: JSON on one line, or a name and value a line."""

from __future__ import annotations

from typing import Any

from xvlm.common.errors import printable
from xvlm.common.json_file import json_text


def print_answer(value: dict[str, Any], as_json: bool) -> None:
    """Print an answer."""
    if as_json:
        print(json_text(value))
        return
    for name, item in value.items():
        if item is None:
            item = "none"
        print(f"{name:10} {item:.4f}" if isinstance(item, float) else f"{name:10} {printable(item)}")
