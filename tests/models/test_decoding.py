"""Every kind of generation gives the same tokens with and without cached keys and values; options hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models.test_generate import PROMPT, captioner
from tests.tiny import TEXT
from xvlm.batch import Texts
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.generation.generate import generate
from xvlm.models.generation.incremental import IncrementalDecoder
from xvlm.models.generation.sampling import sampling
from xvlm.models.generation.search import Generation

END = 3
GREEDY = GenerationConfig(num_beams=1, max_tokens=14)
CONFIGS = {
    "greedy": GREEDY,
    "beams": GenerationConfig(num_beams=4, max_tokens=14),
    "all tokens": GenerationConfig(num_samples=3, max_tokens=14),
    "top k": GenerationConfig(num_samples=2, top_k=5, max_tokens=14),
    "top p": GenerationConfig(top_p=0.8, temperature=1.5, max_tokens=14),
    "penalty": GenerationConfig(num_beams=1, repetition_penalty=1.7, max_tokens=14),
    "beams, penalty": GenerationConfig(num_beams=3, repetition_penalty=1.7, max_tokens=14),
}


class Recomputing(IncrementalDecoder):
    """Caches nothing but ids: each step decodes every text from its beginning, as in training."""

    ids_RL: Tensor | None = None

    def step(self, ids_RL: Tensor) -> Tensor:
        self.ids_RL = ids_RL if self.ids_RL is None else torch.cat((self.ids_RL, ids_RL), dim=1)
        more = torch.full_like(self.ids_RL[:, :1], 5)  # the last token has no logits
        texts = Texts.pack(torch.cat((self.ids_RL, more), dim=1).tolist())
        rows = torch.arange(self.rows)
        context_R = rows // (self.rows // self.contexts)
        logits = self.decoder(texts, rows, self.context, self.concept_S[context_R])
        return logits.unflatten(0, (self.rows, -1))[:, -1]

    def reorder(self, row_R: Tensor) -> None:
        assert self.ids_RL is not None
        self.ids_RL = self.ids_RL[row_R]

    def __init__(self, decoder, context, concept_S, rows=1) -> None:  # type: ignore[no-untyped-def]
        super().__init__(decoder, context, concept_S, rows)
        self.context, self.concept_S = context, concept_S


@torch.no_grad()
def generated(config: GenerationConfig, kind: str = "vit") -> list[list[Generation]]:
    model, concepts = captioner(kind)
    return generate(model.caption_decoder, concepts, PROMPT, END, config)


def ids_of(texts: list[list[Generation]]) -> list[list[list[int]]]:
    return [[one.ids for one in several] for several in texts]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_keys_and_values_give_the_same_tokens(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = generated(CONFIGS[name], kind)
    monkeypatch.setattr("xvlm.models.generation.generate.IncrementalDecoder", Recomputing)
    recomputed = generated(CONFIGS[name], kind)
    assert ids_of(cached) == ids_of(recomputed)
    different = {tuple(ids) for several in ids_of(cached) for ids in several}
    assert kind == "cnn" or len(different) == sum(map(len, cached)), "the texts must differ"
    for several, others in zip(cached, recomputed, strict=True):
        expected = [one.log_probability for one in others]
        assert [one.log_probability for one in several] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_one_beam_tiny_top_p_and_one_token_are_greedy(penalty: float) -> None:
    greedy = ids_of(generated(replace(GREEDY, repetition_penalty=penalty)))
    for options in ({"top_p": 1e-9}, {"top_k": 1}, {"temperature": 1e-6}):
        sampled = generated(replace(GREEDY, num_beams=3, repetition_penalty=penalty, **options))
        assert ids_of(sampled) == greedy, options


def test_samples_depend_on_the_seed() -> None:
    config = GenerationConfig(num_samples=4, max_tokens=12)
    first = generated(config)
    assert ids_of(first) == ids_of(generated(config)) != ids_of(generated(replace(config, seed=1)))
    for several in first:
        scores = [one.log_probability for one in several]
        assert len(several) == 4 and scores == sorted(scores, reverse=True)
        assert len({tuple(one.ids) for one in several}) > 1


@torch.no_grad()
def test_samples_of_one_image_do_not_depend_on_the_others() -> None:
    model, concepts = captioner("vit")
    config = GenerationConfig(num_samples=2, max_tokens=12)
    together = generate(model.caption_decoder, concepts, PROMPT, END, config, seeds=[7, 8, 9])
    last = replace(concepts, set_C=concepts.set_C[2:], mask_CP=concepts.mask_CP[2:])
    (alone,) = generate(model.caption_decoder, last, PROMPT, END, config, seeds=[9])
    assert [one.ids for one in alone] == [one.ids for one in together[2]]


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 1}, {"num_beams": 4}, {"num_samples": 2, "top_k": 9, "temperature": 2.0}],
    ids=str,
)
@torch.no_grad()
def test_log_probability_is_that_of_the_whole_text(options: dict[str, int]) -> None:
    """The log-probability is that of one forward pass; also of sampled texts, with any options."""
    model, concepts = captioner("vit")
    config = GenerationConfig(**options, min_tokens=0, max_tokens=8)  # type: ignore[arg-type]
    for image, several in enumerate(generate(model.caption_decoder, concepts, PROMPT, END, config)):
        for ids, log_probability in several:
            text = [*ids, END] if len(ids) < 8 else ids
            logits = model.caption_decoder(
                Texts.pack([text]), torch.tensor([0]), concepts, torch.tensor([image])
            )
            log_L = logits.log_softmax(-1)[range(len(text) - 1), text[1:]]
            assert log_probability == pytest.approx(log_L[len(PROMPT) - 1 :].sum().item(), rel=1e-9)


PROBABILITIES = torch.tensor([[0.5, 0.05, 0.3, 0.15]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.05, 0.3, 0.15]),
        ({"top_p": 0.7}, [0.625, 0, 0.375, 0]),
        ({"top_p": 0.81}, [10 / 19, 0, 6 / 19, 3 / 19]),
        ({"top_k": 2}, [0.625, 0, 0.375, 0]),
        ({"top_k": 3, "top_p": 0.6}, [0.625, 0, 0.375, 0]),
        ({"top_k": 99, "top_p": 1e-9}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365, 0.0225 / 0.365]),
    ],
)
def test_tokens_are_sampled_with_their_probability(options: dict[str, float], expected: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = PROBABILITIES.log().expand(20_000, -1)
    counts = Counter(sampling(**options, generators=[generator])(scores).tolist())  # type: ignore[arg-type]
    for token, probability in enumerate(expected):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.012)
        assert probability or not counts[token], "tokens that are cut off are never sampled"


def repeats(texts: list[list[Generation]]) -> int:
    return sum(len(one.ids) - len(set(one.ids)) for several in texts for one in several)


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"num_samples": 3, "top_p": 0.9}])
def test_a_penalty_makes_repeats_rarer(options: dict[str, int]) -> None:
    config = GenerationConfig(**options, min_tokens=24, max_tokens=24)  # type: ignore[arg-type]
    counts = [repeats(generated(replace(config, repetition_penalty=one))) for one in (1.0, 2.0, 8.0)]
    assert counts[0] > counts[1] > counts[2] and counts[0] > 2 * counts[2]


@settings(max_examples=25)
@given(
    st.integers(0, 20),
    st.integers(0, 10),
    st.sampled_from([{"num_beams": 1}, {"num_beams": 3}, {"num_samples": 2}]),
)
def test_lengths_are_within_the_limits(minimum: int, extra: int, options: dict[str, int]) -> None:
    longest = max(len(PROMPT) + 1, minimum + extra)
    for several in generated(GenerationConfig(**options, min_tokens=minimum, max_tokens=longest)):  # type: ignore[arg-type]
        for ids, _ in several:
            assert ids[:3] == PROMPT and minimum <= len(ids) <= longest and END not in ids[3:]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 2}, {"num_samples": 1}])
def test_impossible_lengths_are_an_error(options: dict[str, int]) -> None:
    positions = TEXT.max_positions
    with pytest.raises(
        ValueError, match=f"a text of {positions + 1} tokens exceeds the decoder's {positions} positions"
    ):
        generated(GenerationConfig(**options, max_tokens=positions + 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tokens is 3; the prompt alone has 3"):
        generated(GenerationConfig(**options, min_tokens=0, max_tokens=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"num_samples": -1}, "num_samples is -1"),
        ({"top_k": -2}, "top_k is -2"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"min_tokens": 9, "max_tokens": 8}, "max_tokens is 8; it must be 9 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_options_out_of_range_are_an_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**options)  # type: ignore[arg-type]


def test_options_of_sampling_alone_sample_one_text() -> None:
    assert GenerationConfig().num_sampled == 0 and GenerationConfig(num_samples=4, top_p=0.5).num_sampled == 4
    assert all(
        GenerationConfig(**one).num_sampled == 1
        for one in ({"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.7})
    )  # type: ignore[arg-type]
