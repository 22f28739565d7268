"""What the site changes in the documents, whose code blocks have notes for the tests."""

from __future__ import annotations

import re
from typing import Any

_FENCE = re.compile(r"^(\s*)```(\w+) (?:file=(\S+)|no-run|run)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn `file=NAME` into the title of a block, and drop `run` and `no-run`."""
    return _FENCE.sub(
        lambda found: f"{found[1]}```{found[2]}" + (f' title="{found[3]}"' if found[3] else ""), markdown
    )
