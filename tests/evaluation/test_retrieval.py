"""Two-stage retrieval equals scoring every pair, whatever is cached, and scores each pair once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.evaluation.kit import count_encoded
from tests.tiny import tiny_loaded, write_photos
from xvlm.batch import Concepts
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.data.text.cleaning import clean_caption
from xvlm.evaluation import retrieval
from xvlm.evaluation.common import reranking
from xvlm.evaluation.common.candidates import (
    CandidateSet,
    RankedCandidates,
    TruePairs,
    contrastive_candidates,
)
from xvlm.evaluation.common.feature_cache import ImageFeatureCache, TextFeatureCache
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.retrieval_result import NUM_LISTED, RetrievalResult, image_rankings, text_rankings
from xvlm.metrics.recall import rank_of_first_true, recall_metrics
from xvlm.predict import Predictor


@pytest.fixture(scope="module", params=["cnn", "vit"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor(tiny_loaded(request.param))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 7)


def all_pairs(predictor: Predictor, result: RetrievalResult) -> tuple[Tensor, Tensor]:
    """Compute the (I, N) contrastive scores and matching log-odds, pair by pair."""
    contrastive, matching = [], []
    for index in range(len(result.images)):
        image = predictor.image(result.read_image(index))
        probability = torch.tensor([image.match([text])[0] for text in result.texts], dtype=torch.float64)
        matching.append(probability.logit())
        texts = predictor.encode_texts(result.texts)
        head = predictor.model.contrastive
        cls_1D = predictor.model.vision.concepts(image.features, Concepts.none("cpu"))[1]
        cosine = head.embed_concepts(cls_1D) @ head.embed_texts(texts.cls_ND).T
        contrastive.append((cosine / head.temperature).detach()[0].double())
    return torch.stack(contrastive), torch.stack(matching)


def matrix(ranked: RankedCandidates, count: int, first: int | None = None) -> Tensor:
    """Return a (Q, count) matrix of the scores of the first candidates, NaN elsewhere; by default of all."""
    index_Qk, score_Qk = ranked.index_Qk[:, :first], ranked.score_Qk[:, :first]
    return torch.full((len(index_Qk), count), torch.nan).scatter(1, index_Qk, score_Qk).double()


@pytest.mark.parametrize(("batch", "memory"), [(2, 0.0), (2, 4.0), (32, 4.0)])
def test_reranking_everything_is_scoring_every_pair(
    predictor: Predictor, photos: Path, batch: int, memory: float
) -> None:
    options = {"rerank_top_k": 99, "batch_size": batch, "memory_gb": memory}
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), rerank="matching", **options)  # type: ignore[arg-type]
    assert metrics["retrieval_images"] == 7 and metrics["retrieval_texts"] == 14
    assert result.image_N.tolist() == [i for i in range(7) for _ in range(2)]
    contrastive, matching = all_pairs(predictor, result)
    true_IN = torch.arange(7)[:, None] == result.image_N
    _, both = evaluate_retrieval(predictor, JsonSource(photos), rerank="both", **options)  # type: ignore[arg-type]
    for ranked, score_IN in ((result, matching), (both, matching + contrastive)):
        torch.testing.assert_close(matrix(ranked.i2t, 14), score_IN, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(matrix(ranked.t2i, 7), score_IN.T, atol=1e-4, rtol=1e-3)
        assert ranked.i2t.rank_Q3.tolist() == rank_of_first_true(score_IN, true_IN).tolist()
        assert ranked.t2i.rank_Q3.tolist() == rank_of_first_true(score_IN.T, true_IN.T).tolist()
    for suffix, score_IN in (("", matching), ("_contrastive", contrastive)):
        ranks = (rank_of_first_true(score_IN, true_IN), rank_of_first_true(score_IN.T, true_IN.T))
        expected = recall_metrics(*ranks, suffix)
        assert {name: metrics[name] for name in expected} == expected


def test_candidates_that_are_not_reranked_keep_their_order(predictor: Predictor, photos: Path) -> None:
    _, result = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=3, rerank="matching")
    contrastive, matching = all_pairs(predictor, result)
    for ranked, prior_QN, match_QN in (
        (result.i2t, contrastive, matching),
        (result.t2i, contrastive.T, matching.T),
    ):
        order_QN = prior_QN.argsort(dim=1, descending=True)
        listed = min(NUM_LISTED, prior_QN.shape[1])
        for q, (index, order) in enumerate(zip(ranked.index_Qk.tolist(), order_QN.tolist(), strict=True)):
            first = sorted(order[:3], key=lambda c: -match_QN[q, c])
            assert index == [*first, *order[3:listed]]
        torch.testing.assert_close(
            matrix(ranked, prior_QN.shape[1], 3).nan_to_num(0),
            torch.where(matrix(ranked, prior_QN.shape[1], 3).isnan(), 0, match_QN),
            atol=1e-4,
            rtol=1e-3,
        )


def test_no_reranking_is_the_contrastive_ranking(predictor: Predictor, photos: Path) -> None:
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=0)
    contrastive, _ = all_pairs(predictor, result)
    torch.testing.assert_close(matrix(result.t2i, 7), contrastive.T, atol=1e-4, rtol=1e-4)
    assert "t2i_r1_contrastive" in metrics and "t2i_r1" not in metrics


def test_each_pair_is_scored_once_and_each_image_is_encoded_once_or_twice(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache changes the work, but no result."""
    scored: list[tuple[int, int]] = []
    match_pairs = reranking.match_pairs
    encoded = count_encoded(predictor, monkeypatch)

    def recorded(texts, concepts, concept_R, text_R, published):  # type: ignore[no-untyped-def]
        scored.extend(zip(concept_R.tolist(), text_R.tolist(), strict=True))
        return match_pairs(texts, concepts, concept_R, text_R, published)

    monkeypatch.setattr(reranking, "match_pairs", recorded)
    results = {}
    for memory in (0.0, 4.0):
        scored.clear(), encoded.clear()
        results[memory] = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=2, memory_gb=memory)
        _, ranked = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=0, memory_gb=memory)
        encoded.pop()
        wanted = {(i, t) for i, row in enumerate(ranked.i2t.index_Qk[:, :2].tolist()) for t in row}
        wanted |= {(i, t) for t, row in enumerate(ranked.t2i.index_Qk[:, :2].tolist()) for i in row}
        assert len(scored) == len(wanted) < 7 * 2 + 14 * 2 and set(scored) == wanted
        assert encoded == ([7, 7] if memory == 0 else [7])
    assert results[0.0][0] == results[4.0][0]
    assert results[0.0][1].to_json() == results[4.0][1].to_json()


