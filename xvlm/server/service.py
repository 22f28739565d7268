"""What the service can do: each question is prepared by a pool of threads, and answered by the model's."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from xvlm.common.byte_cache import ByteCache
from xvlm.data.images.content_hash import content_hash
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.inference.detection import find_boxes
from xvlm.inference.grounding import match_logits, predict_boxes
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.predict import Detection, Photo, Predictor
from xvlm.reports.draw import thumbnail
from xvlm.search.photos import read_photo
from xvlm.search.rows import PhotoRow
from xvlm.server.errors import ApiError
from xvlm.server.model_thread import ModelThread
from xvlm.server.settings import ServerSettings

if TYPE_CHECKING:  # a service without an index needs no database
    from xvlm.search.index import Index

T = TypeVar("T")
POOL_THREADS = 8
ENCODED_BYTES, THUMBNAIL_BYTES = 512 * 2**20, 64 * 2**20
"""Memory for encoded images and for thumbnails."""
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Answer:
    """The result of a question.

    Attributes:
        value: what was asked for.
        waited: seconds in the model's queue.
    """

    value: Any
    waited: float


class Service:
    """A model, and perhaps an index, behind a queue.

    Args:
        name: name of the model in answers.
    """

    def __init__(
        self, predictor: Predictor, index: Index | None, settings: ServerSettings, name: str
    ) -> None:
        self.predictor, self.index, self.settings, self.name = predictor, index, settings, name
        handlers: dict[str, Any] = {
            "call": _call,
            "encode": self._encode_images,
            "match": self._match,
            "find": self._find,
            "texts": self._embed_texts,
        }
        self.model = ModelThread(handlers, settings.max_queue, settings.max_batch)
        self.pool = ThreadPoolExecutor(POOL_THREADS, "xvlm-serve")
        self.encoded = ByteCache[ImageFeatures](ENCODED_BYTES)
        self.thumbnails = ByteCache[bytes](THUMBNAIL_BYTES)

    def start(self) -> None:
        """Start the model's thread."""
        self.model.start()

    def stop(self) -> None:
        """Answer what waits, and end the threads."""
        self.model.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    async def in_pool(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *args))

    async def ask(self, kind: str, item: Any) -> Answer:
        """Ask the model; see `ModelThread.ask`."""
        return Answer(*await self.model.ask(kind, item, self.settings.timeout))

    async def call(self, function: Callable[..., Any], *args: Any) -> Answer:
        """Call a function in the model's thread."""
        return await self.ask("call", partial(function, *args))

    def need_index(self) -> Index:
        """Return the index.  Raises ApiError without one."""
        if self.index is None:
            raise ApiError(501, "the service has no index; start it with --index")
        return self.index

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raise ApiError for too many or too long texts, BadRecord for one without a known token."""
        if not 1 <= len(texts) <= self.settings.max_texts:
            raise ApiError(400, f"{len(texts)} texts are given; there must be 1 to {self.settings.max_texts}")
        for text in texts:
            if len(text) > self.settings.max_characters:
                raise ApiError(
                    400, f"a text has {len(text):,} characters; {self.settings.max_characters:,} are allowed"
                )
            self.predictor.reader.encode_caption(text)

    async def read_image(self, image: str | None, photo: str | None) -> ImageFile:
        """Read the image of a request: base64 or a data URL, or a photo of the index."""
        if (image is None) == (photo is None):
            raise ApiError(400, "give either image, encoded in base64, or photo, the id of one of the index")
        if image is not None:
            return await self.in_pool(decode_image, image)
        row = await self.row(str(photo))
        return await self.in_pool(lambda: open_image(read_photo(row.path), key=row.path))

    async def row(self, photo: str) -> PhotoRow:
        """Return the row of a photo of the index by its id.  Raises ApiError if there is none."""
        index = self.need_index()
        rows = await self.in_pool(lambda: list(index.table.rows("hash", [photo])))
        if not rows:
            raise ApiError(404, f"the index has no photo {photo}")
        return rows[0]

    async def photo(self, image: str | None, photo: str | None) -> tuple[Photo, float]:
        """Return the encoded image of a request, from the cache if it was asked about before."""
        opened = await self.read_image(image, photo)
        key = content_hash(bytes(opened.data))
        cached, waited = self.encoded.get(key), 0.0
        if cached is None:
            pixels = await self.in_pool(self.predictor.pixels, opened)
            answer = await self.ask("encode", pixels)
            cached, waited = answer.value, answer.waited
            self.encoded.put(key, cached, cached.nbytes)
        return Photo(self.predictor, opened, cached), waited

    async def thumbnail(self, photo: str, size: int) -> bytes:
        """Return a photo of the index as a JPEG of at most `size` pixels a side, made anew."""
        key = photo, size
        if (data := self.thumbnails.get(key)) is None:
            row = await self.row(photo)
            data = await self.in_pool(_thumbnail, row, size)
            self.thumbnails.put(key, data, len(data))
        return data

    @torch.no_grad()
    def _encode_images(self, pixels: Sequence[Tensor]) -> list[ImageFeatures]:
        features = self.predictor.encode_images(pixels)
        return [features.select(torch.tensor([i], device=self.predictor.device)) for i in range(len(pixels))]

    @torch.no_grad()
    def _embed_texts(self, items: Sequence[Sequence[str]]) -> list[Tensor]:
        """Return the (N, E) embeddings of each item's texts."""
        texts = self.predictor.encode_texts([text for item in items for text in item])
        vectors = self.predictor.model.contrastive.embed_texts(texts.cls_ND).cpu()
        return list(vectors.split([len(item) for item in items]))

    @torch.no_grad()
    def _match(self, items: Sequence[tuple[Photo, Sequence[str]]]) -> list[list[float]]:
        features, texts, image_R = self._joined(items)
        images = self.predictor.whole_images(features)
        text_R = torch.arange(len(image_R), device=image_R.device)
        logits_R = match_logits(self.predictor.model, images, texts, image_R, text_R)
        scores = self.predictor.calibration.match.probability(logits_R).cpu()
        return [part.tolist() for part in scores.split([len(own) for _, own in items])]

    @torch.no_grad()
    def _find(
        self, items: Sequence[tuple[Photo, Sequence[str]]]
    ) -> list[list[tuple[float | None, list[Detection]]]]:
        """Return (presence, boxes) of each phrase; without a detection head the one box of `ground`."""
        features, texts, image_N = self._joined(items)
        photos = [photo for photo, own in items for _ in own]
        if "detection" in self.predictor.model.config.heads:
            found = find_boxes(self.predictor.model, features, texts, image_N, self.predictor.calibration)
            answers = [
                (presence, photo.detections(*columns))
                for photo, presence, columns in zip(
                    photos, found.presence_N.tolist(), found.by_text(), strict=True
                )
            ]
        else:
            box_N4, log_odds_N = predict_boxes(self.predictor.model, features, texts, image_N)
            score_N = self.predictor.calibration.ground.probability(log_odds_N)
            columns = zip(box_N4.split(1), score_N.split(1), log_odds_N.split(1), strict=True)
            answers = [(None, photo.detections(*one)) for photo, one in zip(photos, columns, strict=True)]
        ends = list(accumulate(len(own) for _, own in items))
        return [answers[end - len(own) : end] for end, (_, own) in zip(ends, items, strict=True)]

    def _joined(self, items: Sequence[tuple[Photo, Sequence[str]]]) -> tuple[ImageFeatures, Any, Tensor]:
        """Return all items' images and texts as one batch, and the (N,) image of each text."""
        features = ImageFeatures.cat([photo.features for photo, _ in items])
        texts = self.predictor.encode_texts([text for _, own in items for text in own])
        counts = torch.tensor([len(own) for _, own in items], device=self.predictor.device)
        return features, texts, torch.arange(len(items), device=counts.device).repeat_interleave(counts)


def decode_image(text: str) -> ImageFile:
    """Open an image in base64, or as a data URL.  Raises ApiError or BadRecord."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"image is not base64: {error}") from error
    return open_image(data, key="image")


def _call(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call each function; an exception is that of its own request alone."""
    results = []
    for function in functions:
        try:
            results.append(function())
        except Exception as error:
            results.append(error)
    return results


def _thumbnail(row: PhotoRow, size: int) -> bytes:
    small = thumbnail(open_image(read_photo(row.path), key=row.path).image, size)
    data = io.BytesIO()
    small.convert("RGB").save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
