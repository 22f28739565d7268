"""Texts written token by token: what is kept changes nothing, and the limits hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import IMAGE_HW, TEXT, tiny_config
from xvlm.batch import Concepts, Images, Texts
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoder import followed
from xvlm.model.generate import Limits, Writer, beam_search, greedy, write
from xvlm.model.xvlm import XVLM, MissingPart, build_model

PROMPT = [2, 7, 9]


def captioner(kind: str = "cnn") -> tuple[XVLM, ConceptTokens]:
    """A model that writes about three images of noise, with weights large enough to have opinions."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    model = build_model(type(config)(**{**vars(config), "parts": ("captions",)})).double().eval()
    with torch.no_grad():
        for name, parameter in model.captions.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    images = Images(torch.randint(0, 256, (3, 3, *IMAGE_HW), dtype=torch.uint8))
    concepts, _ = model.encode_concepts(model.encode_images(images), Concepts.none("cpu"))
    return model, concepts


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@torch.no_grad()
def test_kept_keys_and_values_change_nothing(kind: str) -> None:
    model, concepts = captioner(kind)
    ids_RL = torch.randint(5, TEXT.vocab_size, (3, 9))
    writer = Writer(model.captions, concepts, torch.arange(3))
    steps = [writer.step(ids_RL[:, :4])] + [
        writer.step(ids_RL[:, place : place + 1]) for place in range(4, 8)
    ]
    rows = torch.arange(3)
    whole = model.captions(Texts.pack(ids_RL.tolist()), rows, concepts, rows).unflatten(0, (3, 8))
    torch.testing.assert_close(torch.stack(steps, dim=1), whole[:, 3:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_one_beam_is_greedy() -> None:
    model, concepts = captioner()
    limits = Limits(end=3, max_length=12, min_length=5)
    found = write(Writer(model.captions, concepts, torch.arange(3)), PROMPT, limits, greedy)
    searched = beam_search(Writer(model.captions, concepts, torch.arange(3)), PROMPT, limits, 1)
    assert [one.ids for one in found] == [one.ids for one in searched]
    expected = [one.log_probability for one in searched]
    assert [one.log_probability for one in found] == pytest.approx(expected)
    assert all(ids[:3] == PROMPT and 5 <= len(ids) <= 12 and 3 not in ids[3:] for ids, _ in found)


@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all_texts() -> None:
    """Two free tokens: every text can be looked at."""
    model, concepts = captioner()
    limits = Limits(end=3, max_length=5, min_length=99)
    vocabulary = [token for token in range(TEXT.vocab_size) if token != limits.end]
    (found, *_) = beam_search(
        Writer(model.captions, concepts, torch.arange(3), len(vocabulary)), PROMPT, limits, len(vocabulary)
    )
    texts = Texts.pack([[*PROMPT, a, b] for a in vocabulary for b in vocabulary])
    rows = torch.arange(len(texts))
    logits = model.captions(texts, rows, concepts, torch.zeros_like(rows))
    at_M, _ = followed(texts.lengths_N)
    log_M = logits.log_softmax(-1).gather(1, texts.ids_T[at_M + 1][:, None])[:, 0]
    total_R = log_M.unflatten(0, (len(texts), -1))[:, -2:].sum(1)
    best = int(total_R.argmax())
    assert found.log_probability == pytest.approx(float(total_R[best]), rel=1e-9)
    assert found.ids[3:] == [vocabulary[best // len(vocabulary)], vocabulary[best % len(vocabulary)]]


def test_texts_longer_than_the_positions_are_an_error() -> None:
    model, concepts = captioner()
    writer = Writer(model.captions, concepts, torch.arange(3))
    with pytest.raises(ValueError, match=rf"positions reach {TEXT.max_positions}"):
        writer.step(torch.ones(3, TEXT.max_positions + 1, dtype=torch.int64))


def test_a_model_says_what_it_has_no_head_for() -> None:
    model, _ = captioner()
    states: Tensor = torch.zeros(1, TEXT.width)
    with pytest.raises(MissingPart, match=r"no 'matching'.* it has captions"):
        model.match(states)
    with pytest.raises(ValueError, match="looks at pairs serves only"):
        build_model(type(model.config)(**{**vars(model.config), "parts": ("pairs", "box")}))
