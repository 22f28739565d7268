"""Image and text features for reranking, cached within a memory budget or encoded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.data.images.decode import open_image
from xvlm.data.sources.source import Source
from xvlm.inference.model import InferenceModel
from xvlm.models.heads import at_least_float
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.text.packing import Packing, select_segments
from xvlm.models.xvlm import XVLM


@dataclass(frozen=True)
class CaptionedImage:
    """An image with the captions of all its records, at least one.

    Attributes:
        key, index: key and index in the source of its first record.
        path: path of its file; `None` if it is not a file.
    """

    key: str
    path: str | None
    index: int
    texts: tuple[str, ...]


class ImageFeatureCache:
    """The tokens of this rank's images, in chunks.

    Args:
        budget: bytes that may be cached; if all images take more, each is encoded whenever it is needed.
    """

    def __init__(self, predictor: InferenceModel, source: Source, budget: int) -> None:
        self.predictor, self.source, self.budget = predictor, source, budget
        self.chunks: list[list[CaptionedImage]] = []
        self.cached: list[ConceptTokens] | None = []
        self.total_bytes = 0  # of all chunks, whether they are cached or not

    @torch.no_grad()
    def encode(self, pixels: Sequence[Tensor]) -> tuple[ConceptTokens, Tensor]:
        """Encode B images from (3, height, width) uint8 pixels; return their tokens and v_cls (B, D)."""
        tokens, cls_BD = self.predictor.model.encode_whole(self.predictor.encode_images(pixels))
        return replace(tokens, finer_SChw=None), cls_BD  # matching does not read the finer map

    def add(self, images: list[CaptionedImage], tokens: ConceptTokens) -> None:
        """Add a chunk of images."""
        self.chunks.append(images)
        self.total_bytes += tokens.tokens_SPD.nbytes + tokens.mask_CP.nbytes
        self.reduce_budget(self.budget)
        if self.cached is not None:
            self.cached.append(tokens)

    def reduce_budget(self, budget: int) -> None:
        """Drop the cache if all images take more than `budget` bytes."""
        if self.total_bytes > budget:
            self.cached = None

    @property
    def description(self) -> str:
        """Whether the images are cached, in words."""
        return "images encoded again" if self.cached is None else "images cached"

    def __iter__(self) -> Iterator[ConceptTokens]:
        """Yield the tokens of each chunk, from the cache or encoded again."""
        if self.cached is not None:
            yield from self.cached
            return
        for chunk in self.chunks:
            files = [open_image(self.source[image.index].image, key=image.key) for image in chunk]
            yield self.encode([self.predictor.pixels(file) for file in files])[0]


class TextFeatureCache:
    """The features of texts; each is encoded when it is first needed, and cached if all of them fit.

    Args:
        texts: texts on the model's device.
        budget: bytes that may be cached; if all texts take more, each is encoded whenever it is needed.
    """

    def __init__(self, model: XVLM, texts: Texts, budget: int) -> None:
        self.model, self.texts = model, texts
        weight_VD = self.model.text.embedding.token.weight
        size = (len(self.texts.ids_T), weight_VD.shape[1])
        total_bytes = size[0] * size[1] * weight_VD.element_size()
        self.cached_bytes = total_bytes if total_bytes <= budget else 0
        self.states_TD = weight_VD.new_empty(size) if self.cached_bytes else None
        self.is_cached_N = torch.zeros(len(self.texts), dtype=torch.bool, device=weight_VD.device)

    @property
    def description(self) -> str:
        """Whether the texts are cached, in words."""
        return "texts encoded again" if self.states_TD is None else "texts cached"

    @torch.no_grad()
    def __call__(self, text_U: Tensor) -> TextFeatures:
        """Return the features of the texts with (U,) distinct indices."""
        if self.states_TD is None:
            return self.model.encode_texts(self.select(text_U)[0])
        missing_U = text_U[~self.is_cached_N[text_U]]
        if len(missing_U):
            texts, token_T = self.select(missing_U)
            self.states_TD[token_T] = self.model.encode_texts(texts).states_TD
            self.is_cached_N[missing_U] = True
        texts, token_T = self.select(text_U)
        packing = Packing.from_texts(texts)
        states_TD = self.states_TD.index_select(0, token_T)
        cls_UD = self.model.text.pooled(states_TD, packing)
        return TextFeatures(states_TD, packing, cls_UD, self.model.text.embedding.token.weight)

    def select(self, text_U: Tensor) -> tuple[Texts, Tensor]:
        """Return the texts with (U,) indices, and the (T,) indices of their tokens among all tokens."""
        token_T, packing = select_segments(Packing.from_texts(self.texts), text_U)
        longest = int(packing.lengths_S.max())
        return Texts(self.texts.ids_T[token_T], packing.lengths_S, longest), token_T


def empty_rows(model: XVLM, *width: int) -> Tensor:
    """Return (0, ...) scores or embeddings: those of a rank without images."""
    return at_least_float(model.contrastive.temperature.new_empty(0, *width))
