"""Two-stage retrieval: reranking is what it says, whatever is kept in memory, each pair scored once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_loaded, write_photos
from xvlm.batch import Concepts
from xvlm.data.sources import JsonSource, open_source
from xvlm.data.text import clean_caption
from xvlm.evaluate import retrieval
from xvlm.evaluate._candidates import Pairs, Ranked, Side, contrastive_candidates
from xvlm.evaluate._states import ImageTokens, TextStates
from xvlm.evaluate.retrieval import Retrieval, evaluate_retrieval
from xvlm.gallery.retrieval import image_rankings, text_rankings
from xvlm.metrics.recall import rank_of_first_true, recall_metrics
from xvlm.predict import Predictor


@pytest.fixture(scope="module", params=["cnn", "vit"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor(tiny_loaded(request.param))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), 7)


def all_pairs(predictor: Predictor, found: Retrieval) -> tuple[Tensor, Tensor]:
    """(I, T) contrastive scores and matching log-odds, pair by pair."""
    contrastive, matching = [], []
    for number in range(len(found.images)):
        seen = predictor.image(found.image(number))
        probability = torch.tensor([seen.match([text])[0] for text in found.texts], dtype=torch.float64)
        matching.append(probability.logit())
        texts = predictor.encode_texts(found.texts)
        head = predictor.model.contrastive
        whole = predictor.model.vision.concepts(seen.features, Concepts.none("cpu"))[1]
        cosine = head.embed_concepts(whole) @ head.embed_texts(texts.summary_ND).T
        contrastive.append((cosine / head.temperature).detach()[0].double())
    return torch.stack(contrastive), torch.stack(matching)


def matrix(ranked: Ranked, count: int, first: int | None = None) -> Tensor:
    """(Q, C) the scores of the first candidates, all by default, NaN for those that are not among them."""
    index_Qk, score_Qk = ranked.index_Qk[:, :first], ranked.score_Qk[:, :first]
    return torch.full((len(index_Qk), count), torch.nan).scatter(1, index_Qk, score_Qk).double()


@pytest.mark.parametrize(("batch", "memory"), [(2, 0.0), (2, 4.0), (32, 4.0)])
def test_reranking_everything_is_scoring_every_pair(
    predictor: Predictor, photos: Path, batch: int, memory: float
) -> None:
    options = {"top": 99, "batch": batch, "memory": memory}
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), rerank="matching", **options)  # type: ignore[arg-type]
    assert metrics["retrieval_images"] == 7 and metrics["retrieval_texts"] == 14
    assert found.image_T.tolist() == [i for i in range(7) for _ in range(2)]
    contrastive, matching = all_pairs(predictor, found)
    true_IT = torch.arange(7)[:, None] == found.image_T
    _, both = evaluate_retrieval(predictor, JsonSource(photos), rerank="both", **options)  # type: ignore[arg-type]
    for ranked, score_IT in ((found, matching), (both, matching + contrastive)):
        torch.testing.assert_close(matrix(ranked.i2t, 14), score_IT, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(matrix(ranked.t2i, 7), score_IT.T, atol=1e-4, rtol=1e-3)
        assert ranked.i2t.rank_Q3.tolist() == rank_of_first_true(score_IT, true_IT).tolist()
        assert ranked.t2i.rank_Q3.tolist() == rank_of_first_true(score_IT.T, true_IT.T).tolist()
    for suffix, score_IT in (("", matching), ("_contrastive", contrastive)):
        ranks = (rank_of_first_true(score_IT, true_IT), rank_of_first_true(score_IT.T, true_IT.T))
        expected = recall_metrics(*ranks, suffix)
        assert {name: metrics[name] for name in expected} == expected


def test_reranking_some_leaves_the_others_behind_in_their_order(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), top=3, rerank="matching")
    contrastive, matching = all_pairs(predictor, found)
    for ranked, prior_QC, match_QC in (
        (found.i2t, contrastive, matching),
        (found.t2i, contrastive.T, matching.T),
    ):
        order_QC = prior_QC.argsort(dim=1, descending=True)
        listed = min(retrieval.LISTED, prior_QC.shape[1])
        for q, (index, order) in enumerate(zip(ranked.index_Qk.tolist(), order_QC.tolist(), strict=True)):
            first = sorted(order[:3], key=lambda c: -match_QC[q, c])
            assert index == [*first, *order[3:listed]]
        torch.testing.assert_close(
            matrix(ranked, prior_QC.shape[1], 3).nan_to_num(0),
            torch.where(matrix(ranked, prior_QC.shape[1], 3).isnan(), 0, match_QC),
            atol=1e-4,
            rtol=1e-3,
        )


def test_no_reranking_is_the_contrastive_ranking(predictor: Predictor, photos: Path) -> None:
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), top=0)
    contrastive, _ = all_pairs(predictor, found)
    torch.testing.assert_close(matrix(found.t2i, 7), contrastive.T, atol=1e-4, rtol=1e-4)
    assert "t2i_r1_contrastive" in metrics and "t2i_r1" not in metrics


def test_each_pair_is_scored_once_and_images_are_encoded_once_or_twice(
    predictor: Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept changes the work, not one number."""
    scored: list[tuple[int, int]] = []
    match_pairs, encode = retrieval.match_pairs, predictor.encode_images
    shown = []

    def counted(states, concepts, concept_R, text_R, published):  # type: ignore[no-untyped-def]
        scored.extend(zip(concept_R.tolist(), text_R.tolist(), strict=True))
        return match_pairs(states, concepts, concept_R, text_R, published)

    monkeypatch.setattr(retrieval, "match_pairs", counted)
    monkeypatch.setattr(
        predictor, "encode_images", lambda pixels: shown.append(len(pixels)) or encode(pixels)
    )
    found = {}
    for memory in (0.0, 4.0):
        scored.clear(), shown.clear()
        found[memory] = evaluate_retrieval(predictor, JsonSource(photos), top=2, memory=memory)
        _, ranked = evaluate_retrieval(predictor, JsonSource(photos), top=0, memory=memory)
        shown.pop()
        wanted = {(i, t) for i, row in enumerate(ranked.i2t.index_Qk[:, :2].tolist()) for t in row}
        wanted |= {(i, t) for t, row in enumerate(ranked.t2i.index_Qk[:, :2].tolist()) for i in row}
        assert len(scored) == len(wanted) < 7 * 2 + 14 * 2 and set(scored) == wanted
        assert shown == ([7, 7] if memory == 0 else [7])
    assert found[0.0][0] == found[4.0][0]
    assert found[0.0][1].to_json() == found[4.0][1].to_json()