@pytest.mark.parametrize("share", [0.0, 0.99, 1.0, 1.5, 10.0])
def test_the_caches_stay_within_their_budget(
    predictor: Predictor, photos: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is `share` of the size of the text features; beside them the images may fit, or not."""
    caches: list[ImageFeatureCache | TextFeatureCache] = []
    for kind in (ImageFeatureCache, TextFeatureCache):

        def recorded(*args, kind=kind):  # type: ignore[no-untyped-def]
            caches.append(kind(*args))
            return caches[-1]

        monkeypatch.setattr(retrieval, kind.__name__, recorded)
    text_bytes = len(predictor.tokens(all_texts(photos)).ids_T) * 32 * 4
    budget = int(text_bytes * share)
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), batch_size=2, memory_gb=budget / 1e9)
    images, texts = caches
    assert isinstance(images, ImageFeatureCache) and isinstance(texts, TextFeatureCache)
    image_bytes = sum(one.tokens_SPD.nbytes + one.mask_CP.nbytes for one in images.cached or ())
    cached_texts = 0 if texts.states_TD is None else texts.states_TD.nbytes
    assert image_bytes + cached_texts <= budget
    assert cached_texts == (text_bytes if share >= 1 else 0)
    assert bool(image_bytes) == (images.total_bytes <= budget - cached_texts)
    expected, expected_result = evaluate_retrieval(predictor, JsonSource(photos), batch_size=2)
    assert metrics == expected and result.to_json() == expected_result.to_json()


def all_texts(photos: Path) -> list[str]:
    return [text for line in photos.read_text().splitlines() for text in json.loads(line)["caption"]]


def test_records_of_one_file_are_one_image(predictor: Predictor, photos: Path) -> None:
    """Each caption has its own record."""
    names = ["0.jpg", "0.jpg", "1.jpg", "1.jpg", "gone.jpg", "2.jpg"]
    captions = ["a red dog", "the dog", "a tree", ["small tree", "large tree"], "a car", "a blue car"]
    path = photos.parent / "lines.json"
    items = [{"image": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]
    path.write_text(json.dumps(items))
    metrics, result = evaluate_retrieval(predictor, JsonSource(path), memory_gb=0.0)
    assert [image.path for image in result.images] == [str(photos.parent / f"{n}.jpg") for n in range(3)]
    assert result.image_N.tolist() == [0, 0, 1, 1, 1, 2] and result.texts[3:5] == captions[3]
    assert metrics["retrieval_images"] == 3 and metrics["retrieval_skipped"] == 1
    assert [result.read_image(index) for index in range(3)] == [image.path for image in result.images]
    _, result = evaluate_retrieval(predictor, JsonSource(path), texts_per_image=2)
    assert result.texts == ["a red dog", "the dog", "a tree", "small tree", "a blue car"]


def test_texts_per_image(predictor: Predictor, photos: Path) -> None:
    _, result = evaluate_retrieval(predictor, JsonSource(photos), limit=3, rerank_top_k=0, texts_per_image=1)
    assert result.image_N.tolist() == [0, 1, 2] and len(result.images) == 3
    assert result.texts == [JsonSource(photos)[i].concepts[0].texts[0] for i in range(3)]


@pytest.mark.parametrize("top", [0, 3, 99])
def test_json_of_the_ranked_lists(predictor: Predictor, photos: Path, top: int) -> None:
    """Each query has its true candidates, the rank of the first of them, and the ten best with scores."""
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=top)
    lists = json.loads(json.dumps(result.to_json()))
    assert lists["reranked"] == top
    assert [row["text"] for row in lists["texts"]] == result.texts
    assert lists["images"][2] == {"key": result.images[2].key, "image": result.images[2].path}
    assert [row["true"] for row in lists["i2t"]] == [[2 * i, 2 * i + 1] for i in range(7)]
    assert [row["true"] for row in lists["t2i"]] == [[t // 2] for t in range(14)]
    for direction, candidates in (("i2t", 14), ("t2i", 7)):
        for row in lists[direction]:
            ranks = [rank for rank, (c, _) in enumerate(row["best"], 1) if c in row["true"]]
            assert len(row["best"]) == min(10, candidates)
            assert row["rank"] == ranks[0] if ranks else row["rank"] > 10
        hits = sum(row["rank"] == 1 for row in lists[direction]) / len(lists[direction])
        assert hits == metrics[f"{direction}_r1" if top else f"{direction}_r1_contrastive"]


def test_a_model_with_nan_finds_nothing(photos: Path) -> None:
    predictor = Predictor(tiny_loaded("cnn"))
    torch.nn.init.constant_(predictor.model.matching[0].weight, torch.nan)  # type: ignore[arg-type]
    metrics, result = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=99)
    assert metrics["r_mean"] == 0.0 and metrics["r_mean_contrastive"] > 0
    assert result.to_json()["i2t"][0]["rank"] is None


def test_an_unknown_rerank_score_is_named(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ValueError, match="rerank is 'best'; it may be both, matching or published"):
        evaluate_retrieval(predictor, JsonSource(photos), rerank="best")


@pytest.mark.parametrize("top", [0, 2, 32])
def test_the_report_shows_the_best_candidates_and_a_true_one(predictor: Predictor, top: int) -> None:
    """Images are arrays; candidates that were not reranked have a share of 0."""
    source = open_source("scenes:test:9?image_size=64")
    _, result = evaluate_retrieval(predictor, source, rerank_top_k=top, texts_per_image=1)
    for rankings in (text_rankings(result, 4, first=3), image_rankings(result, 4, first=3)):
        assert len(rankings) == 4
        for one in rankings:
            shown = one.texts if hasattr(one, "texts") else one.images
            shares = [share for _, share, _ in shown]
            assert len(shown) in (3, 4) and shares == sorted(shares, reverse=True)
            assert sum(shares) <= 1.0001 and sum(true for *_, true in shown) == 1
            assert top != 2 or shares[2] == 0


def shared(folder: Path) -> JsonSource:
    """Return a source in which pairs of images share a caption in different spellings."""
    captions = [
        ["a red dog"],
        ["A red dog!"],
        ["the tree", "a car"],
        ["The tree.", "blue"],
        ["a car", "the tree"],
    ]
    path = folder / "shared.json"
    path.write_text(json.dumps([{"image": f"{n}.jpg", "caption": one} for n, one in enumerate(captions)]))
    return JsonSource(path)


@pytest.mark.parametrize("top", [0, 2, 99])
def test_a_text_that_equals_a_caption_of_an_image_is_true_of_it(
    predictor: Predictor, photos: Path, top: int
) -> None:
    """The reference is the definition, on all pairs, in both directions."""
    metrics, result = evaluate_retrieval(
        predictor, shared(photos.parent), rerank_top_k=top, rerank="matching"
    )
    texts = [clean_caption(text) for text in result.texts]
    own_I = [{texts[n] for n in range(8) if result.image_N[n] == i} for i in range(5)]
    true_IN = torch.tensor([[texts[n] in own_I[i] for n in range(8)] for i in range(5)])
    assert true_IN.sum(1).tolist() == [2, 2, 5, 4, 5]
    assert [result.texts_of(i) for i in range(5)] == [row.nonzero()[:, 0].tolist() for row in true_IN]
    assert [result.images_of(n) for n in range(8)] == [row.nonzero()[:, 0].tolist() for row in true_IN.T]
    assert [row["true"] for row in result.to_json()["t2i"]] == [[i] for i in result.image_N.tolist()]
    scores = dict(zip(("_contrastive", ""), all_pairs(predictor, result), strict=True))
    for suffix in ("_contrastive", "") if top == 99 else ("_contrastive",):
        score_IN = scores[suffix].float()
        for n in range(8):  # the scores of equal texts differ by rounding
            score_IN[:, n] = score_IN[:, texts.index(texts[n])]
        ranks = (rank_of_first_true(score_IN, true_IN), rank_of_first_true(score_IN.T, true_IN.T))
        expected = recall_metrics(*ranks, suffix)
        assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_as_published_only_the_own_captions_of_an_image_are_true(predictor: Predictor, photos: Path) -> None:
    _, result = evaluate_retrieval(predictor, shared(photos.parent), shared_captions=False)
    assert [result.texts_of(i) for i in range(5)] == [[0], [1], [2, 3], [4, 5], [6, 7]]
    assert [result.images_of(n) for n in range(8)] == [[i] for i in result.image_N.tolist()]


def test_a_perfect_model_of_images_that_share_captions_finds_all() -> None:
    """24 images form pairs, each with one caption."""
    text_I = torch.arange(24) // 2
    vectors = torch.eye(12)[text_I]
    images, texts = CandidateSet(vectors, torch.arange(24)), CandidateSet(vectors, text_I)
    pairs = TruePairs(torch.arange(24), text_I)
    i2t = contrastive_candidates(images, texts, torch.tensor(0.07), 10, pairs=pairs)
    t2i = contrastive_candidates(texts, images, torch.tensor(0.07), 10, pairs=pairs.swapped())
    assert set(recall_metrics(i2t.rank_Q3, t2i.rank_Q3).values()) == {1.0}
    again = i2t.reranked(i2t.score_Qk[:, :3], i2t.true_among(3, images, texts, pairs))
    assert again.rank_Q3.tolist() == [[0, 0, 2]] * 24


def test_published_reranking_uses_the_logit_of_a_match_alone(predictor: Predictor, photos: Path) -> None:
    _, result = evaluate_retrieval(predictor, JsonSource(photos), rerank_top_k=99, rerank="published")
    image = predictor.image(result.read_image(2))
    model = predictor.model
    texts = predictor.encode_texts(result.texts)
    row_N = torch.arange(len(result.texts))
    concepts = model.encode_whole(image.features)[0]
    with torch.no_grad():
        logit_N = model.match(model.fuse_cls(texts, row_N, concepts, torch.zeros_like(row_N)))[:, 1]
    torch.testing.assert_close(matrix(result.i2t, len(row_N))[2].float(), logit_N, atol=1e-4, rtol=1e-3)
