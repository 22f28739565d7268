"""Predictions of exported graphs by onnxruntime, with methods of `Predictor`; PyTorch is not loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from xvlm.common.errors import InputError, MissingFileError, MissingHead, MissingPackageError
from xvlm.data.images.decode import ImageFile
from xvlm.data.images.user_images import AnyImage, open_user_image
from xvlm.data.text.query_reader import QueryReader, checked_texts
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.export.arrays import (
    joint_log_odds,
    patches_touched,
    peaks,
    probability,
    softmax,
    to_xyxy,
    without_overlaps,
)
from xvlm.export.decoding import Rows, answer_scores, beam_search
from xvlm.export.folder import read_description
from xvlm.inference.answers import TOP_ANSWERS, Answer, Detection, EntailmentAnswer, GroundingAnswer
from xvlm.models.calibration import THRESHOLD, Platt
from xvlm.models.generation.config import CAPTION_GENERATION, GenerationConfig
from xvlm.models.generation.search import Generation, LengthLimits
from xvlm.records import BoxXYXY


class OnnxPredictor:
    """A model that `xvlm export` wrote; see `Predictor` for what it answers.

    Attributes:
        description: content of `export.json`.
        tokenizer, reader: of the model.
    """

    def __init__(self, folder: Path, providers: Sequence[str], threads: int) -> None:
        try:
            from onnxruntime import InferenceSession, SessionOptions
        except ImportError as error:
            raise MissingPackageError(
                f"this needs the extra: pip install 'xvlm[export]' ({error})"
            ) from error
        self.description = read_description(folder)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.reader = QueryReader(self.tokenizer, self.description.max_words, self.description.max_tokens)
        options = SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self._sessions: dict[str, Any] = {}
        for name in self.description.graphs:
            path = folder / f"{name}.onnx"
            if not path.is_file():
                raise MissingFileError(f"{folder} lacks {path.name}")
            try:
                self._sessions[name] = InferenceSession(str(path), options, providers=list(providers))
            except Exception as error:  # errors of the package have no common base class
                raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error

    @classmethod
    def load(
        cls, folder: str | Path, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int = 0
    ) -> Self:
        """Load a folder that `xvlm export` wrote.

        Args:
            providers: execution providers of onnxruntime, the preferred one first.
            threads: threads of an operator; 0: as many as cores.
        Raises:
            InputError: it is none, or a graph is damaged.
            MissingFileError: a graph is missing.
            MissingPackageError: onnxruntime is not installed.
        """
        return cls(Path(folder), providers, threads)

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a graph by name, with arrays (N, ...) by input, and return those by output; see `graphs.py`.

        Raises MissingHead if there is no such graph.
        """
        session = self._sessions.get(graph)
        if session is None:
            raise MissingHead(f"this model has no graph {graph!r}; it has {', '.join(self._sessions)}")
        used = {one.name: inputs[one.name] for one in session.get_inputs()}
        outputs = [one.name for one in session.get_outputs()]
        return dict(zip(outputs, session.run(outputs, used), strict=True))

    def needs(self, head: str) -> None:
        """Raise MissingHead if the model lacks a head."""
        if head not in self.description.heads:
            has = ", ".join(self.description.heads)
            raise MissingHead(f"this model has no head {head!r}, so it cannot do that; it has {has}")

    def image(self, image: AnyImage) -> OnnxPhoto:
        """Encode an image; see `Predictor.image`."""
        opened = open_user_image(image)
        return OnnxPhoto(self, opened, self.run("image", {"pixels": self._pixels([opened])}))

    def _pixels(self, images: Sequence[ImageFile]) -> np.ndarray:
        """Return (B, 3, height, width) uint8 pixels."""
        resized = [
            one.resized((0.0, 0.0, float(one.width), float(one.height)), self.description.image_hw)
            for one in images
        ]
        return np.stack([np.asarray(one).transpose(2, 0, 1) for one in resized])

    def compare(self, left: AnyImage, right: AnyImage, statement: str) -> float:
        """Return the probability that a statement about two images is true; see `Predictor.compare`."""
        self.needs("pair_classifier")
        pixels = self._pixels([open_user_image(left), open_user_image(right)])
        tokens = self.run("image", {"pixels": pixels})["tokens"]
        texts = self.encode_texts([statement])
        found = self.run("fusion", {**texts, "left": tokens[:1], "right": tokens[1:]})
        return float(softmax(found["pair"])[0, 1])

    def encode_texts(self, texts: Sequence[str], questions: bool = False) -> dict[str, np.ndarray]:
        """Encode N texts: states (N, L, D), mask (N, L), and vectors (N, E) if the model has them."""
        encode = self.reader.encode_question if questions else self.reader.encode_caption
        texts = checked_texts(texts)
        self.reader.warn(texts, question=questions)
        ids = [encode(text).ids for text in texts]
        longest = max(map(len, ids))
        ids_NL = np.full((len(ids), longest), self.tokenizer.pad_id, np.int64)
        for row, own in zip(ids_NL, ids, strict=True):
            row[: len(own)] = own
        mask_NL = np.arange(longest) < np.array([[len(own)] for own in ids])
        return {"mask": mask_NL, **self.run("text", {"ids": ids_NL, "mask": mask_NL})}

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return (N, E) vectors of texts, of unit length, to compare with those of images."""
        self.needs("contrastive")
        return self.encode_texts(texts)["vector"]

    def decoder_rows(self, name: str, context: np.ndarray, count: int) -> Rows:
        """Return rows of a decoder, "answer" or "caption", over a context (1, P, D)."""
        self.needs({"answer": "vqa_decoder", "caption": "caption_decoder"}[name])
        inputs = self._sessions[f"{name}_step"].get_inputs()
        (cached,) = (one for one in inputs if one.name == "cached")
        return Rows(self.run, name, context, count, int(cached.shape[0]))


class OnnxPhoto:
    """One encoded image; see `Photo`."""

    def __init__(self, predictor: OnnxPredictor, opened: ImageFile, features: dict[str, np.ndarray]) -> None:
        self.predictor, self.features = predictor, features
        self.width, self.height = opened.width, opened.height

    @property
    def vector(self) -> np.ndarray:
        """(E,) vector of the image, of unit length, to compare with those of texts."""
        self.predictor.needs("contrastive")
        return self.features["vector"][0]

    def _fuse(self, texts: Mapping[str, np.ndarray], patches_NP: np.ndarray | None = None) -> dict[str, Any]:
        """Fuse N texts with the whole image, or with the region of the image that each row of patches is."""
        count, description = len(texts["mask"]), self.predictor.description
        image, tokens = np.zeros(count, np.int64), self.features["tokens"]
        rows, columns = description.grid_hw
        if patches_NP is None:
            patches_NP = np.ones((count, rows * columns), bool)
        elif not description.has_mean:
            before = np.repeat(self.features["before_local"], count, 0)
            tokens = self.predictor.run("region", {"before_local": before, "patches": patches_NP})["tokens"]
            image = np.arange(count)
        inputs = {**texts, "tokens": tokens, "image": image, "patches": patches_NP}
        return self.predictor.run("fusion", {**inputs, "finer": self.features.get("finer", tokens)})

    def _platt(self, name: str, calibrated: bool) -> Platt:
        return getattr(self.predictor.description.calibration, name) if calibrated else Platt()

    def _in_pixels(self, box_xyxy: np.ndarray) -> BoxXYXY:
        x0, y0, x1, y1 = (box_xyxy * [self.width, self.height, self.width, self.height]).tolist()
        return x0, y0, x1, y1

    def ground(self, phrase: str, calibrated: bool = True) -> GroundingAnswer:
        """Find the one box that fits a phrase best; see `Photo.ground`."""
        return self.ground_many([phrase], calibrated)[0]

    def ground_many(self, phrases: Sequence[str], calibrated: bool = True) -> list[GroundingAnswer]:
        """Find the boxes of several phrases; see `Photo.ground_many`."""
        self.predictor.needs("box")
        texts = self.predictor.encode_texts(phrases)
        found = self._fuse(texts)
        box_N4 = to_xyxy(found["box"])
        log_odds = found.get("presence")
        if "matching" in self.predictor.description.heads:
            patches_NP = patches_touched(box_N4, self.predictor.description.grid_hw)
            log_odds = self._fuse(texts, patches_NP)["match_log_odds"]
        scores: list[float | None] = [None] * len(box_N4)
        if log_odds is not None:
            scores = probability(self._platt("ground", calibrated), log_odds).tolist()
        return [
            GroundingAnswer(self._in_pixels(box), score) for box, score in zip(box_N4, scores, strict=True)
        ]

    def find(self, phrase: str, threshold: float = THRESHOLD) -> list[Detection]:
        """Find everything that a phrase describes; see `Photo.find`."""
        return self.find_many([phrase], threshold)[0]

    def find_many(self, phrases: Sequence[str], threshold: float = THRESHOLD) -> list[list[Detection]]:
        """Find everything that each of several phrases describes; see `Photo.find_many`."""
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is {threshold}; it must be 0 to 1")
        self.predictor.needs("detection")
        found, platt = self._fuse(self.predictor.encode_texts(phrases)), self._platt("box", True)
        columns = (found["presence"], found["objectness"], to_xyxy(found["cell_boxes"]))
        return [self._detections(*row, platt, threshold) for row in zip(*columns, strict=True)]

    def _detections(
        self,
        presence: np.ndarray,
        objectness_C: np.ndarray,
        box_C4: np.ndarray,
        platt: Platt,
        threshold: float,
    ) -> list[Detection]:
        cells = peaks(objectness_C, self._cells_hw(len(objectness_C)))
        log_odds_X = joint_log_odds(np.broadcast_to(presence, cells.shape), objectness_C[cells])
        scores_X = probability(platt, log_odds_X)
        usable = (scores_X >= threshold) & np.isfinite(box_C4[cells]).all(1)
        cells, log_odds_X, scores_X = cells[usable], log_odds_X[usable], scores_X[usable]
        return [
            Detection(self._in_pixels(box_C4[cells[one]]), float(scores_X[one]), float(log_odds_X[one]))
            for one in without_overlaps(box_C4[cells])
        ]

    def _cells_hw(self, count: int) -> tuple[int, int]:
        """Return rows and columns of the cells: those of the finer map, or twice those of the patches."""
        if "finer" in self.features:
            return self.features["finer"].shape[2], self.features["finer"].shape[3]
        rows, columns = self.predictor.description.grid_hw
        return 2 * rows, 2 * columns

    def presence(self, phrases: Sequence[str]) -> list[float]:
        """Return the probability that each phrase describes anything here; see `Photo.presence`."""
        self.predictor.needs("detection")
        found = self._fuse(self.predictor.encode_texts(phrases))
        return probability(self._platt("presence", True), found["presence"]).tolist()  # type: ignore[no-any-return]

    def match(self, texts: Sequence[str], calibrated: bool = True) -> list[float]:
        """Return the probability that each text describes this image; see `Photo.match`."""
        self.predictor.needs("matching")
        found = self._fuse(self.predictor.encode_texts(texts))
        return probability(self._platt("match", calibrated), found["match_log_odds"]).tolist()  # type: ignore[no-any-return]

    def entails(self, hypothesis: str) -> EntailmentAnswer:
        """Classify whether a hypothesis follows from the image; see `Photo.entails`."""
        self.predictor.needs("classifier")
        (row,) = softmax(self._fuse(self.predictor.encode_texts([hypothesis]))["labels"]).tolist()
        probabilities = dict(zip(self.predictor.description.labels, row, strict=True))
        return EntailmentAnswer(max(probabilities, key=probabilities.__getitem__), probabilities)

    def ask(self, question: str, answers: Sequence[str] | None = None, num_beams: int = 3) -> Answer:
        """Answer a question; see `Photo.ask`."""
        return self.ask_all(question, answers, num_beams)[0]

    def ask_all(
        self, question: str, answers: Sequence[str] | None = None, num_beams: int = 3
    ) -> list[Answer]:
        """As `ask`, but return up to 5 candidate answers, most probable first, or the generated one."""
        predictor = self.predictor
        predictor.needs("vqa_decoder")
        context = self._fuse(predictor.encode_texts([question], questions=True))["fused"]
        if answers is None:
            config = GenerationConfig(num_beams, min_tokens=0, max_tokens=predictor.description.max_tokens)
            best = self._search("answer", context, [predictor.tokenizer.cls_id], config)
            return [Answer(self._text(best), math.exp(best.log_probability))]
        candidates = predictor.reader.encode_answers(answers, predictor.description.positions)
        rows = predictor.decoder_rows("answer", context, len(candidates))
        scores_A = answer_scores(rows, list(candidates))
        order = np.argsort(-scores_A, kind="stable")
        share_A, texts = softmax(scores_A), list(candidates.values())
        return [Answer(texts[one], float(share_A[one])) for one in order[:TOP_ANSWERS]]

    def caption(self, config: GenerationConfig = CAPTION_GENERATION) -> str:
        """Search for a caption; see `Photo.caption`.  Raises InputError for what the search does not have."""
        predictor = self.predictor
        predictor.needs("caption_decoder")
        if config.num_sampled or config.repetition_penalty != 1:
            raise InputError("a predictor on ONNX graphs has neither num_samples nor repetition_penalty")
        prompt = predictor.tokenizer.encode(predictor.description.prompt, config.max_tokens, allow_empty=True)
        return self._text(self._search("caption", self.features["tokens"], prompt, config), len(prompt))

    def _search(
        self, name: str, context: np.ndarray, prompt: Sequence[int], config: GenerationConfig
    ) -> Generation:
        predictor, positions = self.predictor, self.predictor.description.positions
        if config.max_tokens > positions:
            raise InputError(f"max_tokens={config.max_tokens} exceeds the decoder's {positions} positions")
        rows = predictor.decoder_rows(name, context, config.num_beams)
        limits = LengthLimits(predictor.tokenizer.sep_id, config.max_tokens, config.min_tokens)
        return beam_search(rows, prompt, limits, config.num_beams)

    def _text(self, found: Generation, prompt: int = 0) -> str:
        return self.predictor.tokenizer.decode(found.ids[prompt:]).strip()
