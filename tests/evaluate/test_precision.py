"""Whatever is ranked or drawn has the figures of float32 where autocast multiplies in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.evaluate.test_images import source_of
from tests.tiny import photo, tiny_loaded, tiny_loaded_for, write_photos
from xvlm.batch import Texts
from xvlm.data.sources import JsonSource
from xvlm.evaluate import retrieval
from xvlm.evaluate._candidates import Pairs, Ranked, Side, contrastive_candidates
from xvlm.evaluate.retrieval import evaluate_retrieval
from xvlm.evaluate.weak_grounding import evaluate_maps
from xvlm.losses import matching
from xvlm.model.answers import rank_answers
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoder import Decoder
from xvlm.model.decoding import Decoding
from xvlm.model.generate import Limits, Writer, beam_search, write_texts
from xvlm.predict import Predictor


@pytest.fixture
def half() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


def directions(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_contrastive_candidates(half: None) -> None:
    images, texts = Side(directions(9, 64, 0), torch.arange(9)), Side(directions(9, 64, 1), torch.arange(9))
    found = contrastive_candidates(images, texts, torch.tensor(0.01), 9)
    cosine_IT = images.embedding_NE.double() @ texts.embedding_NE.double().T
    best = (cosine_IT / 0.01).sort(dim=1, descending=True)
    torch.testing.assert_close(found.score_Qk.double(), best.values, atol=1e-4, rtol=1e-6)
    assert torch.equal(found.index_Qk, best.indices)


def test_a_whole_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: None) -> None:
    """The scores of the lists are those of the embeddings that the encoders gave."""
    sides: list[Side] = []

    def kept(queries: Side, candidates: Side, *args: Any, pairs: Pairs) -> Ranked:
        sides.append(queries)
        return contrastive_candidates(queries, candidates, *args, pairs=pairs)

    monkeypatch.setattr(retrieval, "contrastive_candidates", kept)
    predictor = Predictor(tiny_loaded())
    _, found = evaluate_retrieval(predictor, JsonSource(write_photos(tmp_path, 6)), top=0)
    cosine_IT = sides[0].embedding_NE.double() @ sides[1].embedding_NE.double().T
    score_IT = cosine_IT / predictor.model.contrastive.temperature.double()
    torch.testing.assert_close(
        found.i2t.score_Qk.double(), score_IT.gather(1, found.i2t.index_Qk), atol=1e-5, rtol=1e-6
    )


def drawn_from(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The chances of every draw."""
    chances: list[Tensor] = []
    multinomial = torch.multinomial
    monkeypatch.setattr(
        torch, "multinomial", lambda weight, *args: chances.append(weight) or multinomial(weight, *args)
    )
    return chances


def test_negatives_and_assigned_images(monkeypatch: pytest.MonkeyPatch, half: None) -> None:
    """Chances at temperature 0.01, where half precision changes them by half of themselves."""
    image_BE, same_BB = directions(8, 64, 2), torch.eye(8, dtype=torch.bool)
    text_BE = F.normalize(image_BE + 0.3 * directions(8, 64, 3), dim=1)
    chances = drawn_from(monkeypatch)
    matching.draw_assigned(image_BE, same_BB, 0.01)
    matching.draw_negatives(image_BE, text_BE, torch.tensor(0.01), same_BB, torch.arange(8))
    assert len(chances) == 3
    for found, (a_BE, b_BE) in zip(
        chances, ((image_BE, image_BE), (text_BE, image_BE), (image_BE, text_BE)), strict=True
    ):
        with torch.autocast("cpu", enabled=False):
            weight = ((a_BE.double() @ b_BE.double().T / 0.01).softmax(1) + 1e-5) * ~same_BB
        torch.testing.assert_close(found.double(), weight / weight.sum(1, keepdim=True), atol=1e-6, rtol=1e-4)


