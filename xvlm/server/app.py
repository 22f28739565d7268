"""The routes of the service."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from xvlm.models.generation.config import GenerationConfig
from xvlm.predict import Photo
from xvlm.search.filters import Circle, PhotoFilter
from xvlm.search.ranking import Hit, Page
from xvlm.search.windows import image_vectors
from xvlm.server import schemas
from xvlm.server.errors import ApiError, add_error_handlers
from xvlm.server.guard import Guard, Metrics
from xvlm.server.service import Service
from xvlm.server.settings import ServerSettings

if TYPE_CHECKING:  # a service without an index needs no database
    from xvlm.search.index import Index

STATIC = Path(__file__).parent / "static"
THUMBNAIL_SIZES = (160, 320, 640, 1280)


def create_app(service: Service, settings: ServerSettings, token: str | None) -> FastAPI:
    """Return the ASGI application of a service."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(title="xvlm", lifespan=lifespan, responses=schemas.ERRORS, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, settings=settings, token=token, metrics=metrics)
    add_error_handlers(app)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_state(app, service, metrics)
    _add_questions(app, service)
    _add_search(app, service)
    return app


def _add_state(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """Whether the model answers."""
        if not service.model.is_alive:
            raise ApiError(503, "the model's thread has ended")
        return {"status": "ok", "waiting": len(service.model.waiting)}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters in Prometheus's format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model, in OpenAI's form, with what it can do."""
        index, search = service.index, service.predictor.calibration.search
        model = {
            "id": service.name,
            "object": "model",
            "created": 0,
            "owned_by": "xvlm",
            "heads": list(service.predictor.model.config.heads),
            "photos": None if index is None else await service.in_pool(len, index),
            "min_probability": 0.0 if search is None else search.threshold,
        }
        return {"object": "list", "data": [model]}


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/ground")
    async def ground(body: schemas.GroundRequest, request: Request) -> schemas.GroundAnswer:
        """Find everything in an image that each phrase describes."""
        begin, photo, waited = await _open(service, request, body, body.phrases)
        answer = await service.ask("find", (photo, body.phrases))
        phrases = [
            schemas.PhraseAnswer(
                phrase=phrase,
                presence=presence,
                found=[
                    schemas.FoundBox(box_xyxy=one.box_xyxy, score=_number(one.score))
                    for one in found
                    if presence is None or one.score >= body.threshold
                ],
            )
            for phrase, (presence, found) in zip(body.phrases, answer.value, strict=True)
        ]
        return schemas.GroundAnswer(phrases=phrases, **_times(begin, waited + answer.waited))

    @app.post("/v1/match")
    async def match(body: schemas.MatchRequest, request: Request) -> schemas.MatchAnswer:
        """How probable it is that each text describes an image."""
        begin, photo, waited = await _open(service, request, body, body.texts)
        answer = await service.ask("match", (photo, body.texts))
        return schemas.MatchAnswer(scores=answer.value, **_times(begin, waited + answer.waited))

    @app.post("/v1/caption")
    async def caption(body: schemas.CaptionRequest, request: Request) -> schemas.CaptionAnswer:
        """Describe an image, or a region of it."""
        begin = _begin(request, ())
        photo, waited = await service.photo(body.image, body.photo)
        config = GenerationConfig(num_beams=body.num_beams, max_tokens=body.max_tokens)
        answer = await service.call(photo.captions, config, body.box_xyxy)
        return schemas.CaptionAnswer(captions=answer.value, **_times(begin, waited + answer.waited))

    @app.post("/v1/ask")
    async def ask(body: schemas.AskRequest, request: Request) -> schemas.AskAnswer:
        """Answer a question about an image."""
        texts = [body.question, *(body.answers or ())]
        begin, photo, waited = await _open(service, request, body, texts)
        answer = await service.call(photo.ask_all, body.question, body.answers)
        answers = [schemas.ScoredAnswer(text=one.text, score=one.score) for one in answer.value]
        return schemas.AskAnswer(answers=answers, **_times(begin, waited + answer.waited))

    @app.post("/v1/embeddings")
    async def embeddings(body: schemas.EmbeddingsRequest, request: Request) -> dict[str, Any]:
        """Vectors of texts and images, in OpenAI's form."""
        inputs = [body.input] if isinstance(body.input, str) else body.input
        _begin(request, inputs)
        images = [one for one in inputs if one.startswith("data:image/")]
        texts = [one for one in inputs if not one.startswith("data:image/")]
        if texts or not images:
            service.check_texts(texts)
        dim = service.predictor.model.config.embed_dim
        if body.dimensions not in (None, dim):
            raise ApiError(400, f"dimensions is {body.dimensions}; this model's vectors have {dim}")
        if len(images) > service.settings.max_texts:
            raise ApiError(400, f"{len(images)} images are given; {service.settings.max_texts} are allowed")
        vectors: dict[str, list[np.ndarray]] = {"text": [], "image": []}
        if texts:
            vectors["text"] = list((await service.ask("texts", texts)).value.numpy())
        for image in images:
            vectors["image"].append(await _embed_image(service, image))
        kinds = ["image" if one.startswith("data:image/") else "text" for one in inputs]
        rest = {kind: iter(own) for kind, own in vectors.items()}
        data = [
            {"object": "embedding", "index": number, "embedding": _encoded(next(rest[kind]), body)}
            for number, kind in enumerate(kinds)
        ]
        tokens = sum(len(service.predictor.reader.encode_caption(text).ids) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": service.name, "usage": usage}


async def _embed_image(service: Service, image: str) -> np.ndarray:
    photo, _ = await service.photo(image, None)
    answer = await service.call(image_vectors, service.predictor, photo.features, torch.zeros(0, 4))
    return answer.value[0, 0].cpu().numpy()  # type: ignore[no-any-return]


def _encoded(vector_E: np.ndarray, body: schemas.EmbeddingsRequest) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(vector_E.astype("<f4").tobytes()).decode()
    return vector_E.tolist()  # type: ignore[no-any-return]


def _add_search(app: FastAPI, service: Service) -> None:
    lines = {"description": "with `stream`, a line each", "content": {"application/x-ndjson": {}}}

    @app.post("/v1/search", response_model=schemas.SearchAnswer, responses={200: lines})
    async def search(body: schemas.SearchRequest, request: Request) -> Any:
        """Search the index by a text, an image, or both."""
        begin = _begin(request, [body.text] if body.text is not None else [])
        parts = _search(service, service.need_index(), body, begin)
        first = await anext(parts)
        if body.stream:
            return StreamingResponse(_lines(first, parts), media_type="application/x-ndjson")
        return first

    @app.get("/v1/photos/{photo}/thumbnail", response_class=Response)
    async def thumbnail(photo: schemas.Id, size: Annotated[int, Query()] = 320) -> Response:
        """A photo of the index as a JPEG of at most `size` pixels a side."""
        if size not in THUMBNAIL_SIZES:
            raise ApiError(400, f"size is {size}; it may be {', '.join(map(str, THUMBNAIL_SIZES))}")
        data = await service.thumbnail(photo, size)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


async def _search(
    service: Service, index: Index, body: schemas.SearchRequest, begin: float
) -> AsyncIterator[schemas.SearchAnswer]:
    """Yield the hits; if they are to be reranked and streamed, first those by vectors."""
    if body.text is None and body.image is None and body.photo is None:
        raise ApiError(400, "give a text, an image, a photo of the index, or a text and one of these")
    if body.box_xyxy is not None and body.image is None and body.photo is None:
        raise ApiError(400, "box_xyxy is a region of an image, which is missing")
    if body.text is not None:
        service.check_texts([body.text])
    reranked = index.reranks(body.text, body.rerank, body.min_probability)
    image = None
    if body.image is not None or body.photo is not None:
        opened = await service.read_image(body.image, body.photo)
        image = await service.in_pool(index.read_query_image, opened, body.box_xyxy)
    near = None if body.near is None else Circle(*body.near.model_dump().values())
    allowed = PhotoFilter(body.after, body.before, body.folder, near)
    answer = await service.call(index.encode_query, body.text, image)
    query, waited = answer.value, answer.waited
    page = Page(body.k, body.offset, body.min_probability)
    rows = await service.in_pool(index.nearest, query, page.count(reranked), allowed)
    if body.stream or not reranked:
        hits = index.by_vectors(query, rows, page)
        yield _search_answer(hits, False, _times(begin, waited))
    if reranked:
        pixels = await service.in_pool(index.cache.read, rows[: page.candidates])
        answer = await service.call(index.by_matching, query, rows, pixels, page)
        yield _search_answer(answer.value, True, _times(begin, waited + answer.waited))


async def _lines(
    first: schemas.SearchAnswer, rest: AsyncIterator[schemas.SearchAnswer]
) -> AsyncIterator[str]:
    """Yield each answer as a line of JSON; an error after the first one is a line, too."""
    yield first.model_dump_json() + "\n"
    try:
        async for one in rest:
            yield one.model_dump_json() + "\n"
    except ApiError as error:
        body = schemas.ErrorBody(type="error", message=error.message, code=error.status)
        yield schemas.ErrorAnswer(error=body).model_dump_json() + "\n"


def _search_answer(hits: Sequence[Hit], reranked: bool, times: dict[str, float]) -> schemas.SearchAnswer:
    same = schemas.HitAnswer.model_fields.keys() - {"photo", "time"}
    answers = [
        schemas.HitAnswer(
            photo=hit.hash,
            time=None if hit.time is None else hit.time.isoformat(),
            **{name: getattr(hit, name) for name in same},
        )
        for hit in hits
    ]
    return schemas.SearchAnswer(hits=answers, reranked=reranked, **times)


async def _open(
    service: Service, request: Request, body: schemas.ImageRequest, texts: Sequence[str]
) -> tuple[float, Photo, float]:
    """Check the texts of a question; return when it began, its image, and the seconds in the queue."""
    begin = _begin(request, texts)
    service.check_texts(texts)
    return begin, *await service.photo(body.image, body.photo)


def _begin(request: Request, texts: Sequence[str]) -> float:
    """Note the texts of a request for the log, and return the time."""
    request.state.texts = list(texts)
    return time.monotonic()


def _times(begin: float, waited: float) -> dict[str, float]:
    return {"queue_seconds": waited, "seconds": time.monotonic() - begin}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
