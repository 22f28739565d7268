"""What matching reads, of many images and texts: kept in the memory that is given, or made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xvlm.batch import Texts
from xvlm.data.images import open_image
from xvlm.data.sources import Source
from xvlm.model.attention import ConceptTokens
from xvlm.model.packing import Packing, gather_segments
from xvlm.model.text import TextFeatures
from xvlm.model.xvlm import XVLM
from xvlm.predict import Predictor


@dataclass(frozen=True)
class Described:
    """An image and the texts that describe it.

    Attributes:
        key: of its record, the first one of several.
        path: of its file; `None` where it is no file.
        number: of that record in the source.
        texts: one or more, of all records that show the image.
    """

    key: str
    path: str | None
    number: int
    texts: tuple[str, ...]


class ImageTokens:
    """What texts look at of this rank's images, a chunk of them at a time.

    Args:
        budget: bytes that may be kept; if all images take more, each is encoded whenever it is asked for.
    """

    def __init__(self, predictor: Predictor, source: Source, budget: int) -> None:
        self.predictor, self.source, self.budget = predictor, source, budget
        self.chunks: list[list[Described]] = []
        self.kept: list[ConceptTokens] | None = []
        self.bytes = 0  # of all, were they kept

    @torch.no_grad()
    def encode(self, pixels: Sequence[Tensor]) -> tuple[ConceptTokens, Tensor]:
        """(3, height, width) uint8 pixels of B images -> their tokens, and v_cls (B, D)."""
        return self.predictor.model.encode_whole(self.predictor.encode_images(pixels))

    def add(self, images: list[Described], tokens: ConceptTokens) -> None:
        """One more chunk."""
        self.chunks.append(images)
        self.bytes += tokens.tokens_SPD.nbytes + tokens.mask_CP.nbytes
        self.keep_within(self.budget)
        if self.kept is not None:
            self.kept.append(tokens)

    def keep_within(self, budget: int) -> None:
        """Keep nothing if it is more than `budget` bytes."""
        if self.bytes > budget:
            self.kept = None

    @property
    def told(self) -> str:
        """What is kept, in words."""
        return "images encoded again" if self.kept is None else "images kept"

    def __iter__(self) -> Iterator[ConceptTokens]:
        """Chunk by chunk: as kept, or read and encoded again."""
        if self.kept is not None:
            yield from self.kept
            return
        for chunk in self.chunks:
            opened = [open_image(self.source[one.number].image, key=one.key) for one in chunk]
            yield self.encode([self.predictor.pixels(one) for one in opened])[0]


class TextStates:
    """States of texts: each is encoded when it is first asked for, and kept if all of them fit.

    Args:
        texts: on the model's device.
        budget: bytes that may be kept; if all texts take more, each is encoded whenever it is asked for.
    """

    def __init__(self, model: XVLM, texts: Texts, budget: int) -> None:
        self.model = model
        self.texts = texts
        weight_VD = self.model.text.embedding.token.weight
        size = (len(self.texts.ids_T), weight_VD.shape[1])
        needed = size[0] * size[1] * weight_VD.element_size()
        self.kept_bytes = needed if needed <= budget else 0
        self.kept_TD = weight_VD.new_empty(size) if self.kept_bytes else None
        self.known_N = torch.zeros(len(self.texts), dtype=torch.bool, device=weight_VD.device)

    @property
    def told(self) -> str:
        """What is kept, in words."""
        return "texts encoded again" if self.kept_TD is None else "texts kept"

    @torch.no_grad()
    def __call__(self, text_U: Tensor) -> TextFeatures:
        """The features of texts (U,)."""
        if self.kept_TD is None:
            return self.model.encode_texts(self.chosen(text_U)[0])
        new_U = text_U[~self.known_N[text_U]]
        if len(new_U):
            texts, token_T = self.chosen(new_U)
            self.kept_TD[token_T] = self.model.encode_texts(texts).states_TD
            self.known_N[new_U] = True
        texts, token_T = self.chosen(text_U)
        packing = Packing.of(texts.lengths_N, len(token_T), texts.longest)
        states_TD = self.kept_TD.index_select(0, token_T)
        summary_UD = self.model.text.summary(states_TD, packing)
        return TextFeatures(states_TD, packing, summary_UD, self.model.text.embedding.token.weight)

    def chosen(self, text_U: Tensor) -> tuple[Texts, Tensor]:
        """Texts (U,), and where their tokens (T,) stand among those of all."""
        token_T, lengths_U, _ = gather_segments(self.texts.lengths_N, text_U)
        return Texts(self.texts.ids_T[token_T], lengths_U, int(lengths_U.max())), token_T
