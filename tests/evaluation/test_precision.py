"""Rankings and samples have float32 precision under bfloat16 autocast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.evaluation.kit import source_of
from tests.tiny import photo, tiny_loaded, tiny_loaded_for, write_photos
from xvlm.batch import Texts
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation import retrieval
from xvlm.evaluation.common.candidates import (
    CandidateSet,
    RankedCandidates,
    TruePairs,
    contrastive_candidates,
)
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.weak_grounding import evaluate_weak_grounding
from xvlm.losses import negatives
from xvlm.models.generation.answer_ranking import rank_answers
from xvlm.models.generation.beam_search import beam_search
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.generation.decoder import Decoder
from xvlm.models.generation.generate import generate
from xvlm.models.generation.incremental import IncrementalDecoder
from xvlm.models.generation.search import LengthLimits
from xvlm.models.text.attention import ConceptTokens
from xvlm.predict import Predictor


@pytest.fixture
def half() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


def directions(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_contrastive_candidates(half: None) -> None:
    images, texts = (
        CandidateSet(directions(9, 64, 0), torch.arange(9)),
        CandidateSet(directions(9, 64, 1), torch.arange(9)),
    )
    ranked = contrastive_candidates(images, texts, torch.tensor(0.01), 9)
    cosine_IN = images.embedding_NE.double() @ texts.embedding_NE.double().T
    best = (cosine_IN / 0.01).sort(dim=1, descending=True)
    torch.testing.assert_close(ranked.score_Qk.double(), best.values, atol=1e-4, rtol=1e-6)
    assert torch.equal(ranked.index_Qk, best.indices)


def test_a_full_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: None) -> None:
    """The scores of the ranked lists are those of the embeddings in double precision."""
    query_sets: list[CandidateSet] = []

    def recorded(
        queries: CandidateSet, candidates: CandidateSet, *args: Any, pairs: TruePairs
    ) -> RankedCandidates:
        query_sets.append(queries)
        return contrastive_candidates(queries, candidates, *args, pairs=pairs)

    monkeypatch.setattr(retrieval, "contrastive_candidates", recorded)
    predictor = Predictor(tiny_loaded())
    _, result = evaluate_retrieval(predictor, JsonSource(write_photos(tmp_path, 6)), rerank_top_k=0)
    cosine_IN = query_sets[0].embedding_NE.double() @ query_sets[1].embedding_NE.double().T
    score_IN = cosine_IN / predictor.model.contrastive.temperature.double()
    torch.testing.assert_close(
        result.i2t.score_Qk.double(), score_IN.gather(1, result.i2t.index_Qk), atol=1e-5, rtol=1e-6
    )


def record_probabilities(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that receives the probabilities that negatives are sampled from."""
    probabilities: list[Tensor] = []
    real = negatives._hard_probabilities

    def record(*arguments: Tensor) -> Tensor:
        probabilities.append(real(*arguments))
        return probabilities[-1]

    monkeypatch.setattr(negatives, "_hard_probabilities", record)
    return probabilities


def test_negatives_and_assigned_images(monkeypatch: pytest.MonkeyPatch, half: None) -> None:
    """At temperature 0.01, half precision would change the probabilities by 50 %."""
    image_BE, same_BB = directions(8, 64, 2), torch.eye(8, dtype=torch.bool)
    text_BE = F.normalize(image_BE + 0.3 * directions(8, 64, 3), dim=1)
    probabilities = record_probabilities(monkeypatch)
    negatives.sample_image_assignment(image_BE, same_BB, 0.01)
    negatives.sample_negatives(image_BE, text_BE, torch.tensor(0.01), same_BB, torch.arange(8))
    assert len(probabilities) == 3
    for sampled, (a_BE, b_BE) in zip(
        probabilities, ((image_BE, image_BE), (text_BE, image_BE), (image_BE, text_BE)), strict=True
    ):
        with torch.autocast("cpu", enabled=False):
            weight = ((a_BE.double() @ b_BE.double().T / 0.01).softmax(1) + 1e-5) * ~same_BB
        torch.testing.assert_close(
            sampled.double(), weight / weight.sum(1, keepdim=True), atol=1e-6, rtol=1e-4
        )