def decoder_with_context(seed: int = 0) -> tuple[Decoder, ConceptTokens]:
    model = tiny_loaded_for("captions").model
    torch.manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, *model.config.vision.image_hw), dtype=torch.uint8)
    predictor = Predictor(tiny_loaded_for("captions"))
    return model.captions, predictor.model.encode_whole(predictor.encode_images(list(pixels)))[0]


def full(x: Tensor, decoder: Decoder) -> Tensor:
    """(M, D) states -> (M, V) logits in float64, by the head's own layers."""
    head, token_VD = decoder.head, decoder.text.embedding.token.weight.double()
    x = F.linear(x.double(), head.transform.weight.double(), head.transform.bias.double())
    x = F.layer_norm(
        F.gelu(x), x.shape[-1:], head.norm.weight.double(), head.norm.bias.double(), head.norm.eps
    )
    return x @ token_VD.T + head.bias.double()


@torch.no_grad()
def test_answers_are_ranked_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layers give: probabilities are those of float64 logits of their states."""
    decoder, looked_at = decoder_with_context()
    answers = Texts.pack([[2, 7, 9, 3], [2, 11, 3], [2, 7, 3], [2, 12, 13, 14, 3]])
    given: list[Tensor] = []
    states = decoder.states
    monkeypatch.setattr(decoder, "states", lambda *args: given.append(states(*args)) or given[-1])
    with torch.autocast("cpu", torch.bfloat16):
        found = rank_answers(decoder, looked_at, answers, 4)
    first_NV = full(given[0], decoder).log_softmax(1)
    told_MV = full(given[1], decoder).log_softmax(1)
    first_NA = first_NV[:, [7, 11, 7, 12]]
    order_NA = first_NA.topk(4, dim=1).indices
    row, expected = 0, torch.zeros(2, 4, dtype=torch.float64)
    ids = [[7, 9, 3], [11, 3], [7, 3], [12, 13, 14, 3]]
    for question in range(2):
        for place, answer in enumerate(order_NA[question].tolist()):
            expected[question, place] = first_NA[question, answer]
            for token in ids[answer]:
                expected[question, place] += told_MV[row, token]
                row += 1
    torch.testing.assert_close(
        found.probability_Nk.double(),
        expected.softmax(1).sort(dim=1, descending=True).values,
        atol=1e-6,
        rtol=1e-5,
    )


@torch.no_grad()
def test_texts_are_written_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beam's log-probability is the sum of those of the states that the layers gave."""
    decoder, looked_at = decoder_with_context()
    given: list[Tensor] = []
    predict = decoder.predict
    monkeypatch.setattr(decoder, "predict", lambda x: given.append(x) or predict(x))
    with torch.autocast("cpu", torch.bfloat16):
        (one, other) = beam_search(Writer(decoder, looked_at, torch.arange(2)), [2], Limits(3, 6), 1)
    for number, text in enumerate((one, other)):
        tokens = [*text.ids[1:], 3][: len(given)]
        steps = [full(x, decoder).log_softmax(1)[number] for x in given]
        total = sum(float(step[token]) for step, token in zip(steps, tokens, strict=False))
        assert text.log_probability == pytest.approx(total, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        (drawn,), _ = write_texts(decoder, looked_at, [2], 3, Decoding(samples=1, min_tokens=0, max_tokens=4))
    assert drawn.log_probability != torch.tensor(drawn.log_probability).bfloat16().item()


def test_maps_are_not_of_three_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: None) -> None:
    photo(60, 50, 1).save(tmp_path / "0.png")
    items = [{"image": "0.png", "text": text, "bbox": [5, 5, 30, 30]} for text in ("a red dog", "the tree")]
    _, found = evaluate_maps(Predictor(tiny_loaded()), source_of(tmp_path, items))
    values = torch.tensor([one.map_hw for one in found])
    values = values[values > 0]
    assert len(values) > 10 and (values.bfloat16().float() != values).float().mean() > 0.8