@pytest.mark.parametrize("share", [0.0, 0.99, 1.0, 1.5, 10.0])
def test_never_more_is_kept_than_is_given(
    predictor: Predictor, photos: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`share` of what the texts' states take; beside all of them there may be room for the images, or not."""
    made: list[ImageTokens | TextStates] = []
    for kind in (ImageTokens, TextStates):

        def remembered(*args, kind=kind):  # type: ignore[no-untyped-def]
            made.append(kind(*args))
            return made[-1]

        monkeypatch.setattr(retrieval, kind.__name__, remembered)
    text_bytes = len(predictor.tokens(all_texts(photos)).ids_T) * 32 * 4
    budget = int(text_bytes * share)
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), batch=2, memory=budget / 1e9)
    images, texts = made
    assert isinstance(images, ImageTokens) and isinstance(texts, TextStates)
    kept_images = sum(one.tokens_SPD.nbytes + one.mask_CP.nbytes for one in images.kept or ())
    kept_texts = 0 if texts.kept_TD is None else texts.kept_TD.nbytes
    assert kept_images + kept_texts <= budget
    assert kept_texts == (text_bytes if share >= 1 else 0)
    assert bool(kept_images) == (images.bytes <= budget - kept_texts)
    plenty, everything = evaluate_retrieval(predictor, JsonSource(photos), batch=2)
    assert metrics == plenty and found.to_json() == everything.to_json()


