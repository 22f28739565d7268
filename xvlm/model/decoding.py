"""How texts are written: the likeliest is searched for, or some are drawn; and how long they may be."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.errors import InputError


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

    beams: int = 3
    samples: int = 0
    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    seed: int = 0
    min_tokens: int = 5
    max_tokens: int = 20
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        allowed = {
            "beams": (self.beams >= 1, "at least 1"),
            "samples": (self.samples >= 0, "0 (none is drawn) or more"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "temperature": (0 < self.temperature < float("inf"), "above 0"),
            "max_tokens": (
                self.max_tokens >= max(1, self.min_tokens),
                f"{max(1, self.min_tokens)} or more",
            ),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0; 1 changes nothing"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {what}")

    @property
    def drawn(self) -> int:
        """Texts that are drawn; 0 where one is searched for."""
        return self.samples or int((self.top_k, self.top_p, self.temperature) != (0, 1.0, 1.0))


CAPTION = Decoding()
"""How captions are written, as published."""
