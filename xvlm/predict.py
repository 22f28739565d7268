"""Ask a trained model: encode an image once, ask often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xvlm import dist
from xvlm.batch import Concepts, Images, Texts
from xvlm.data.images import Opened
from xvlm.data.queries import TextReader
from xvlm.data.transforms import EvalTransform
from xvlm.data.user_images import AnyImage, open_any
from xvlm.errors import InputError
from xvlm.model.answers import question_states, rank_answers
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoding import CAPTION, Decoding
from xvlm.model.folder import Loaded, load_model
from xvlm.model.generate import write_texts
from xvlm.model.labels import label_logits
from xvlm.model.pairs import judge
from xvlm.model.text import TextFeatures
from xvlm.model.vision import ImageFeatures
from xvlm.model.xvlm import XVLM
from xvlm.records import BoxXYXY


class Grounded(NamedTuple):
    """Where a phrase is.

    Attributes:
        box_xyxy: in pixels of the upright image.
        score: probability that the phrase matches what is in the box; NaN if the model has no matching head.
    """

    box_xyxy: BoxXYXY
    score: float


class Answered(NamedTuple):
    """What a question is answered with.

    Attributes:
        text: the answer.
        score: its probability, among the given answers if there are any, else of all that could be written.
    """

    text: str
    score: float


class Entailed(NamedTuple):
    """What an image says of a hypothesis.

    Attributes:
        label: the likeliest: it follows from the image ("entailment"), cannot be told ("neutral") or is
            false ("contradiction"); a model that was trained for other labels tells those.
        probabilities: of every label.
    """

    label: str
    probabilities: dict[str, float]


TOLD = 5
"""Number of top answers returned."""


class Predictor:
    """A model, its tokenizer, and the questions that they can answer.

    Without a `device` the model stays where it is, so that one in training can be asked on the way.
    """

    def __init__(self, loaded: Loaded, device: torch.device | str | None = None) -> None:
        device = device or next(loaded.model.parameters()).device
        self.model: XVLM = loaded.model.to(device).eval()
        self.tokenizer = loaded.tokenizer
        self.max_words, self.max_tokens = loaded.max_words, loaded.max_tokens
        self.reader = TextReader(loaded.tokenizer, loaded.max_words, loaded.max_tokens)
        self.prompt = loaded.prompt
        self.device = torch.device(device)
        self.transform = EvalTransform(loaded.model.config.vision.image_hw)

    @classmethod
    def load(cls, folder_or_repo: str | Path, device: torch.device | str | None = None) -> Predictor:
        """From a model folder, a run's folder (its `model/`), or a hub repository.

        Args:
            device: by default this process's GPU where there is one, else the CPU.
        Raises:
            MissingFileError: it is none of these.
            InputError: there is no such device.
        """
        found = usable_device(device)
        return cls(load_model(folder_or_repo), found)

    def image(self, image: AnyImage) -> Photo:
        """Encode one image: a path or URL, encoded bytes, an open file, a Pillow image, or an array or tensor
        such as (H, W, 3) or (3, H, W); see `open_any`.

        Raises BadRecord if it is missing or does not decode, InputError if it is nothing of the kind.
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
        """Cleaned and packed.

        Raises BadRecord for a text that says nothing to the model, InputError for no text.
        """
        if isinstance(texts, str) or len(texts) == 0:
            raise InputError(f"texts is {texts!r}; it must be a list of at least one text")
        return Texts.pack([self.reader.caption(text).ids for text in texts]).to(self.device)

    @torch.no_grad()
    def answer(
        self,
        features: ImageFeatures,
        questions: Sequence[str],
        images: Sequence[int],
        answers: Sequence[str] | None = None,
        beams: int = 3,
        best: int = 128,
    ) -> list[list[Answered]]:
        """Questions about B images; see `Photo.ask`.

        Returns:
            of each question the best answers, the likeliest first: up to 5 of those given, or the one that
            was written.
        Args:
            images: which of the B each question is about.
            best: of a longer list of answers, how many are ranked by all their tokens; by the first one alone
                the others are left behind (published: 128).
        """
        ids = [self.reader.question(question).ids for question in questions]
        decoder = self.model.answers
        image_Q = torch.tensor(images, device=self.device)
        looked_at = question_states(self.model, features, Texts.pack(ids).to(self.device), image_Q)
        if answers is None:
            free = Decoding(beams, min_tokens=0, max_tokens=self.max_tokens)
            written = write_texts(decoder, looked_at, [self.tokenizer.cls_id], self.tokenizer.sep_id, free)
            return [[Answered(self.text(one.ids), math.exp(one.log_probability))] for (one,) in written]
        distinct = self.reader.answers(answers, decoder.longest)
        given = Texts.pack([list(ids) for ids in distinct]).to(self.device)
        ranked = rank_answers(decoder, looked_at, given, best)
        spelled = list(distinct.values())
        first = ranked.answer_Nk[:, :TOLD].tolist(), ranked.probability_Nk[:, :TOLD].tolist()
        return [
            [Answered(spelled[number], share) for number, share in zip(numbers, shares, strict=True)]
            for numbers, shares in zip(*first, strict=True)
        ]

    @torch.no_grad()
    def describe(
        self, features: ImageFeatures, decoding: Decoding = CAPTION, seeds: Sequence[int] | None = None
    ) -> list[list[str]]:
        """Captions of each of B images, likeliest first; see `Photo.captions`.

        Args:
            seeds: of what is drawn about each image; by default `decoding.seed` for all.
        """
        decoder = self.model.captions
        prompt = self.tokenizer.encode(self.prompt, decoder.longest, allow_empty=True)
        looked_at = whole_images(self.model, features)
        found = write_texts(decoder, looked_at, prompt, self.tokenizer.sep_id, decoding, seeds)
        return [[self.text(one.ids[len(prompt) :]) for one in several] for several in found]

    def text(self, ids: Sequence[int]) -> str:
        """What token ids say, special tokens left out."""
        return self.tokenizer.decode(ids).strip()

    @torch.no_grad()
    def judge(
        self, left: Sequence[Tensor], right: Sequence[Tensor], statements: Sequence[str], pairs: Sequence[int]
    ) -> list[float]:
        """The probability that each statement is true of its pair of images; see `compare`.

        Args:
            left, right: (3, height, width) uint8 pixels of the pairs.
            pairs: which pair each statement is about.
        """
        images = Images(torch.stack([*left, *right])).to(self.device)
        pair_N = torch.tensor(pairs, device=self.device)
        return judge(self.model, images, self.tokens(statements), pair_N).softmax(1)[:, 1].tolist()

    @torch.no_grad()
    def label(
        self, features: ImageFeatures, texts: Sequence[str], images: Sequence[int]
    ) -> list[dict[str, float]]:
        """The probability of each label, by name, of texts about B images; see `Photo.entails`.

        Args:
            images: which of the B each text is about.
        """
        image_N = torch.tensor(images, device=self.device)
        logits_NC = label_logits(self.model, features, self.tokens(texts), image_N)
        names = self.model.labels.names
        return [dict(zip(names, row, strict=True)) for row in logits_NC.softmax(1).tolist()]

    def compare(self, left: AnyImage, right: AnyImage, statement: str) -> float:
        """The probability that a statement about two images is true ("both show a dog").

        Raises BadRecord for an image that does not decode, MissingPart if the model was not trained for it.
        """
        pixels = [self.pixels(open_any(image)) for image in (left, right)]
        self.reader.warn([statement])
        return self.judge(pixels[:1], pixels[1:], [statement], [0])[0]

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
        self.predictor.reader.warn(phrases)
        image_N = torch.zeros(len(phrases), dtype=torch.int64, device=self.predictor.device)
        box_N4, score_N = ground(self.predictor.model, self.features, texts, image_N)
        size = torch.tensor([self.width, self.height, self.width, self.height], dtype=box_N4.dtype)
        boxes = (box_N4.cpu() * size).tolist()
        return [Grounded(tuple(box), score) for box, score in zip(boxes, score_N.tolist(), strict=True)]

    def match(self, texts: Sequence[str]) -> list[float]:
        """For each text the probability that it describes this image."""
        encoded = self.predictor.encode_texts(texts)
        self.predictor.reader.warn(texts)
        text_R = torch.arange(len(texts), device=self.predictor.device)
        concepts = whole_images(self.predictor.model, self.features)
        logit_R = match_logits(self.predictor.model, concepts, encoded, torch.zeros_like(text_R), text_R)
        return logit_R.sigmoid().tolist()

    def ask(self, question: str, answers: Sequence[str] | None = None, beams: int = 3) -> Answered:
        """Answer a question about the image.

        Args:
            answers: choose among these; without them the answer is written freely.
            beams: of the search for a free answer.
        Raises:
            InputError: the question or the list of answers is empty.
            MissingPart: the model was not trained for questions.
        """
        return self.ask_all(question, answers, beams)[0]

    def ask_all(self, question: str, answers: Sequence[str] | None = None, beams: int = 3) -> list[Answered]:
        """As `ask`, the likeliest answers: up to 5 of those given, the best first, or the one written."""
        best = len(answers or ())
        found = self.predictor.answer(self.features, [question], [0], answers, beams, best)[0]
        self.predictor.reader.warn([question], question=True)
        return found

    def entails(self, hypothesis: str) -> Entailed:
        """Does a hypothesis follow from the image, or contradict it?

        Raises MissingPart if the model was not trained for it.
        """
        (probabilities,) = self.predictor.label(self.features, [hypothesis], [0])
        self.predictor.reader.warn([hypothesis])
        return Entailed(max(probabilities, key=probabilities.__getitem__), probabilities)

    def caption(self, decoding: Decoding = CAPTION) -> str:
        """Describe the image; of several captions that are drawn, the likeliest.

        Raises:
            MissingPart: the model was not trained for captions.
            InputError: captions may be longer than the model's positions, or no longer than its prompt.
        """
        return self.captions(decoding)[0]

    def captions(self, decoding: Decoding) -> list[str]:
        """All captions that `decoding` asks for, likeliest first; errors as for `caption`."""
        return self.predictor.describe(self.features, decoding)[0]


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device that is asked for; by default this process's GPU, or the CPU.

    Raises InputError for one that does not exist here.
    """
    if device is None:
        return dist.device()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; it must be cpu, cuda or cuda:NUMBER") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {str(found)!r}; this machine has {torch.cuda.device_count()} GPUs")
    return found


@torch.no_grad()
def whole_images(model: XVLM, features: ImageFeatures) -> ConceptTokens:
    """Concept b is the whole image b."""
    return model.encode_whole(features)[0]


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
        ((N, 4) xyxy in [0, 1], (N,) matching probabilities, NaN without a matching head).
    """
    row_N = torch.arange(image_N.shape[0], device=image_N.device)
    whole = whole_images(model, features)
    cls_ND = model.fuse_cls(texts, row_N, whole, image_N)
    box_N4 = model.predict_box_xyxy(cls_ND, whole, image_N)
    if not hasattr(model, "matching"):
        return box_N4, torch.full_like(box_N4[:, 0], torch.nan)
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
    published: bool = False,
) -> Tensor:
    """(R,) log-odds that text `text_R[r]` describes concept `concept_R[r]`; both (R,) int64.

    Args:
        published: give the logit of the match alone, by which the published evaluation ranks.
    """
    logits_R2 = model.match(model.fuse_cls(texts, text_R, concepts, concept_R, keys_values))
    return logits_R2[:, 1] if published else logits_R2[:, 1] - logits_R2[:, 0]


@torch.no_grad()
def embed_images(model: XVLM, features: ImageFeatures) -> Tensor:
    """(B, E) of unit length, for contrastive ranking."""
    _, cls_BD = model.encode_whole(features)
    return model.contrastive.embed_concepts(cls_BD)
