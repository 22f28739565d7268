"""Texts of mirrored images: "left" and "right" swapped where that is exact.

A mirrored photo of "the man on the left" shows the man on the right, but "he has left" and "the right
answer" must not change.  The rule is conservative: every left or right in a text must stand in one of
the spatial constructions below, otherwise the text has no mirror image and its image is not flipped; nor is
it where people write a direction in another way ("topleft", "lft", "at 3 o'clock").

The published code has two other rules, which faithful mode follows: mirror whatever the texts say and leave
them as they are ("always": pre-training, domain stages, retrieval, weak grounding, NLVR2, captions), or do
not mirror where the letters "left" or "right" occur, as in "bright" ("letters": questions, boxes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

MirrorRule = Literal["exact", "always", "letters"]
"""Which images may be mirrored, and what becomes of their texts; "exact" swaps sides as described above."""

_SWAPPED = {"left": "right", "right": "left"}
_SIDE = r"(?:left|right)"
_PART = (  # nouns that have a left and a right one; "the right part" or "shoes" may be the correct ones
    r"(?:side|edge|corner|half|third|margin|hand|arm|leg|foot|eye|ear|cheek|shoulder|elbow|wrist|knee|thigh|ankle)"
)
_PLACE = r"(?:far|very|top|bottom|upper|lower|back|front|rear|middle|mid|center|centre)"
_ENDS = r"(?=\s*(?:$|[.,;:!?)]|(?:of|and|or|to|from|is|are|has|have|with|in)\b))"

# Where a word means the direction, however it is joined ("top-left", "leftmost", "left-handed").
_DIRECTION = re.compile(r"\b(left|right)(?=(?:-?most|wards?|hand(?:ed)?)?\b)", re.IGNORECASE)
# Where people write one in another way.
_OTHERWISE = re.compile(
    r"\b(?:left|right)(?!-?most\b|wards?\b|hand(?:ed)?\b|overs?\b|ful|eous|(?:s|ly|ed|ing)\b)\w+"
    rf"|\b{_PLACE}{_SIDE}"
    r"|\b(?:lft|lef|lhs|rgt|rght|rigth|rihgt|rite|rhs|rt|l|r)\b"
    r"|\bo['’ ]?clock\b|clockwise\b",
    re.IGNORECASE,
)
_SPATIAL = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_SIDE}-?most\b",
        rf"\b{_SIDE}[ -]?hand[ -](?:side|edge|corner)\b",
        rf"\b{_SIDE}[ -]{_PART}\b(?![ -](?:in[ -]hand|man|men|woman|women|up|out)\b)",
        rf"\b{_PLACE}[ -]{_SIDE}\b{_ENDS}",
        rf"\b{_PLACE}[ -]{_SIDE}[ -]{_PART}\b",
        rf"\b(?:on|to|at|from|toward|towards) the (?:{_PLACE}[ -])?{_SIDE}\b{_ENDS}",
        rf"\b(?:on|from) {_SIDE}\b(?=\s*(?:$|[.,;:!?)]))",
        rf"\b{_SIDE} to {_SIDE}\b",
        rf"\b(?:facing|looking|pointing|leaning|turning|turned) (?:to the )?{_SIDE}\b(?=\s*(?:$|[.,;:!?)]))",
    )
]


def mirror_text(text: str) -> str | None:
    """The text of the mirrored image: itself, or with its sides swapped; `None` where that is not exact.

    Applying it twice gives the text back.
    """
    if _OTHERWISE.search(text):
        return None
    words = {match.start() for match in _DIRECTION.finditer(text)}
    if not words:
        return text
    exact = {
        match.start() + word.start()
        for pattern in _SPATIAL
        for match in pattern.finditer(text)
        for word in _DIRECTION.finditer(match.group())
    }
    if words - exact:
        return None
    return _DIRECTION.sub(lambda match: _like(match.group(1), _SWAPPED[match.group(1).lower()]), text)


def mirror_texts(texts: Sequence[str], rule: MirrorRule = "exact") -> tuple[str, ...] | None:
    """The texts of the mirrored image; `None` if it may not be mirrored, see `MirrorRule`."""
    if rule == "always":
        return tuple(texts)
    if rule == "letters":
        return None if any("left" in text or "right" in text for text in texts) else tuple(texts)
    mirrored = [mirror_text(text) for text in texts]
    known = tuple(text for text in mirrored if text is not None)
    return known if len(known) == len(mirrored) else None


def _like(word: str, other: str) -> str:
    """`other` in the case of `word`: left, Left or LEFT."""
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
