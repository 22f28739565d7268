"""Noun phrases of an English text, with their places in it, by word lists instead of a parser."""

from __future__ import annotations

import re

from xvlm.data.text.phrases import DETERMINERS, PHRASE_STARTS

_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_CAPTION_VERBS = """
    carries catches climbs crosses cuts drives eats faces feeds flies gets gives goes hangs has holds jumps
    keeps lays leans leaps lies lifts looks makes moves paints performs plays poses pulls pushes puts
    reads rests rides runs sells shows sings sits skates sleeps smiles speaks splashes stands stares stops
    surrounds swims swings takes talks throws tries tosses uses waits walks watches wears works
    carry catch climb cross drive eat face hold jump lean leap lie look play pose pull push ride run sing sit
    sleep smile speak stand stare swim talk throw wait walk watch wear
    seen shown made used dressed covered surrounded
"""
_IN_ING = """
    building buildings clothing ceiling ceilings string ring king painting railing awning earring wing thing
    swing evening morning crossing sling spring lightning sibling duckling
"""
_VERBS = frozenset(_CAPTION_VERBS.split())
"""Verbs of captions that end a noun phrase, beside those of `PHRASE_STARTS` and words in -ing."""
_NOUNS_IN_ING = frozenset(_IN_ING.split())
_PICTURES = frozenset(("picture", "photo", "photograph", "image"))
_SIDES = frozenset(("left", "right"))
_FORMS_OF_BE = frozenset(("is", "are", "was", "were", "be", "been", "being"))


def noun_phrases(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) characters of the noun phrases of a text, in their order.

    A phrase ends at punctuation, a preposition, a conjunction or a verb, and before a determiner: "a man with
    a red bag next to two dogs" has "a man", "a red bag" and "two dogs".  Verbs are known by a list and by
    their ending, so an unusual one stays in a phrase ("a man whittles"); a caller who has a parser gives
    spans of its own to `Photo.find_all`.  The picture itself is no thing in it ("a photo of a dog").
    """
    spans: list[tuple[int, int]] = []
    start = end = -1
    has_noun, previous = False, ""
    tokens = list(_TOKEN.finditer(text))
    words = [token.group().lower() for token in tokens]
    for number, token in enumerate([*tokens, None]):
        before_of = words[number + 1 : number + 2] == ["of"]
        word = "" if token is None else token.group().lower()
        is_word = bool(word) and word[0].isalnum()
        begins = is_word and word in DETERMINERS
        follows = (start >= 0 and has_noun) or previous in _FORMS_OF_BE
        beside = before_of and has_noun and word in _SIDES  # "a cup left of a plate"
        ends = not is_word or beside or _ends_phrase(word, follows)
        is_picture = word == "of" and not spans and previous in _PICTURES
        previous = word
        if start >= 0 and (ends or (begins and has_noun)):
            if has_noun and not is_picture:
                spans.append((start, end))
            start, has_noun = -1, False
        if token is None or ends:
            continue
        if start < 0:
            start = token.start()
        end = token.end()
        has_noun |= not begins
    return spans


def _ends_phrase(word: str, follows: bool) -> bool:
    """Return whether a word belongs to no noun phrase.

    Args:
        follows: whether a noun or a form of "be" is before it, after which a form in -ing is a verb; else it
            may be an adjective ("a climbing wall").
    """
    if word in DETERMINERS:
        return False
    if word in PHRASE_STARTS or word in _VERBS:
        return True
    return follows and word.endswith("ing") and word not in _NOUNS_IN_ING
