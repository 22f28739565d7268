"""Phrases of a caption: each says one thing that some part of the image shows."""

from __future__ import annotations

import re

from xvlm.data.text.cleaning import clean_caption
from xvlm.records import BadRecord

_BOUNDARY = re.compile(r"[,.;:!?()]")
_DETERMINERS = """
    a an the this that these those his her its their my your our some any several many all both each every
    another other no one two three four five six seven eight nine ten
"""
_PREPOSITIONS = """
    about above across after against along amid among around at atop before behind below beneath beside
    between beyond by down during for from in inside into like near of off on onto out outside over past
    through to toward towards under up upon with within without next front
"""
_OTHERS = """
    and or but as while when where which who that there it he she they him them
    is are was were be being been has have had do does someone something
"""
DETERMINERS = frozenset(_DETERMINERS.split())
PHRASE_STARTS = frozenset((_PREPOSITIONS + _OTHERS).split())
"""English words that begin a new phrase."""


def split_phrases(text: str) -> list[str]:
    """Split an English caption into cleaned phrases.

    A phrase ends at punctuation, and before a preposition, a conjunction, a pronoun or an auxiliary verb: "a
    dog shakes its head near the shore" is "a dog shakes its head" and "near the shore".  So a phrase is a
    thing with what it does or where it is, and needs no parser.  Words that are no content alone ("next to
    the") join the phrase after them.  A text in another language is one phrase for each of its parts.

    Args:
        text: caption as it was written; punctuation marks its parts.
    """
    phrases = []
    for part in _BOUNDARY.split(text):
        try:
            words = clean_caption(part).split()
        except BadRecord:  # nothing between two punctuation marks
            continue
        start, has_content = 0, False
        for position, word in enumerate(words):
            if word in PHRASE_STARTS and has_content:
                phrases.append(" ".join(words[start:position]))
                start, has_content = position, False
            has_content |= word not in PHRASE_STARTS and word not in DETERMINERS
        if has_content:
            phrases.append(" ".join(words[start:]))
    return phrases
