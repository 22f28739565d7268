"""`xvlm recipes`: the list of recipes."""

from __future__ import annotations

from xvlm.cli.common.options import summary
from xvlm.registry import find, names


def command() -> None:
    """List the recipes, one a line."""
    known = names("recipes")
    for name in known:
        print(f"{name:{max(map(len, known))}}  {summary(find('recipes', name))}")
