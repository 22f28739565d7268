"""Phrases that describe nothing in a photograph, although they might, from the texts of other photographs.

The texts of a photograph do not name all that it shows, so a phrase counts as absent only if nothing speaks
for it: its noun, or another noun of the same kind, is named by none of the photograph's texts, and is not one
of those that most photographs show without a word (the sky, a hand, a shirt).  A colour may be changed as
well, if no text names the new one.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cache

import numpy as np

from xvlm.data.text.cleaning import clean_caption
from xvlm.data.text.noun_phrases import noun_phrases
from xvlm.data.text.phrases import DETERMINERS, PHRASE_STARTS
from xvlm.records import BadRecord, Record

_KINDS = (
    """man men guy gentleman male boy boys guys woman women lady female girl girls ladies person people
    child children kid kids baby toddler adult adults crowd group couple player players team worker
    workers rider surfer skier snowboarder climber hiker biker cyclist runner swimmer skater skateboarder
    dancer spectators audience pedestrian family friends somebody one player guitarist musician student
    individual toddlers teenager teenagers youth human infant fan fans member members performer artist
    bicyclist motorcyclist driver fisherman wrestler boxer soldier officer police policeman bride groom
    father mother son daughter brother sister athlete gymnast goalie pitcher batter catcher opponent""",
    "dog dogs puppy puppies animal animals pet hound greyhound terrier poodle retriever collie labrador lab",
    "water ocean sea lake river pool pond wave waves beach shore surf stream fountain puddle splash",
    "street road sidewalk pavement path trail lane highway track walkway driveway",
    "bike bicycle bikes bicycles motorcycle motorbike dirtbike scooter bmx cycle",
    "car cars truck van vehicle vehicles bus taxi automobile jeep suv",
    "mountain mountains hill hills cliff rock rocks boulder peak ridge slope snow ice stone stones",
    "building buildings house houses store shop wall hut cabin home church",
    "ball football baseball basketball soccerball frisbee toy disc tennisball",
    "stick branch log tree trees wood woods forest bush bushes plant plants",
    "hat cap helmet beanie hood headband bandanna",
    "glasses sunglasses goggles",
    "boat canoe kayak raft ship sailboat surfboard",
    "bench chair seat couch sofa table",
    "snowboard skateboard ski skis board sled",
)
_NEVER_ABSENT = """
    sky ground air background foreground area grass field day distance camera picture photo scene front back
    side top end middle part edge corner light lights sun shadow place way ramp something thing things lot
    hand hands arm arms leg legs head face hair hairs mouth foot feet eye eyes body neck shoulder shoulders
    back tongue teeth finger fingers ear ears nose beard smile tail paw paws
    shirt shirts t-shirt tshirt pants jeans shorts shoes shoe jacket coat dress clothes clothing outfit
    uniform suit sweater top skirt tie sock socks boots clothed sweatshirt vest costume outfits attire gear
    floor dirt mud sand leaves leaf flower flowers
    left right other others another each it them object objects item items cloth line lines midair amount
"""
_COLOUR_WORDS = "red orange yellow green blue purple pink black white brown gray grey tan"
_COLOURS = tuple(_COLOUR_WORDS.split())
_QUANTITIES = frozenset(
    ("group", "bunch", "pair", "set", "lot", "number", "piece", "pile", "row", "herd", "couple")
)
_CONJUNCTIONS = frozenset(("and", "or"))
_ALIKE = {"grey": "gray", "tan": "brown"}
MAX_RECORDS = 5000
"""Number of records whose phrases are used; of a larger source, those at equal distances."""


@cache
def _kind_of() -> dict[str, str]:
    """Return the first noun of each noun's kind."""
    kinds: dict[str, str] = {}
    for words in map(str.split, _KINDS):
        for word in words:
            kinds.setdefault(word, words[0])
    return kinds


def kind(noun: str) -> str:
    """Return what stands for all nouns that may describe the same thing; a plural is as its singular."""
    kinds = _kind_of()
    for form in (noun, noun.removesuffix("s"), noun.removesuffix("es")):
        if form in kinds:
            return kinds[form]
    return noun.removesuffix("s") if len(noun) > 3 and not noun.endswith("ss") else noun


