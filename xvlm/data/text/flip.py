"""Texts of horizontally flipped images: "left" and "right" are swapped where that is exact.

In a flipped photo of "the man on the left" the man is on the right, but "he has left" and "the right answer"
must not change.  The rule is conservative: every "left" or "right" in a text must be part of one of the
spatial constructions below.  Otherwise the text has no flipped form and its image is not flipped; nor is it
if the text names a direction in another way ("topleft", "lft", "at 3 o'clock").

The published code has two other rules, which faithful mode follows.  "always" flips the image and leaves its
texts as they are (pre-training, domain stages, retrieval, weak grounding, NLVR2, captions).  "letters" does
not flip an image if one of its texts has the letters "left" or "right", as in "bright" (questions, boxes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

FlipRule = Literal["exact", "always", "letters"]
"""Which images may be flipped, and what becomes of their texts; "exact" swaps sides as described above."""

_SWAPPED = {"left": "right", "right": "left"}
_SIDE = r"(?:left|right)"
# Nouns that have a left and a right one; "the right part" or "the right shoes" may mean the correct ones.
_PART = (
    r"(?:side|edge|corner|half|third|margin"
    r"|hand|arm|leg|foot|eye|ear|cheek|shoulder|elbow|wrist|knee|thigh|ankle)"
)
_MODIFIER = r"(?:far|very|top|bottom|upper|lower|back|front|rear|middle|mid|center|centre)"
_ENDS = r"(?=\s*(?:$|[.,;:!?)]|(?:of|and|or|to|from|is|are|has|have|with|in)\b))"

# A word that means the direction, also within another one ("top-left", "leftmost", "left-handed").
_DIRECTION = re.compile(r"\b(left|right)(?=(?:-?most|wards?|hand(?:ed)?)?\b)", re.IGNORECASE)
# Other spellings of a direction.
_OTHER_SPELLING = re.compile(
    r"\b(?:left|right)(?!-?most\b|wards?\b|hand(?:ed)?\b|overs?\b|ful|eous|(?:s|ly|ed|ing)\b)\w+"
    rf"|\b{_MODIFIER}{_SIDE}"
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
        rf"\b{_MODIFIER}[ -]{_SIDE}\b{_ENDS}",
        rf"\b{_MODIFIER}[ -]{_SIDE}[ -]{_PART}\b",
        rf"\b(?:on|to|at|from|toward|towards) the (?:{_MODIFIER}[ -])?{_SIDE}\b{_ENDS}",
        rf"\b(?:on|from) {_SIDE}\b(?=\s*(?:$|[.,;:!?)]))",
        rf"\b{_SIDE} to {_SIDE}\b",
        rf"\b(?:facing|looking|pointing|leaning|turning|turned) (?:to the )?{_SIDE}\b(?=\s*(?:$|[.,;:!?)]))",
    )
]


def flip_text(text: str) -> str | None:
    """Return the text of the flipped image, or `None` if its sides cannot be swapped exactly.

    Flipping it again returns the original text.
    """
    if _OTHER_SPELLING.search(text):
        return None
    directions = {match.start() for match in _DIRECTION.finditer(text)}
    if not directions:
        return text
    spatial = {
        match.start() + word.start()
        for pattern in _SPATIAL
        for match in pattern.finditer(text)
        for word in _DIRECTION.finditer(match.group())
    }
    if directions - spatial:
        return None
    return _DIRECTION.sub(lambda match: _opposite(match.group(1)), text)


def flip_texts(texts: Sequence[str], rule: FlipRule = "exact") -> tuple[str, ...] | None:
    """Return the texts of the flipped image, or `None` if it may not be flipped; see `FlipRule`."""
    if rule == "always":
        return tuple(texts)
    if rule == "letters":
        return None if any("left" in text or "right" in text for text in texts) else tuple(texts)
    flipped = tuple(new for text in texts if (new := flip_text(text)) is not None)
    return flipped if len(flipped) == len(texts) else None


def _opposite(word: str) -> str:
    """Return the other side in the same case: left, Left or LEFT."""
    opposite = _SWAPPED[word.lower()]
    if word.isupper():
        return opposite.upper()
    return opposite.capitalize() if word[0].isupper() else opposite