def all_texts(photos: Path) -> list[str]:
    return [text for line in photos.read_text().splitlines() for text in json.loads(line)["caption"]]


def test_neighbours_that_name_one_file_are_one_image(predictor: Predictor, photos: Path) -> None:
    """A line for each caption; each is as right as the others."""
    names = ["0.jpg", "0.jpg", "1.jpg", "1.jpg", "gone.jpg", "2.jpg"]
    captions = ["a red dog", "the dog", "a tree", ["small tree", "large tree"], "a car", "a blue car"]
    path = photos.parent / "lines.json"
    items = [{"image": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]
    path.write_text(json.dumps(items))
    metrics, found = evaluate_retrieval(predictor, JsonSource(path), memory=0.0)
    assert [one.path for one in found.images] == [str(photos.parent / f"{n}.jpg") for n in range(3)]
    assert found.image_T.tolist() == [0, 0, 1, 1, 1, 2] and found.texts[3:5] == captions[3]
    assert metrics["retrieval_images"] == 3 and metrics["retrieval_bad_records"] == 1
    assert [found.image(number) for number in range(3)] == [one.path for one in found.images]
    _, found = evaluate_retrieval(predictor, JsonSource(path), texts_per_image=2)
    assert found.texts == ["a red dog", "the dog", "a tree", "small tree", "a blue car"]


def test_texts_per_image(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), limit=3, top=0, texts_per_image=1)
    assert found.image_T.tolist() == [0, 1, 2] and len(found.images) == 3
    assert found.texts == [JsonSource(photos)[i].concepts[0].texts[0] for i in range(3)]