def head(phrase: str) -> str:
    """Return the noun of a cleaned noun phrase: the last word before a preposition, or after "a group of".

    It is empty if there is none.
    """
    words = phrase.split()
    last = ""
    for word in words:
        if last in _QUANTITIES and word == "of":
            continue
        if last and word in PHRASE_STARTS and word not in _CONJUNCTIONS:
            break
        last = word
    return "" if last in DETERMINERS or last in PHRASE_STARTS or last in _COLOURS else last


def named_kinds(texts: Sequence[str]) -> set[str]:
    """Return the kinds of all words of an image's texts."""
    return {kind(word) for text in cleaned(texts) for word in text.split()}


def names_another_thing(text: str, named: Set[str]) -> bool:
    """Return whether a text names a thing that no text of an image speaks for, whose absence can be told.

    Args:
        named: `named_kinds` of the image's texts.
    """
    never = {kind(word) for word in _NEVER_ABSENT.split()}
    for start, end in noun_phrases(text):
        noun = head(next(iter(cleaned([text[start:end]])), ""))
        if noun and kind(noun) not in named and kind(noun) not in never:
            return True
    return False


@dataclass(frozen=True)
class AbsentPhrases:
    """Samples phrases that describe nothing in a photograph.

    Attributes:
        phrases: cleaned phrases of many photographs.
        heads: the noun of each.
    """

    phrases: Sequence[str]
    heads: Sequence[str]

    @classmethod
    def of(cls, texts: Sequence[str]) -> AbsentPhrases:
        """Collect the phrases whose absence can be told."""
        chosen: dict[str, str] = {}
        never = {kind(word) for word in _NEVER_ABSENT.split()}
        for text in texts:
            noun = head(text)
            if noun and kind(noun) not in never:
                chosen[text] = noun
        return cls(list(chosen), list(chosen.values()))

    def sample(self, record: Record, count: int, rng: np.random.Generator) -> tuple[str, ...]:
        """Return up to `count` different phrases; about every second is one of the record's own, changed.

        A phrase of the record's own has another noun or colour; the others are of other photographs.
        """
        own = [text for one in record.concepts if one.box_xyxy is not None for text in cleaned(one.texts)]
        named = {word for one in record.concepts for text in cleaned(one.texts) for word in text.split()}
        named_kinds = {kind(word) for word in named}
        found: dict[str, None] = {}
        for attempt in range(6 * count):
            if len(found) == count or not self.phrases:
                break
            place = int(rng.integers(len(self.phrases)))
            text, noun = self.phrases[place], self.heads[place]
            is_absent = kind(noun) not in named_kinds
            if attempt % 2 and own:
                original = own[int(rng.integers(len(own)))]
                changed = self._with_colour(original, named, rng) if attempt % 4 == 1 else None
                if changed is None and is_absent:
                    changed = _with_noun(original, noun)
                if changed is not None:
                    found[changed] = None
            elif is_absent:
                found[text] = None
        return tuple(found)

    @staticmethod
    def _with_colour(phrase: str, named: set[str], rng: np.random.Generator) -> str | None:
        """Return the phrase with another colour, which no text of the photograph names, if it has one."""
        words = phrase.split()
        places = [place for place, word in enumerate(words) if word in _COLOURS]
        taken = {_ALIKE.get(word, word) for word in named}
        free = [word for word in _COLOURS if _ALIKE.get(word, word) not in taken]
        if not (places and free):
            return None
        place = places[int(rng.integers(len(places)))]
        return _replaced(words, place, free[int(rng.integers(len(free)))])


def _with_noun(phrase: str, noun: str) -> str | None:
    """Return a phrase with another noun of the same number; `None` if it has none, or of another number."""
    old, words = head(phrase), phrase.split()
    if not old or old.endswith("s") != noun.endswith("s"):
        return None
    return _replaced(words, words.index(old), noun)


def _replaced(words: Sequence[str], place: int, new: str) -> str:
    """Return words with another one at a place, and the article before it as it must be.

    A model could tell absent phrases by their faults instead of by the photograph.
    """
    changed = [*words[:place], new, *words[place + 1 :]]
    if place and changed[place - 1] in ("a", "an"):
        changed[place - 1] = "an" if new[0] in "aeiou" else "a"
    return " ".join(changed)


def cleaned(texts: Sequence[str]) -> list[str]:
    """Return texts as the model reads them, without those of which nothing is left."""
    found = []
    for text in texts:
        try:
            found.append(clean_caption(text))
        except BadRecord:
            continue
    return found
