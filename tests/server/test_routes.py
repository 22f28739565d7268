"""Every route answers as the library does, and refuses what it cannot answer by one sentence."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.server.tiny_service import client, encoded, write_index
from xvlm.predict import Predictor
from xvlm.search.index import Index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[TestClient]:
    with client(folder) as web:
        yield web


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.load(folder / "model")


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return Index.open(folder / "index")


def test_match(web: TestClient, predictor: Predictor, folder: Path) -> None:
    texts, path = ["a red dog", "a small cat"], folder / "photos" / "a.jpg"
    answer = web.post("/v1/match", json={"image": encoded(path), "texts": texts})
    assert answer.status_code == 200
    assert answer.json()["scores"] == pytest.approx(predictor.image(path).match(texts), abs=1e-5)
    again = web.post("/v1/match", json={"image": f"data:image/jpeg;base64,{encoded(path)}", "texts": texts})
    assert again.json()["scores"] == answer.json()["scores"]
    assert answer.json()["seconds"] > answer.json()["queue_seconds"] >= 0


def test_ground(web: TestClient, predictor: Predictor, folder: Path) -> None:
    phrases, path = ["a red dog", "a small cat"], folder / "photos" / "a.jpg"
    for threshold in (0.0, 0.5):
        body = {"image": encoded(path), "phrases": phrases, "threshold": threshold}
        answer = web.post("/v1/ground", json=body).json()
        photo = predictor.image(path)
        for own, found, presence in zip(
            answer["phrases"], photo.find_many(phrases, threshold), photo.presence(phrases), strict=True
        ):
            assert own["presence"] == pytest.approx(presence, abs=1e-5)
            assert len(own["found"]) == len(found)
            for one, other in zip(own["found"], found, strict=True):
                assert one["box_xyxy"] == pytest.approx(other.box_xyxy, abs=1e-2)
                assert one["score"] == pytest.approx(other.score, abs=1e-5)


def test_a_model_without_detection_has_the_box_of_ground(tmp_path: Path) -> None:
    folder = write_index(tmp_path, ("contrastive", "matching", "mlm", "box"))
    expected = Predictor.load(folder / "model").image(folder / "photos" / "a.jpg").ground("a red dog")
    with client(folder, with_index=False) as web:
        body = {"image": encoded(folder / "photos" / "a.jpg"), "phrases": ["a red dog"]}
        (phrase,) = web.post("/v1/ground", json=body).json()["phrases"]
        assert phrase["presence"] is None
        assert phrase["found"][0]["box_xyxy"] == pytest.approx(expected.box_xyxy, abs=1e-2)
        missing = web.post("/v1/caption", json={"image": encoded(folder / "photos" / "a.jpg")})
        assert missing.status_code == 501 and "caption_decoder" in missing.json()["error"]["message"]
        no_index = web.post("/v1/search", json={"text": "a dog"})
        assert no_index.status_code == 501 and "--index" in no_index.json()["error"]["message"]


def test_caption_and_ask(web: TestClient, predictor: Predictor, folder: Path) -> None:
    path = folder / "photos" / "a.jpg"
    photo = predictor.image(path)
    whole = web.post("/v1/caption", json={"image": encoded(path), "max_tokens": 8}).json()["captions"]
    box = (5.0, 5.0, 40.0, 30.0)
    part = web.post("/v1/caption", json={"image": encoded(path), "box_xyxy": box, "max_tokens": 8}).json()
    assert len(whole) == len(part["captions"]) == 1
    question = {"image": encoded(path), "question": "a dog?", "answers": ["red", "blue"]}
    answers = web.post("/v1/ask", json=question).json()["answers"]
    expected = photo.ask_all("a dog?", ["red", "blue"])
    assert [one["text"] for one in answers] == [one.text for one in expected]


def test_embeddings_in_openais_form(web: TestClient, predictor: Predictor, folder: Path) -> None:
    image = f"data:image/jpeg;base64,{encoded(folder / 'photos' / 'a.jpg')}"
    answer = web.post("/v1/embeddings", json={"input": ["a red dog", image, "a cat"], "model": "any"}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert answer["object"] == "list" and answer["usage"]["total_tokens"] > 2
    vectors = np.array([one["embedding"] for one in answer["data"]])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    texts = predictor.encode_texts(["a red dog", "a cat"]).cls_ND
    expected = predictor.model.contrastive.embed_texts(texts).detach().numpy()
    assert vectors[[0, 2]] == pytest.approx(expected, abs=1e-5)
    body = {"input": "a red dog", "encoding_format": "base64"}
    one = web.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(one), "<f4") == pytest.approx(vectors[0], abs=1e-6)


def test_search(web: TestClient, index: Index) -> None:
    for rerank in (True, False):
        answer = web.post("/v1/search", json={"text": "a red dog", "k": 3, "rerank": rerank}).json()
        expected = index.search("a red dog", k=3, rerank=rerank)
        assert answer["reranked"] == rerank
        assert [hit["path"] for hit in answer["hits"]] == [hit.path for hit in expected]
        assert [hit["photo"] for hit in answer["hits"]] == [hit.hash for hit in expected]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx(
            [hit.score for hit in expected], abs=1e-3
        )
    cut = web.post("/v1/search", json={"text": "a red dog", "min_probability": 1.0}).json()
    assert cut["hits"] == []


def test_search_by_photo_and_region(web: TestClient, index: Index, folder: Path) -> None:
    (row,) = index.table.rows("path", [str(folder / "photos" / "a.jpg")])
    body = {"photo": row.file.hash, "box_xyxy": [0, 0, 30, 30]}
    answer = web.post("/v1/search", json=body).json()
    expected = index.search(like=row.path, box_xyxy=(0, 0, 30, 30))
    assert [hit["path"] for hit in answer["hits"]] == [hit.path for hit in expected]
    filtered = web.post("/v1/search", json={"text": "a dog", "folder": str(folder / "photos" / "deep")})
    assert len(filtered.json()["hits"]) == 2


def test_a_streamed_search_shows_vectors_first(web: TestClient) -> None:
    with web.stream("POST", "/v1/search", json={"text": "a red dog", "stream": True}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        first, second = (json.loads(line) for line in answer.iter_lines())
    assert (first["reranked"], second["reranked"]) == (False, True)
    assert {hit["path"] for hit in first["hits"]} == {hit["path"] for hit in second["hits"]}
    assert all(hit["probability"] is None for hit in first["hits"])


def test_thumbnails_are_made_anew(web: TestClient, index: Index, folder: Path) -> None:
    for row in index.table.rows("path", index.table.versions()):
        answer = web.get(f"/v1/photos/{row.file.hash}/thumbnail?size=160")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, max(image.size) <= 160) == ("JPEG", True)
    assert web.get(f"/v1/photos/{'0' * 32}/thumbnail").status_code == 404
    assert web.get(f"/v1/photos/{row.file.hash}/thumbnail?size=99").status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v1/photos/..%2F..%2Fetc%2Fpasswd/thumbnail",
        "/v1/photos/../../etc/passwd",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fsettings.py",
        "/static//etc/passwd",
    ],
)
def test_no_other_file_is_served(web: TestClient, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code in (404, 405, 422), answer.text
    assert "error" in answer.json()


def bomb() -> str:
    """A PNG of a few kilobytes that claims 50,000 x 50,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big")
    header = size + size + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(10**6))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("match", {"texts": ["a dog"]}, 400, "either image"),
        ("match", {"image": "AAAA", "photo": "0" * 32, "texts": ["a dog"]}, 400, "either image"),
        ("match", {"image": "not base64!", "texts": ["a dog"]}, 400, "base64"),
        ("match", {"image": "AAAA", "texts": ["a dog"]}, 400, "does not decode"),
        ("match", {"image": bomb(), "texts": ["a dog"]}, 400, "too large"),
        ("match", {"photo": "../../etc/passwd", "texts": ["a dog"]}, 422, "photo"),
        ("match", {"photo": "0" * 32, "texts": ["a dog"]}, 404, "no photo"),
        ("match", {"image": "AAAA", "texts": []}, 400, "0 texts"),
        ("match", {"image": "AAAA", "texts": ["a dog"] * 65}, 400, "65 texts"),
        ("match", {"image": "AAAA", "texts": ["dog " * 600]}, 400, "2,400 characters"),
        ("match", {"image": "AAAA", "texts": ["..."]}, 400, "text"),
        ("match", {"image": "AAAA", "text": "a dog"}, 422, "texts"),
        ("ground", {"image": "AAAA", "phrases": ["a dog"], "threshold": 2}, 422, "threshold"),
        ("search", {}, 400, "give a text"),
        ("search", {"text": "a dog", "k": 0}, 422, "k"),
        ("search", {"text": "a dog", "k": 10**9}, 422, "k"),
        ("search", {"text": ""}, 400, "text"),
        ("search", {"text": "a dog", "rerank": False, "min_probability": 0.5}, 400, "no probabilities"),
        ("search", {"text": "a dog", "box_xyxy": [0, 0, 5, 5]}, 400, "which is missing"),
        ("search", {"text": "a dog", "after": "0001-01-01T00:00:00+14:00"}, 400, "no local time"),
        (
            "search",
            {"text": "a dog", "near": {"latitude": 91, "longitude": 0, "radius_km": 1}},
            422,
            "latitude",
        ),
        ("search", {"text": "a dog", "nothing": 1}, 422, "nothing"),
        ("search", {"photo": "0" * 32}, 404, "no photo"),
        ("caption", {"image": "AAAA", "num_beams": 11}, 422, "num_beams"),
        ("embeddings", {"input": []}, 400, "0 texts"),
        ("embeddings", {"input": "a dog", "dimensions": 5}, 400, "dimensions"),
    ],
)
def test_wrong_requests(
    web: TestClient, path: str, body: dict[str, object], status: int, message: str
) -> None:
    answer = web.post(f"/v1/{path}", json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    error = answer.json()["error"]
    assert error["code"] == status and message in error["message"], error
    assert set(error) == {"type", "message", "code"}


def test_what_is_no_json(web: TestClient) -> None:
    for content in (b"", b"{", b"[1]", b"\xff", b'{"texts": NaN}', b"[" * 100_000):
        answer = web.post("/v1/match", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), content[:20]
        assert "error" in answer.json()
    assert web.get("/v1/nothing").json()["error"]["code"] == 404
    assert web.get("/v1/match").json()["error"]["code"] == 405


def test_state(web: TestClient) -> None:
    assert web.get("/healthz").json() == {"status": "ok"}
    assert web.get("/readyz").json()["status"] == "ok"
    (model,) = web.get("/v1/models").json()["data"]
    assert (model["id"], model["photos"]) == ("tiny", 5)
    text = web.get("/metrics").text
    assert 'xvlm_requests_total{route="/healthz",status="200"}' in text


def test_the_page_and_its_headers(web: TestClient) -> None:
    for path in ("/", "/static/app.js", "/static/style.css"):
        answer = web.get(path)
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    assert "http" not in web.get("/").text.replace("http-equiv", ""), "nothing comes from elsewhere"


def test_other_sites_may_not_ask(web: TestClient) -> None:
    other = web.get("/healthz", headers={"Host": "evil.example"})
    assert other.status_code == 403
    origin = web.post("/v1/search", json={"text": "a dog"}, headers={"Origin": "http://evil.example"})
    assert origin.status_code == 403
    own = web.post("/v1/search", json={"text": "a dog"}, headers={"Origin": "http://127.0.0.1"})
    assert own.status_code == 200


def test_the_token(folder: Path) -> None:
    with client(folder, token="s" * 20, host="0.0.0.0") as web:
        assert web.get("/healthz").status_code == 200 and web.get("/").status_code == 200
        for given in ({}, {"Authorization": "Bearer " + "t" * 20}, {"Authorization": "s" * 19}):
            answer = web.get("/v1/models", headers=given)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert web.get("/metrics", headers=given).status_code == 401
        right = {"Authorization": "Bearer " + "s" * 20}
        assert web.get("/v1/models", headers=right).status_code == 200


def test_large_bodies_are_refused(folder: Path) -> None:
    with client(folder, max_body_mb=1) as web:
        body = json.dumps({"image": "A" * 2**20, "texts": ["a dog"]})
        declared = web.post("/v1/match", content=body, headers={"Content-Type": "application/json"})
        assert declared.status_code == 413

        def parts() -> Iterator[bytes]:
            for _ in range(40):
                yield b" " * 2**16

        undeclared = web.post("/v1/match", content=parts(), headers={"Content-Type": "application/json"})
        assert undeclared.status_code == 413 and "1 MB" in undeclared.json()["error"]["message"]
        assert web.get("/healthz").status_code == 200


def test_a_damaged_index_is_a_fault_of_the_service(tmp_path: Path) -> None:
    with client(write_index(tmp_path)) as web:
        for path in (tmp_path / "index").rglob("*.lance"):
            if path.is_file():
                path.unlink()
        answer = web.post("/v1/search", json={"text": "a red dog"})
    assert answer.status_code == 503
    assert "damaged" in answer.json()["error"]["message"]


def test_unexpected_errors_keep_their_traceback_in_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with client(folder) as web:
        monkeypatch.setattr("xvlm.server.service.match_logits", lambda *args: 1 / 0)
        body = {"image": encoded(folder / "photos" / "a.jpg"), "texts": ["a dog"]}
        answer = web.post("/v1/match", json=body)
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text
    assert any("ZeroDivisionError" in str(record.exc_info) for record in caplog.records)
