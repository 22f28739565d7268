"""An index of photos: made and brought up to date by `update`, asked by `search`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import json_text, write_text
from xvlm.common.lock import folder_lock
from xvlm.common.ranges import NonNegativeInt, PositiveInt, Probability, checked
from xvlm.data.images.decode import ImageFile
from xvlm.data.images.user_images import AnyImage, open_user_image
from xvlm.inference.model import InferenceModel
from xvlm.inference.regions import region_box
from xvlm.models.text.encoder import TextFeatures
from xvlm.records import BoxXYXY
from xvlm.search.encode import Encoded, encode_photos
from xvlm.search.filters import PhotoFilter
from xvlm.search.manifest import Manifest, fingerprint, model_name, read_manifest, write_manifest
from xvlm.search.photos import PhotoFile
from xvlm.search.ranking import Hit, Page, hits_by_matching, hits_by_vectors, vector_scores
from xvlm.search.rerank import PhotoCache, PixelsOf
from xvlm.search.rows import PhotoRow
from xvlm.search.table import PhotoTable
from xvlm.search.update import Encode, Update, update_table
from xvlm.search.upkeep import Health, health, maintain, read_approximate, with_recall
from xvlm.search.windows import LEVELS, image_vectors, pyramid

EVERY_PHOTO = PhotoFilter()
Engine = Literal["local", "ray"]
SAMPLE_PHOTOS = 32
SAMPLE_TEXTS = (
    "a dog", "two people", "a man with a red bag", "a woman in a white dress", "children on a beach", "a car",
    "a cup of coffee on a table", "mountains under a blue sky", "a street at night", "a cat on a sofa",
    "a yellow flower", "a boat on a lake", "a birthday cake", "a football match", "a building with windows",
    "a red circle", "a small blue star", "a green triangle left of a yellow square",
)  # fmt: skip
"""Texts to measure the recall of approximate search by: their vectors lie apart from those of images."""


@dataclass(frozen=True)
class QueryImage:
    """An image to search by.

    Attributes:
        pixels: (3, height, width) uint8 at the model's size.
        box_C4: (1, 4) region, xyxy in [0, 1], or (0, 4) for the whole image.
    """

    pixels: Tensor
    box_C4: Tensor


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Attributes:
        text, encoded: the text; `None` without one.
        vector_E: (E,) unit vector.
    """

    text: str | None
    encoded: TextFeatures | None
    vector_E: np.ndarray


