"""Every way of writing gives the same tokens with and without kept keys and values, and its options hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.test_generate import PROMPT, captioner
from tests.tiny import TEXT
from xvlm.batch import Texts
from xvlm.model import generate
from xvlm.model.decoding import Decoding
from xvlm.model.generate import Writer, Written, sampler, write_texts

END = 3
GREEDY = Decoding(beams=1, max_tokens=14)
WAYS = {
    "greedy": GREEDY,
    "beams": Decoding(beams=4, max_tokens=14),
    "all tokens": Decoding(samples=3, max_tokens=14),
    "top k": Decoding(samples=2, top_k=5, max_tokens=14),
    "top p": Decoding(top_p=0.8, temperature=1.5, max_tokens=14),
    "penalty": Decoding(beams=1, repetition_penalty=1.7, max_tokens=14),
    "beams, penalty": Decoding(beams=3, repetition_penalty=1.7, max_tokens=14),
}


class Recomputing(Writer):
    """Keeps nothing but ids: each step reads every text from its beginning, as in training."""

    ids_RL: Tensor | None = None

    def step(self, ids_RL: Tensor) -> Tensor:
        self.ids_RL = ids_RL if self.ids_RL is None else torch.cat((self.ids_RL, ids_RL), dim=1)
        more = torch.full_like(self.ids_RL[:, :1], 5)  # logits are given for all tokens but the last
        texts = Texts.pack(torch.cat((self.ids_RL, more), dim=1).tolist())
        rows = torch.arange(self.rows)
        about = rows // (self.rows // self.things)
        logits = self.decoder(texts, rows, self.looked_at, self.concept_S[about])
        return logits.unflatten(0, (self.rows, -1))[:, -1]

    def reorder(self, row_R: Tensor) -> None:
        assert self.ids_RL is not None
        self.ids_RL = self.ids_RL[row_R]

    def __init__(self, decoder, looked_at, concept_S, rows_each=1) -> None:  # type: ignore[no-untyped-def]
        super().__init__(decoder, looked_at, concept_S, rows_each)
        self.looked_at, self.concept_S = looked_at, concept_S


@torch.no_grad()
def written(decoding: Decoding, kind: str = "vit") -> list[list[Written]]:
    model, concepts = captioner(kind)
    return write_texts(model.captions, concepts, PROMPT, END, decoding)


def ids_of(texts: list[list[Written]]) -> list[list[list[int]]]:
    return [[one.ids for one in several] for several in texts]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("way", WAYS)
def test_kept_keys_and_values_give_the_same_tokens(
    way: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = written(WAYS[way], kind)
    monkeypatch.setattr(generate, "Writer", Recomputing)
    again = written(WAYS[way], kind)
    assert ids_of(kept) == ids_of(again)
    different = {tuple(ids) for several in ids_of(kept) for ids in several}
    assert kind == "cnn" or len(different) == sum(map(len, kept)), "a case that could show nothing"
    for several, others in zip(kept, again, strict=True):
        expected = [one.log_probability for one in others]
        assert [one.log_probability for one in several] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_one_beam_next_to_no_share_and_one_token_are_greedy(penalty: float) -> None:
    greedy = ids_of(written(replace(GREEDY, repetition_penalty=penalty)))
    for options in ({"top_p": 1e-9}, {"top_k": 1}, {"temperature": 1e-6}):
        drawn = written(replace(GREEDY, beams=3, repetition_penalty=penalty, **options))
        assert ids_of(drawn) == greedy, options


def test_a_seed_gives_its_draws_and_another_gives_others() -> None:
    decoding = Decoding(samples=4, max_tokens=12)
    first = written(decoding)
    assert ids_of(first) == ids_of(written(decoding)) != ids_of(written(replace(decoding, seed=1)))
    for several in first:
        chances = [one.log_probability for one in several]
        assert len(several) == 4 and chances == sorted(chances, reverse=True)
        assert len({tuple(one.ids) for one in several}) > 1


@torch.no_grad()
def test_what_is_drawn_about_one_does_not_depend_on_the_others() -> None:
    model, concepts = captioner("vit")
    decoding = Decoding(samples=2, max_tokens=12)
    together = write_texts(model.captions, concepts, PROMPT, END, decoding, seeds=[7, 8, 9])
    last = replace(concepts, set_C=concepts.set_C[2:], mask_CP=concepts.mask_CP[2:])
    (alone,) = write_texts(model.captions, last, PROMPT, END, decoding, seeds=[9])
    assert [one.ids for one in alone] == [one.ids for one in together[2]]


@pytest.mark.parametrize(
    "way", [{"beams": 1}, {"beams": 4}, {"samples": 2, "top_k": 9, "temperature": 2.0}], ids=str
)
@torch.no_grad()
def test_log_probability_is_that_of_the_whole_text(way: dict[str, int]) -> None:
    """As the model reads it in one go; of drawn texts too, whatever they are drawn from."""
    model, concepts = captioner("vit")
    decoding = Decoding(**way, min_tokens=0, max_tokens=8)  # type: ignore[arg-type]
    for number, several in enumerate(write_texts(model.captions, concepts, PROMPT, END, decoding)):
        for ids, found in several:
            whole = [*ids, END] if len(ids) < 8 else ids
            logits = model.captions(Texts.pack([whole]), torch.tensor([0]), concepts, torch.tensor([number]))
            log_L = logits.log_softmax(-1)[range(len(whole) - 1), whole[1:]]
            assert found == pytest.approx(log_L[len(PROMPT) - 1 :].sum().item(), rel=1e-9)


CHANCES = torch.tensor([[0.5, 0.05, 0.3, 0.15]], dtype=torch.float64)


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
def test_tokens_are_drawn_as_often_as_they_should_be(
    options: dict[str, float], expected: list[float]
) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = sampler(**options, generators=[generator])(CHANCES.log().expand(20_000, -1))  # type: ignore[arg-type]
    counts = Counter(drawn.tolist())
    for token, share in enumerate(expected):
        assert counts[token] / 20_000 == pytest.approx(share, abs=0.012)
        assert share or not counts[token], "what is cut off is never drawn"


def repeats(texts: list[list[Written]]) -> int:
    return sum(len(one.ids) - len(set(one.ids)) for several in texts for one in several)


@pytest.mark.parametrize("way", [{"beams": 1}, {"beams": 3}, {"samples": 3, "top_p": 0.9}])
def test_a_penalty_makes_repeats_rarer(way: dict[str, int]) -> None:
    decoding = Decoding(**way, min_tokens=24, max_tokens=24)  # type: ignore[arg-type]
    found = [repeats(written(replace(decoding, repetition_penalty=one))) for one in (1.0, 2.0, 8.0)]
    assert found[0] > found[1] > found[2] and found[0] > 2 * found[2]


@settings(max_examples=25)
@given(st.integers(0, 20), st.integers(0, 10), st.sampled_from([{"beams": 1}, {"beams": 3}, {"samples": 2}]))
def test_lengths_are_kept(least: int, more: int, way: dict[str, int]) -> None:
    longest = max(len(PROMPT) + 1, least + more)
    for several in written(Decoding(**way, min_tokens=least, max_tokens=longest)):  # type: ignore[arg-type]
        for ids, _ in several:
            assert ids[:3] == PROMPT and least <= len(ids) <= longest and END not in ids[3:]


@pytest.mark.parametrize("way", [{"beams": 1}, {"beams": 2}, {"samples": 1}])
def test_lengths_that_cannot_be(way: dict[str, int]) -> None:
    reach = TEXT.max_positions
    with pytest.raises(ValueError, match=f"a text of {reach + 1} tokens .* positions reach {reach}"):
        written(Decoding(**way, max_tokens=reach + 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tokens is 3; the prompt alone has 3"):
        written(Decoding(**way, min_tokens=0, max_tokens=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beams": 0}, "beams is 0; it must be at least 1"),
        ({"samples": -1}, "samples is -1"),
        ({"top_k": -2}, "top_k is -2"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"min_tokens": 9, "max_tokens": 8}, "max_tokens is 8; it must be 9 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Decoding(**options)  # type: ignore[arg-type]


def test_options_of_draws_ask_for_one() -> None:
    assert Decoding().drawn == 0 and Decoding(samples=4, top_p=0.5).drawn == 4
    assert all(Decoding(**one).drawn == 1 for one in ({"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.7}))  # type: ignore[arg-type]
