"""Leave out texts with one of the words or phrases of a file, a line each; upper case does not matter."""

from __future__ import annotations

import re

from xvlm.common.errors import InputError
from xvlm.data.files import storage
from xvlm.prepare.filtering import Filter


def make(file: str) -> Filter:
    """Return the filter.  Raises InputError for a file without a word."""
    lines = storage.read_all(file).decode("utf-8-sig").splitlines()
    words = sorted({line.strip() for line in lines if line.strip()}, key=len, reverse=True)
    if not words:
        raise InputError(f"{file} has no word; it must have one a line")
    # Whole words, also where a word begins or ends with a character such as + that \\b does not know.
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return Filter(lambda text: "text has a blocked word" if pattern.search(text) else None)