class Index:
    """A searchable collection of photos.

    Attributes:
        folder: folder of the index.
        manifest: by which model its vectors were made.
        predictor: that model.
        table: its photos.
        cache: photos that were encoded for reranking.
        approximate: the approximate index; `None` if vectors are compared one by one.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, predictor: InferenceModel, cache_gb: float = 1.0
    ) -> None:
        """Open the table.  Raises InputError if the model is not the one that made the vectors."""
        if fingerprint(predictor.model) != manifest.fingerprint:
            raise InputError(
                f"{folder} was made by another model ({manifest.model}), so vectors cannot be compared; name "
                "that model, or another folder"
            )
        self.folder, self.manifest, self.predictor = folder, manifest, predictor
        self.window_C4 = pyramid(manifest.levels)
        self.table = PhotoTable(folder, manifest.embed_dim)
        self.cache = PhotoCache(predictor, int(cache_gb * 1e9))
        self.approximate = read_approximate(folder)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        model: str | Path | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Open an index with its model.

        Args:
            model: folder or hub repository of the model, if it is no longer where it was.
            device: device of the model; by default the GPU if there is one.
        Raises:
            MissingFileError: there is no such index or model.
            InputError: the model is not the one that made the vectors.
        """
        manifest = read_manifest(Path(folder))
        return cls(Path(folder), manifest, InferenceModel.load(model or manifest.model, device))

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | Path,
        device: torch.device | str | None = None,
        levels: Sequence[int] | None = None,
    ) -> Self:
        """Create an index, or open the one that is there.

        Args:
            model: folder or hub repository of the model.
            levels: windows a side, of each level of the pyramid, by default 2 and 3; an empty list for whole
                images alone.
        Raises:
            MissingFileError: there is no such model.
            MissingHead: the model has no contrastive head.
            InputError: the folder holds something else, or an index by another model or of other levels.
        """
        folder = Path(folder)
        predictor = InferenceModel.load(model, device)
        predictor.model.head("contrastive", nn.Module)
        try:
            manifest = read_manifest(folder)
        except MissingFileError:
            if folder.exists() and any(folder.iterdir()):
                raise InputError(f"{folder} is no index and not empty; name another folder") from None
        else:
            if levels is not None and tuple(levels) != manifest.levels:
                raise InputError(f"levels is {tuple(levels)}; the index in {folder} has {manifest.levels}")
            return cls(folder, manifest, predictor)
        dim = predictor.model.config.embed_dim
        levels = LEVELS if levels is None else levels
        manifest = Manifest(model_name(model), fingerprint(predictor.model), dim, tuple(levels))
        with folder_lock(folder):
            write_manifest(folder, manifest)
        return cls(folder, manifest, predictor)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def bad_photos(self) -> Path:
        """File with a JSON line for each photo that the last update could not use."""
        return self.folder / "bad_photos.jsonl"

    def update(
        self,
        photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        batch_size: int = 32,
        threads: int = 4,
        allow_empty: bool = False,
        engine: Engine = "local",
        workers: int = 2,
    ) -> Update:
        """Add new photos, replace changed ones, remove those that are gone, then `maintain` the index.

        What cannot be used is listed in `bad_photos`.

        Args:
            photos: folder, list, shard or photo, or several of them; see `list_photos`.
            batch_size: photos that are encoded at a time.
            threads: threads that read and decode, of each process.
            allow_empty: remove all photos of a root that has none any more; else this is an error.
            engine: "local" encodes in this process, "ray" on the workers of a Ray cluster.
            workers: number of Ray workers.
        Raises:
            MissingFileError: a root does not exist.
            InputError: a root has no photo, or none any more, or none of the photos can be used.
            OutputError: another process updates the index.
        """
        roots = [os.fspath(one) for one in ([photos] if isinstance(photos, (str, os.PathLike)) else photos)]
        if engine == "ray":
            from xvlm.search.ray_engine import encode_on_ray

            encode: Encode = partial(
                encode_on_ray, self.manifest, batch_size=batch_size, threads=threads, workers=workers
            )
        else:
            encode = partial(self._encode, batch_size=batch_size, threads=threads)
        with folder_lock(self.folder):
            update = update_table(self.table, encode, roots, allow_empty)
            lines = [{"path": one.key, "reason": one.reason, "detail": one.detail} for one in update.bad]
            write_text(self.bad_photos, "".join(json_text(line) + "\n" for line in lines))
        if update.bad and not update.added + update.changed + update.unchanged + update.removed:
            raise InputError(f"no photo can be used; first problem: {update.bad[0]}")
        update.health = self.maintain()
        return update

    def _encode(
        self, files: Sequence[PhotoFile], known: Collection[str], batch_size: int, threads: int
    ) -> Iterator[Encoded]:
        return encode_photos(self.predictor, files, self.window_C4, known, batch_size, threads)

    def maintain(self) -> Health:
        """Compact the table and bring the approximate index up to date; see `upkeep.py`."""
        with folder_lock(self.folder):
            found = maintain(self.folder, self.table, 1 + len(self.window_C4), self._sample_queries())
        self.approximate = found.approximate
        return found

    def health(self) -> Health:
        """Describe the state of the index, with the recall of approximate search measured now."""
        found = health(self.folder, self.table, 1 + len(self.window_C4))
        if found.approximate is None:
            return found
        return replace(found, approximate=with_recall(self.table, found.approximate, self._sample_queries()))

    @torch.no_grad()
    def _sample_queries(self) -> np.ndarray:
        """Return (Q, E) unit vectors like those that people search by: of texts, and of parts of photos."""
        rows = self.table.sample(SAMPLE_PHOTOS)
        parts = [row.vectors_CE[number % len(row.vectors_CE)][None] for number, row in enumerate(rows)]
        texts = [text for text in SAMPLE_TEXTS if self.predictor.is_known(text)]
        if texts:
            parts.append(self.predictor.text_vectors(texts))
        return np.concatenate([np.zeros((0, self.manifest.embed_dim)), *parts]).astype(np.float32)

    @checked
    @torch.no_grad()
    def search(
        self,
        text: str | None = None,
        like: AnyImage | None = None,
        box_xyxy: BoxXYXY | None = None,
        k: PositiveInt = 20,
        offset: NonNegativeInt = 0,
        rerank: bool = True,
        min_probability: Probability | None = None,
        allowed: PhotoFilter = EVERY_PHOTO,
        candidates: PositiveInt = Page.candidates,
    ) -> list[Hit]:
        """Return the photos that a text describes best, that look most like an image, or both; best first.

        Args:
            text: any text.
            like: an image, as for `Predictor.image`; with a text, the mean of both vectors is searched by.
            box_xyxy: region of `like`, in pixels of the upright image; by default the whole image.
            k: largest number of hits.
            offset: number of hits to leave out, for the next page.
            rerank: judge the candidates by matching, if there is a text and the model has the head; else by
                vectors alone.
            min_probability: smallest probability of a hit; by default that of the model's search calibration
                (`xvlm calibrate --search`), if it has one and candidates are reranked.
            allowed: photos that may be found.
            candidates: photos that vectors choose for reranking.  Hits after them follow in the order of
                their vectors, with `probability` None and scores that cannot be compared with those before.
        Raises:
            BadRecord: the text has no known token, or the image does not decode.
            InputError: neither text nor image is given, a box without its image, a smallest probability
                without reranking, or a number out of its range.
        """
        if text is None and like is None:
            raise InputError("a search needs a text, an image or both")
        if box_xyxy is not None and like is None:
            raise InputError("box_xyxy is a region of the image `like`, which is missing")
        reranked = self.reranks(text, rerank, min_probability)
        image = None if like is None else self.read_query_image(like, box_xyxy)
        query = self.encode_query(text, image)
        page = Page(k, offset, min_probability, candidates)
        rows = self.nearest(query, page.count(reranked), allowed)
        if not reranked:
            return self.by_vectors(query, rows, page)
        return self.by_matching(query, rows, self.cache.read(rows[:candidates]), page)

    def reranks(self, text: str | None, rerank: bool, min_probability: float | None) -> bool:
        """Return whether a search is reranked: it has a text, and the model has a matching head.

        Raises InputError if a smallest probability is asked for and it is not.
        """
        reranked = rerank and text is not None and "matching" in self.predictor.model.config.heads
        if min_probability and not reranked:
            raise InputError(
                f"min_probability is {min_probability}, but there are no probabilities without a text, a "
                "model with the head matching, and reranking"
            )
        return reranked

    def read_query_image(self, image: AnyImage | ImageFile, box_xyxy: BoxXYXY | None = None) -> QueryImage:
        """Decode an image to search by; see `search`."""
        opened = image if isinstance(image, ImageFile) else open_user_image(image)
        box_C4 = torch.zeros(0, 4)
        if box_xyxy is not None:
            box_C4 = region_box(box_xyxy, opened.width, opened.height)[None]
        return QueryImage(self.predictor.pixels(opened), box_C4)

    @torch.no_grad()
    def encode_query(self, text: str | None, image: QueryImage | None) -> Query:
        """Encode what is searched for: a text, an image, or both."""
        encoded, vectors = None, []
        if image is not None:
            features = self.predictor.encode_images([image.pixels])
            vectors.append(image_vectors(self.predictor, features, image.box_C4)[0, -1].cpu())
        if text is not None:
            encoded = self.predictor.encode_texts([text])
            self.predictor.reader.warn([text])
            vectors.append(self.predictor.model.contrastive.embed_texts(encoded.cls_ND)[0].cpu())
        return Query(text, encoded, F.normalize(torch.stack(vectors).mean(0), dim=0).numpy())

    def nearest(self, query: Query, count: int, allowed: PhotoFilter = EVERY_PHOTO) -> list[PhotoRow]:
        """Return the photos whose vectors are nearest to those of a query."""
        probes = None if self.approximate is None else self.approximate.probes
        return self.table.nearest(query.vector_E, count, allowed, probes)

    def by_vectors(self, query: Query, rows: Sequence[PhotoRow], page: Page) -> list[Hit]:
        """Return a page of hits by vectors alone."""
        return hits_by_vectors(rows, vector_scores(self.predictor, query.vector_E, rows), page)

    @torch.no_grad()
    def by_matching(self, query: Query, rows: Sequence[PhotoRow], pixels: PixelsOf, page: Page) -> list[Hit]:
        """Return a page of hits after reranking.

        Args:
            rows: the nearest photos.
            pixels: what `cache.read` returned for those that are candidates.
        """
        found = self.cache.encode(rows[: page.candidates], pixels)
        hits: list[Hit] = []
        judged = 0
        if found is not None and query.text is not None and query.encoded is not None:
            scores = vector_scores(self.predictor, query.vector_E, found.rows)
            hits, judged = hits_by_matching(self.predictor, query.text, query.encoded, found, scores, page)
        if page.cut_off(self.predictor.calibration) > 0:
            return hits
        rest = replace(page, offset=max(0, page.offset - judged), k=page.k - len(hits))
        return hits + self.by_vectors(query, rows[page.candidates :], rest)
