"""Leave out texts with few or many words or characters."""

from __future__ import annotations

from xvlm.prepare.filtering import Filter


def make(min_words: int = 1, max_words: int = 1000, max_characters: int = 10_000) -> Filter:
    """Return the filter."""

    def text(text: str) -> str | None:
        words = len(text.split())
        if words < min_words:
            return "text has few words"
        return "text is long" if words > max_words or len(text) > max_characters else None

    return Filter(text)