@pytest.mark.parametrize("top", [0, 3, 99])
def test_ranked_lists_have_what_a_reader_needs(predictor: Predictor, photos: Path, top: int) -> None:
    """For each query its true candidates, where the first of them stands, and the first ten with scores."""
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), top=top)
    written = json.loads(json.dumps(found.to_json()))
    assert written["reranked"] == top
    assert [row["text"] for row in written["texts"]] == found.texts
    assert written["images"][2] == {"key": found.images[2].key, "image": found.images[2].path}
    assert [row["true"] for row in written["i2t"]] == [[2 * i, 2 * i + 1] for i in range(7)]
    assert [row["true"] for row in written["t2i"]] == [[t // 2] for t in range(14)]
    for direction, candidates in (("i2t", 14), ("t2i", 7)):
        for row in written[direction]:
            places = [place for place, (c, _) in enumerate(row["best"], 1) if c in row["true"]]
            assert len(row["best"]) == min(10, candidates)
            false_before = places[0] if places else None
            assert row["rank"] == false_before if places else row["rank"] > 10
        hits = sum(row["rank"] == 1 for row in written[direction]) / len(written[direction])
        assert hits == metrics[f"{direction}_r1" if top else f"{direction}_r1_contrastive"]


def test_a_model_that_broke_finds_nothing(photos: Path) -> None:
    predictor = Predictor(tiny_loaded("cnn"))
    torch.nn.init.constant_(predictor.model.matching[0].weight, torch.nan)  # type: ignore[arg-type]
    metrics, found = evaluate_retrieval(predictor, JsonSource(photos), top=99)
    assert metrics["r_mean"] == 0.0 and metrics["r_mean_contrastive"] > 0
    assert found.to_json()["i2t"][0]["rank"] is None


def test_an_unknown_way_to_rerank_is_named(predictor: Predictor, photos: Path) -> None:
    with pytest.raises(ValueError, match="rerank is 'best'; it may be both, matching or published"):
        evaluate_retrieval(predictor, JsonSource(photos), rerank="best")


@pytest.mark.parametrize("top", [0, 2, 32])
def test_the_gallery_shows_the_best_and_a_true_one(predictor: Predictor, top: int) -> None:
    """Of images that are arrays; what was not reranked has no share."""
    source = open_source("scenes:test:9?image_size=64")
    _, found = evaluate_retrieval(predictor, source, top=top, texts_per_image=1)
    for rankings in (text_rankings(found, 4, first=3), image_rankings(found, 4, first=3)):
        assert len(rankings) == 4
        for one in rankings:
            shown = one.texts if hasattr(one, "texts") else one.images
            shares = [share for _, share, _ in shown]
            assert len(shown) in (3, 4) and shares == sorted(shares, reverse=True)
            assert sum(shares) <= 1.0001 and sum(true for *_, true in shown) == 1
            assert top != 2 or shares[2] == 0


def shared(folder: Path) -> JsonSource:
    """Pairs of images share a caption, in other spellings; one image has both of them."""
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
    """Both ways, against the definition on all pairs."""
    metrics, found = evaluate_retrieval(predictor, shared(photos.parent), top=top, rerank="matching")
    says = [clean_caption(text) for text in found.texts]
    own_I = [{says[t] for t in range(8) if found.image_T[t] == i} for i in range(5)]
    true_IT = torch.tensor([[says[t] in own_I[i] for t in range(8)] for i in range(5)])
    assert true_IT.sum(1).tolist() == [2, 2, 5, 4, 5]
    assert [found.texts_of(i) for i in range(5)] == [row.nonzero()[:, 0].tolist() for row in true_IT]
    assert [found.images_of(t) for t in range(8)] == [row.nonzero()[:, 0].tolist() for row in true_IT.T]
    assert [row["true"] for row in found.to_json()["t2i"]] == [[i] for i in found.image_T.tolist()]
    scores = dict(zip(("_contrastive", ""), all_pairs(predictor, found), strict=True))
    for suffix in ("_contrastive", "") if top == 99 else ("_contrastive",):
        score_IT = scores[suffix].float()
        for t in range(8):  # of equal texts the scores differ by rounding, which the order could not tell
            score_IT[:, t] = score_IT[:, says.index(says[t])]
        ranks = (rank_of_first_true(score_IT, true_IT), rank_of_first_true(score_IT.T, true_IT.T))
        expected = recall_metrics(*ranks, suffix)
        assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_as_published_only_an_images_own_captions_are_true_of_it(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, shared(photos.parent), shared_captions=False)
    assert [found.texts_of(i) for i in range(5)] == [[0], [1], [2, 3], [4, 5], [6, 7]]
    assert [found.images_of(t) for t in range(8)] == [[i] for i in found.image_T.tolist()]


def test_a_perfect_model_of_images_that_share_captions_finds_all() -> None:
    """Of 24 images in pairs, each pair with one caption: image -> text was never right before."""
    says_I = torch.arange(24) // 2
    vectors = torch.eye(12)[says_I]
    images, texts = Side(vectors, torch.arange(24)), Side(vectors, says_I)
    pairs = Pairs(torch.arange(24), says_I)
    i2t = contrastive_candidates(images, texts, torch.tensor(0.07), 10, pairs=pairs)
    t2i = contrastive_candidates(texts, images, torch.tensor(0.07), 10, pairs=pairs.turned())
    assert set(recall_metrics(i2t.rank_Q3, t2i.rank_Q3).values()) == {1.0}
    again = i2t.reranked(i2t.score_Qk[:, :3], images, texts, pairs)
    assert again.rank_Q3.tolist() == [[0, 0, 2]] * 24


def test_published_reranking_is_by_the_logit_of_the_match_alone(predictor: Predictor, photos: Path) -> None:
    _, found = evaluate_retrieval(predictor, JsonSource(photos), top=99, rerank="published")
    seen = predictor.image(found.image(2))
    model = predictor.model
    texts = predictor.encode_texts(found.texts)
    rows = torch.arange(len(found.texts))
    whole = model.encode_whole(seen.features)[0]
    with torch.no_grad():
        logit_T = model.match(model.fuse_cls(texts, rows, whole, torch.zeros_like(rows)))[:, 1]
    torch.testing.assert_close(matrix(found.i2t, len(rows))[2].float(), logit_T, atol=1e-4, rtol=1e-3)
