"""A filter that kills its process: once, or always."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from xvlm.prepare.filtering import Filter


def make(marker: str, text: str = "thing 13", always: bool = False) -> Filter:
    """Return the filter, which kills the process that sees a text, unless `marker` exists."""

    def kill(found: str) -> str | None:
        if found == text and (always or not Path(marker).exists()):
            Path(marker).write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    return Filter(kill)
