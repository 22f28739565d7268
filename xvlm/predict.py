"""Ask a trained model: encode an image once, ask often."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from xvlm.batch import Concepts, Images, Texts
from xvlm.data.images import Opened, open_image, to_rgb
from xvlm.data.text import clean_caption
from xvlm.data.transforms import EvalTransform
from xvlm.model.attention import ConceptTokens
from xvlm.model.folder import Loaded, load_model
from xvlm.model.text import TextFeatures
from xvlm.model.vision import ImageFeatures
from xvlm.model.xvlm import XVLM
from xvlm.records import BadRecord, BoxXYXY, ImageData

AnyImage = ImageData | Path | Image.Image


class Grounded(NamedTuple):
    """Where a phrase is.

    Attributes:
        box_xyxy: in pixels of the upright image.
        score: probability that the phrase matches what is in the box.
    """

    box_xyxy: BoxXYXY
    score: float


class Predictor:
    """A model, its tokenizer, and the questions that they can answer.

    Without a `device` the model stays where it is, so that one in training can be asked on the way.
    """

    def __init__(self, loaded: Loaded, device: torch.device | str | None = None) -> None:
        device = device or next(loaded.model.parameters()).device
        self.model: XVLM = loaded.model.to(device).eval()
        self.tokenizer = loaded.tokenizer
        self.max_words, self.max_tokens = loaded.max_words, loaded.max_tokens
        self.device = torch.device(device)
        self.transform = EvalTransform(loaded.model.config.vision.image_hw)

    @classmethod
    def load(cls, folder_or_repo: str | Path, device: torch.device | str = "cpu") -> Predictor:
        """From a model folder, a run's folder (its `model/`), or a hub repository.

        Raises FileNotFoundError if it is none of these.
        """
        inner = Path(folder_or_repo) / "model"
        return cls(load_model(inner if inner.is_dir() else folder_or_repo), device)

    def image(self, image: AnyImage) -> Photo:
        """Encode one image: a path, encoded bytes, (H, W, 3) uint8 pixels or a PIL image.

        Raises BadRecord if it is missing or does not decode.
        """
        opened = open_any(image)
        return Photo(self, opened, self.encode_images([self.pixels(opened)]))

    def pixels(self, opened: Opened) -> Tensor:
        """The whole image at the model's size, (3, height, width) uint8.

        Raises BadRecord if it does not decode.
        """
        return self.transform(opened)[0]

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[Tensor]) -> ImageFeatures:
        """(3, height, width) uint8 pixels of B images -> their features, in one batch."""
        return self.model.encode_images(Images(torch.stack(list(pixels))).to(self.device))

    def tokens(self, texts: Sequence[str]) -> Texts:
        """Cleaned and packed.  Raises BadRecord if nothing is left of a text, ValueError for no text."""
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"texts is {texts!r}; it must be a list of at least one text")
        ids = [self.tokenizer.encode(clean_caption(text, self.max_words), self.max_tokens) for text in texts]
        return Texts.pack(ids).to(self.device)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        """N texts, in one batch."""
        return self.model.encode_texts(self.tokens(texts))


class Photo:
    """One encoded image, ready for questions."""

    def __init__(self, predictor: Predictor, opened: Opened, features: ImageFeatures) -> None:
        self.predictor = predictor
        self.width, self.height = opened.width, opened.height
        self.features = features

    def ground(self, phrase: str) -> Grounded:
        """Where is this phrase in the image?  The box in pixels, and the probability that they match."""
        return self.ground_all([phrase])[0]

    def ground_all(self, phrases: Sequence[str]) -> list[Grounded]:
        """`ground` for several phrases in one pass."""
        texts = self.predictor.encode_texts(phrases)
        image_N = torch.zeros(len(phrases), dtype=torch.int64, device=self.predictor.device)
        box_N4, score_N = ground(self.predictor.model, self.features, texts, image_N)
        size = torch.tensor([self.width, self.height, self.width, self.height], dtype=box_N4.dtype)
        boxes = (box_N4.cpu() * size).tolist()
        return [Grounded(tuple(box), score) for box, score in zip(boxes, score_N.tolist(), strict=True)]

    def match(self, texts: Sequence[str]) -> list[float]:
        """For each text the probability that it describes this image."""
        encoded = self.predictor.encode_texts(texts)
        text_R = torch.arange(len(texts), device=self.predictor.device)
        concepts = whole_images(self.predictor.model, self.features)
        logit_R = match_logits(self.predictor.model, concepts, encoded, torch.zeros_like(text_R), text_R)
        return logit_R.sigmoid().tolist()


def open_any(image: AnyImage) -> Opened:
    """Whatever a user has in hand; errors name it.  A PIL image's own EXIF orientation is followed."""
    if isinstance(image, Image.Image):
        try:
            image = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
        except (OSError, ValueError) as error:
            raise BadRecord("image does not decode", "image", str(error)) from error
    if isinstance(image, Path):
        image = str(image)
    return open_image(image, key=image if isinstance(image, str) else "image")


@torch.no_grad()
def whole_images(model: XVLM, features: ImageFeatures) -> ConceptTokens:
    """Concept b is the whole image b."""
    return model.encode_concepts(features, Concepts.none(features.tokens_BPD.device))[0]


@torch.no_grad()
def ground(
    model: XVLM, features: ImageFeatures, texts: TextFeatures, image_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Text n in image `image_N[n]`: the box from the whole image, then how well text and box match.

    Args:
        features: B images.
        texts: N texts.
        image_N: (N,) int64.
    Returns:
        ((N, 4) xyxy in [0, 1], (N,) matching probabilities).
    """
    row_N = torch.arange(image_N.shape[0], device=image_N.device)
    whole = whole_images(model, features)
    cls_ND = model.fuse(texts, row_N, whole, image_N).cls_RD
    box_N4 = model.predict_box_xyxy(cls_ND, whole, image_N)
    regions = Concepts(image_N, box_N4.float(), torch.ones_like(image_N, dtype=torch.bool))
    tokens, _ = model.encode_concepts(features, regions)
    return box_N4, match_logits(model, tokens, texts, row_N, row_N).sigmoid()


@torch.no_grad()
def match_logits(
    model: XVLM,
    concepts: ConceptTokens,
    texts: TextFeatures,
    concept_R: Tensor,
    text_R: Tensor,
    keys_values: list[Tensor] | None = None,
) -> Tensor:
    """(R,) log-odds that text `text_R[r]` describes concept `concept_R[r]`; both (R,) int64."""
    logits_R2 = model.match(model.fuse(texts, text_R, concepts, concept_R, keys_values).cls_RD)
    return logits_R2[:, 1] - logits_R2[:, 0]


@torch.no_grad()
def embed_images(model: XVLM, features: ImageFeatures) -> Tensor:
    """(B, E) of unit length, for contrastive ranking."""
    _, cls_CD = model.encode_concepts(features, Concepts.none(features.tokens_BPD.device))
    return model.contrastive.embed_concepts(cls_CD)
