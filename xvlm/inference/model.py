"""A trained model with its tokenizer: images and texts in, features out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from xvlm import distributed
from xvlm.batch import Images, Texts
from xvlm.common.errors import InputError
from xvlm.data.images.decode import ImageFile
from xvlm.data.samples.transforms import eval_pixels
from xvlm.data.text.query_reader import QueryReader, checked_texts
from xvlm.models.checkpoints.folder import ModelBundle, load_model
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import XVLM
from xvlm.records import BadRecord


class InferenceModel:
    """A model in evaluation mode, with its tokenizer.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        reader: cleans and tokenizes texts as in training.
        prompt: text that every caption starts with.
        matching_weight, phrase_weight: weights of the matching log-odds and of the score of a caption's
            phrases beside contrastive scores, see `evaluate_retrieval`.
        calibration: how scores become probabilities.
        device: device of the model.
    """

    def __init__(self, bundle: ModelBundle, device: torch.device | str | None = None) -> None:
        """Move a model to a device; by default it stays where it is, as a model in training must."""
        self.device = torch.device(device or next(bundle.model.parameters()).device)
        self.model: XVLM = bundle.model.to(self.device).eval()
        self.tokenizer = bundle.tokenizer
        self.max_words, self.max_tokens = bundle.max_words, bundle.max_tokens
        self.reader = QueryReader(bundle.tokenizer, bundle.max_words, bundle.max_tokens)
        self.prompt = bundle.prompt
        self.matching_weight, self.phrase_weight = bundle.matching_weight, bundle.phrase_weight
        self.calibration = bundle.calibration

    @classmethod
    def load(cls, folder_or_repo: str | Path, device: torch.device | str | None = None) -> Self:
        """Load a model folder, the model of a run's folder, or a hub repository.

        Args:
            device: by default this process's GPU if there is one, else the CPU.
        Raises:
            MissingFileError: there is no such folder or repository.
            InputError: there is no such device.
        """
        checked = checked_device(device)
        return cls(load_model(folder_or_repo), checked)

    def bundle(self) -> ModelBundle:
        """Return what a model folder holds."""
        return ModelBundle(
            self.model,
            self.tokenizer,
            self.max_words,
            self.max_tokens,
            self.prompt,
            self.matching_weight,
            self.phrase_weight,
            self.calibration,
        )

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the whole image at the model's size, (3, height, width) uint8.

        Raises BadRecord if it does not decode.
        """
        return eval_pixels(image, self.model.config.vision.image_hw)

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[Tensor]) -> ImageFeatures:
        """Encode a batch of B images from their (3, height, width) uint8 pixels, as `pixels` makes them.

        Raises InputError for another size or type, and if there is no image.
        """
        height, width = self.model.config.vision.image_hw
        for one in pixels:
            if one.dtype != torch.uint8 or one.shape != (3, height, width):
                raise InputError(
                    f"pixels has {one.dtype} {tuple(one.shape)}; this model reads torch.uint8 (3, {height}, "
                    f"{width}), see `pixels`"
                )
        if len(pixels) == 0:
            raise InputError("pixels is empty; it must have at least one image")
        return self.model.encode_images(Images(torch.stack(list(pixels))).to(self.device))

    def tokens(self, texts: Sequence[str]) -> Texts:
        """Clean, tokenize and pack texts.

        Raises BadRecord for a text without known tokens, InputError for what is no list of texts.
        """
        ids = [self.reader.encode_caption(text).ids for text in checked_texts(texts)]
        return Texts.pack(ids).to(self.device)

    def is_known(self, text: str) -> bool:
        """Return whether a text has a token that the model knows."""
        try:
            self.reader.encode_caption(text)
        except BadRecord:
            return False
        return True

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        """Encode a batch of N texts.  Errors as in `tokens`."""
        return self.model.encode_texts(self.tokens(texts))

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, E) vectors of texts, of unit length, to compare with `Photo.vector`."""
        return self.model.contrastive.embed_texts(self.encode_texts(texts).cls_ND).cpu().numpy()

    @torch.no_grad()
    def whole_images(self, features: ImageFeatures) -> ConceptTokens:
        """Return the tokens of B concepts: concept b is the whole image b."""
        return self.model.encode_whole(features)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self.tokenizer.decode(ids).strip()


def checked_device(device: torch.device | str | None) -> torch.device:
    """Return the device, by default this process's GPU or the CPU.

    Raises InputError if it does not exist here.
    """
    if device is None:
        return distributed.device()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; it must be cpu, cuda or cuda:NUMBER") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(found)!r}; this machine has {torch.cuda.device_count()} GPUs")
    return found
