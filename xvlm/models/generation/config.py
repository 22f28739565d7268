"""Options of text generation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from xvlm.common.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Range, Seed, validate

TopP = Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True)
class GenerationConfig:
    """How a text is searched for, or texts are sampled (published for captions: 3 beams, 5 to 20 tokens).

    Attributes:
        num_beams: beams of the search; 1 is greedy decoding.
        num_samples: number of texts to sample instead; one if only `top_k`, `top_p` or `temperature` is set.
        top_k: number of most probable tokens to sample from; 0: all.
        top_p: share of the probability to sample from, that of the most probable tokens.
        temperature: softmax temperature of sampling.
        seed: random seed of sampling.
        min_tokens: minimum length of a text, with the prompt and without the end.
        max_tokens: maximum length of a text.
        repetition_penalty: logits of tokens that are in the text already are divided by this number, or
            multiplied if they are negative (CTRL, section 4.1).

    Raises:
        InputError: a value is out of its range, or `max_tokens` is below `min_tokens`.
    """

    num_beams: PositiveInt = 3
    num_samples: NonNegativeInt = 0
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
        """Yield a sentence for each pair of settings that exclude each other; see `validate`."""
        if self.max_tokens < self.min_tokens:
            yield f"max_tokens is {self.max_tokens}; it must be {self.min_tokens} or more, as min_tokens is"

    @property
    def num_sampled(self) -> int:
        """Number of texts to sample; 0: one text is searched for."""
        return self.num_samples or int((self.top_k, self.top_p, self.temperature) != (0, 1.0, 1.0))


CAPTION_GENERATION = GenerationConfig()
"""The published generation of captions."""
