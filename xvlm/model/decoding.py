"""How texts are written: the likeliest is searched for, or some are drawn; and how long they may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from xvlm.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed, validate

TopP = Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True)
class Decoding:
    """Options of texts that are written (published for captions: 3 beams, 5 to 20 tokens).

    Attributes:
        beams: of the search for the likeliest text; 1 takes the likeliest token each time (greedy).
        samples: texts that are drawn, token by token, instead; `top_k`, `top_p` or `temperature` alone ask
            for one.
        top_k: draw from so many of the likeliest tokens; 0: from all.
        top_p: draw from the likeliest tokens that together have this share of the probability.
        temperature: below 1 makes likely tokens likelier, above 1 less likely.
        seed: of the draws; the same one gives the same texts.
        min_tokens: of a text at least, those of its prompt included and its end not.
        max_tokens: of a text at most.
        repetition_penalty: above 1 makes tokens that stand in the text already less likely (CTRL, section
            4.1).

    Raises:
        InputError: for what cannot be.
    """

    beams: PositiveInt = 3
    samples: NonNegativeInt = 0
    top_k: NonNegativeInt = 0
    top_p: TopP = 1.0
    temperature: PositiveFloat = 1.0
    seed: Seed = 0
    min_tokens: NonNegativeInt = 5
    max_tokens: PositiveInt = 20
    repetition_penalty: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        validate(self)

    def conflicts(self) -> Iterator[str]:
        """What does not fit together, see `validate`."""
        if self.max_tokens < self.min_tokens:
            yield f"max_tokens is {self.max_tokens}; it must be {self.min_tokens} or more, as min_tokens is"

    @property
    def drawn(self) -> int:
        """Texts that are drawn; 0 where one is searched for."""
        return self.samples or int((self.top_k, self.top_p, self.temperature) != (0, 1.0, 1.0))


CAPTION = Decoding()
"""How captions are written, as published."""
