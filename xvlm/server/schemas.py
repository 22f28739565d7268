"""Requests and answers of the service, as its OpenAPI document describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Probability = Annotated[float, Field(ge=0, le=1)]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]

_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABgAAAAQAQMAAAA26i3WAAAABlBMVEXIPDw8Wsh+atQgAAAAF0lEQVR42mNgQAWM"
    "DP8/MjEwMODC6AAAWl8CAPXnGikAAAAASUVORK5CYII="
)
"""A small picture, as an example."""
_TEXT = "a red dog"


class Strict(BaseModel):
    """A request; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class ImageRequest(Strict):
    """A request about an image: one that is sent, or one of the index."""

    image: Annotated[
        str | None, Field(description="encoded image in base64, or as a data URL", examples=[_IMAGE])
    ] = None
    photo: Annotated[Id | None, Field(description="photo of the index")] = None


class Near(Strict):
    """A circle on the earth."""

    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    radius_km: Annotated[float, Field(gt=0, le=20040)]


class SearchRequest(ImageRequest):
    """What to search for: a text, an image, or both."""

    text: Annotated[str | None, Field(examples=[_TEXT])] = None
    box_xyxy: Annotated[Box | None, Field(description="region of the image, in pixels")] = None
    k: Annotated[int, Field(ge=1, le=200)] = 20
    offset: Annotated[int, Field(ge=0, le=10000)] = 0
    rerank: bool = True
    min_probability: Annotated[
        Probability | None, Field(description="by default that of the model's search calibration")
    ] = None
    after: datetime | None = None
    before: datetime | None = None
    folder: str | None = None
    near: Near | None = None
    stream: Annotated[bool, Field(description="a line of JSON with hits by vectors, then one reranked")] = (
        False
    )


class GroundRequest(ImageRequest):
    """Phrases to find in an image."""

    phrases: Annotated[list[str], Field(examples=[[_TEXT]])]
    threshold: Probability = 0.5


class MatchRequest(ImageRequest):
    """Texts to compare with an image."""

    texts: Annotated[list[str], Field(examples=[[_TEXT, "a small cat"]])]


class CaptionRequest(ImageRequest):
    """How to describe an image, or a region of it."""

    box_xyxy: Box | None = None
    num_beams: Annotated[int, Field(ge=1, le=10)] = 3
    max_tokens: Annotated[int, Field(ge=2, le=40)] = 20


class AskRequest(ImageRequest):
    """A question about an image."""

    question: Annotated[str, Field(examples=["what is red?"])]
    answers: Annotated[
        list[str] | None, Field(description="candidate answers", examples=[["dog", "cat"]])
    ] = None


class EmbeddingsRequest(Strict):
    """OpenAI's request for embeddings; an input that is a data URL of an image is an image."""

    input: Annotated[str | list[str], Field(examples=[_TEXT])]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class FoundBox(BaseModel):
    """A box in pixels of the upright image, and the probability that the phrase describes it."""

    box_xyxy: Box
    score: float | None


class HitAnswer(BaseModel):
    """A photo that was found."""

    photo: str
    path: str
    score: float
    probability: float | None
    boxes_xyxy: list[Box]
    width: int
    height: int
    time: Annotated[
        str | None, Field(description="when it was taken: ISO 8601, local time without a time zone")
    ]
    latitude: float | None
    longitude: float | None


class Timed(BaseModel):
    """Seconds that the request waited for the model, and that it took."""

    queue_seconds: float
    seconds: float


class SearchAnswer(Timed):
    """Hits, best first; `reranked` says whether matching has judged them."""

    hits: list[HitAnswer]
    reranked: bool


class PhraseAnswer(BaseModel):
    """What a phrase describes; `presence` is the probability that it describes anything."""

    phrase: str
    presence: float | None
    found: list[FoundBox]


class GroundAnswer(Timed):
    """The phrases of a request, in their order."""

    phrases: list[PhraseAnswer]


class MatchAnswer(Timed):
    """The probability that each text describes the image."""

    scores: list[float]


class CaptionAnswer(Timed):
    """Captions, most probable first."""

    captions: list[str]


class ScoredAnswer(BaseModel):
    """An answer and its probability."""

    text: str
    score: float


class AskAnswer(Timed):
    """Answers, most probable first."""

    answers: list[ScoredAnswer]


class ErrorBody(BaseModel):
    """What went wrong."""

    type: str
    message: str
    code: int


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 501, 503, 504)
}
"""Errors that any route may answer with."""
