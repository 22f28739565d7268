"""Generation token by token: cached keys and values change nothing, and the limits hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tiny import IMAGE_HW, TEXT, tiny_config
from xvlm.batch import Concepts, Images, Texts
from xvlm.models.generation.beam_search import beam_search
from xvlm.models.generation.decoder import next_token_positions
from xvlm.models.generation.incremental import IncrementalDecoder
from xvlm.models.generation.sampling import generate_tokens, greedy_choice
from xvlm.models.generation.search import LengthLimits
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.xvlm import XVLM, MissingHead, build_model

PROMPT = [2, 7, 9]


def captioner(kind: str = "cnn") -> tuple[XVLM, ConceptTokens]:
    """Return a captioning model with large weights, whose texts differ, and tokens of three noise images."""
    torch.manual_seed(0)
    config = tiny_config(kind)
    model = build_model(type(config)(**{**vars(config), "heads": ("caption_decoder",)})).double().eval()
    with torch.no_grad():
        for name, parameter in model.caption_decoder.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    images = Images(torch.randint(0, 256, (3, 3, *IMAGE_HW), dtype=torch.uint8))
    concepts, _ = model.encode_concepts(model.encode_images(images), Concepts.none("cpu"))
    return model, concepts


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@torch.no_grad()
def test_cached_keys_and_values_change_nothing(kind: str) -> None:
    model, concepts = captioner(kind)
    ids_RL = torch.randint(5, TEXT.vocab_size, (3, 9))
    decoder = IncrementalDecoder(model.caption_decoder, concepts, torch.arange(3))
    steps = [decoder.step(ids_RL[:, :4])]
    steps += [decoder.step(ids_RL[:, position : position + 1]) for position in range(4, 8)]
    rows = torch.arange(3)
    logits = model.caption_decoder(Texts.pack(ids_RL.tolist()), rows, concepts, rows).unflatten(0, (3, 8))
    torch.testing.assert_close(torch.stack(steps, dim=1), logits[:, 3:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_one_beam_is_greedy() -> None:
    model, concepts = captioner()
    limits = LengthLimits(end=3, max_length=12, min_length=5)
    greedy = generate_tokens(
        IncrementalDecoder(model.caption_decoder, concepts, torch.arange(3)), PROMPT, limits, greedy_choice
    )
    searched = beam_search(
        IncrementalDecoder(model.caption_decoder, concepts, torch.arange(3)), PROMPT, limits, 1
    )
    assert [one.ids for one in greedy] == [one.ids for one in searched]
    expected = [one.log_probability for one in searched]
    assert [one.log_probability for one in greedy] == pytest.approx(expected)
    assert all(ids[:3] == PROMPT and 5 <= len(ids) <= 12 and 3 not in ids[3:] for ids, _ in greedy)


@torch.no_grad()
def test_a_wide_beam_finds_the_best_of_all_texts() -> None:
    """With two tokens after the prompt, every text can be scored."""
    model, concepts = captioner()
    limits = LengthLimits(end=3, max_length=5, min_length=99)
    vocabulary = [token for token in range(TEXT.vocab_size) if token != limits.end]
    (best, *_) = beam_search(
        IncrementalDecoder(model.caption_decoder, concepts, torch.arange(3), len(vocabulary)),
        PROMPT,
        limits,
        len(vocabulary),
    )
    texts = Texts.pack([[*PROMPT, a, b] for a in vocabulary for b in vocabulary])
    rows = torch.arange(len(texts))
    logits = model.caption_decoder(texts, rows, concepts, torch.zeros_like(rows))
    index_M, _ = next_token_positions(texts.lengths_N)
    log_M = logits.log_softmax(-1).gather(1, texts.ids_T[index_M + 1][:, None])[:, 0]
    total_R = log_M.unflatten(0, (len(texts), -1))[:, -2:].sum(1)
    index = int(total_R.argmax())
    assert best.log_probability == pytest.approx(float(total_R[index]), rel=1e-9)
    assert best.ids[3:] == [vocabulary[index // len(vocabulary)], vocabulary[index % len(vocabulary)]]


def test_texts_longer_than_the_positions_are_an_error() -> None:
    model, concepts = captioner()
    decoder = IncrementalDecoder(model.caption_decoder, concepts, torch.arange(3))
    with pytest.raises(ValueError, match=rf"decoder's {TEXT.max_positions} positions"):
        decoder.step(torch.ones(3, TEXT.max_positions + 1, dtype=torch.int64))


def test_a_missing_head_is_an_error() -> None:
    model, _ = captioner()
    states: Tensor = torch.zeros(1, TEXT.width)
    with pytest.raises(MissingHead, match=r"no head 'matching'.* it has caption_decoder"):
        model.match(states)
    with pytest.raises(ValueError, match="need a cross-modal encoder over image pairs"):
        build_model(type(model.config)(**{**vars(model.config), "heads": ("pair_classifier", "box")}))