def decoder_with_context(seed: int = 0) -> tuple[Decoder, ConceptTokens]:
    model = tiny_loaded_for("caption_decoder").model
    torch.manual_seed(seed)
    pixels = torch.randint(0, 256, (2, 3, *model.config.vision.image_hw), dtype=torch.uint8)
    predictor = Predictor(tiny_loaded_for("caption_decoder"))
    return model.caption_decoder, predictor.model.encode_whole(predictor.encode_images(list(pixels)))[0]


def full(x: Tensor, decoder: Decoder) -> Tensor:
    """Compute the (M, V) logits of (M, D) states in float64, with the weights of the head."""
    head, token_VD = decoder.head, decoder.text.embedding.token.weight.double()
    x = F.linear(x.double(), head.transform.weight.double(), head.transform.bias.double())
    x = F.layer_norm(
        F.gelu(x), x.shape[-1:], head.norm.weight.double(), head.norm.bias.double(), head.norm.eps
    )
    return x @ token_VD.T + head.bias.double()


@torch.no_grad()
def test_answers_are_ranked_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities are those of float64 logits of the states."""
    decoder, context = decoder_with_context()
    answers = Texts.pack([[2, 7, 9, 3], [2, 11, 3], [2, 7, 3], [2, 12, 13, 14, 3]])
    recorded: list[Tensor] = []
    states = decoder.states
    monkeypatch.setattr(decoder, "states", lambda *args: recorded.append(states(*args)) or recorded[-1])
    with torch.autocast("cpu", torch.bfloat16):
        ranked = rank_answers(decoder, context, answers, 4)
    first_QV = full(recorded[0], decoder).log_softmax(1)
    other_MV = full(recorded[1], decoder).log_softmax(1)
    first_QA = first_QV[:, [7, 11, 7, 12]]
    order_QA = first_QA.topk(4, dim=1).indices
    row, expected = 0, torch.zeros(2, 4, dtype=torch.float64)
    ids = [[7, 9, 3], [11, 3], [7, 3], [12, 13, 14, 3]]
    for question in range(2):
        for rank, answer in enumerate(order_QA[question].tolist()):
            expected[question, rank] = first_QA[question, answer]
            for token in ids[answer]:
                expected[question, rank] += other_MV[row, token]
                row += 1
    torch.testing.assert_close(
        ranked.probability_Qk.double(),
        expected.softmax(1).sort(dim=1, descending=True).values,
        atol=1e-6,
        rtol=1e-5,
    )


@torch.no_grad()
def test_texts_are_generated_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probability of a beam is the sum of those of its tokens in float64."""
    decoder, context = decoder_with_context()
    recorded: list[Tensor] = []
    predict = decoder.predict
    monkeypatch.setattr(decoder, "predict", lambda x: recorded.append(x) or predict(x))
    with torch.autocast("cpu", torch.bfloat16):
        (one, other) = beam_search(
            IncrementalDecoder(decoder, context, torch.arange(2)), [2], LengthLimits(3, 6), 1
        )
    for number, text in enumerate((one, other)):
        tokens = [*text.ids[1:], 3][: len(recorded)]
        steps = [full(x, decoder).log_softmax(1)[number] for x in recorded]
        total = sum(float(step[token]) for step, token in zip(steps, tokens, strict=False))
        assert text.log_probability == pytest.approx(total, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        (sampled,), _ = generate(
            decoder, context, [2], 3, GenerationConfig(num_samples=1, min_tokens=0, max_tokens=4)
        )
    assert sampled.log_probability != torch.tensor(sampled.log_probability).bfloat16().item()


def test_attention_maps_are_not_rounded_to_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: None
) -> None:
    photo(60, 50, 1).save(tmp_path / "0.png")
    items = [{"image": "0.png", "text": text, "bbox": [5, 5, 30, 30]} for text in ("a red dog", "the tree")]
    _, predictions = evaluate_weak_grounding(Predictor(tiny_loaded()), source_of(tmp_path, items))
    values = torch.tensor([one.map_hw for one in predictions])
    values = values[values > 0]
    assert len(values) > 10 and (values.bfloat16().float() != values).float().mean() > 0.8
