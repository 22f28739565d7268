"""Fits how a search ranks and judges images, on a small collection that the model was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from xvlm.common.errors import InputError
from xvlm.data.images.decode import open_image
from xvlm.data.sources.source import Source
from xvlm.data.text.cleaning import clean_caption
from xvlm.distributed import run_on_main
from xvlm.evaluation.calibration import fit_logistic
from xvlm.inference.model import InferenceModel
from xvlm.models.calibration import SearchScore
from xvlm.models.checkpoints.folder import ModelBundle, set_calibration
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BadRecord, ImageData, Record
from xvlm.scenes import Scenes, is_true
from xvlm.search.rerank import candidate_terms
from xvlm.search.windows import image_vectors, pyramid
from xvlm.training.train import log_on_main

CANDIDATES, BATCH_SIZE = 30, 32
MIN_IMAGES = 20
NUM_TEXTS = 100
"""Texts that describe an image of the collection, and as many that describe none."""
NUM_SCENES, SCENES_SEED = 200, 1
OTHER_SEED = 2
"""Seed of the scenes whose captions describe none of the collection."""


@dataclass(frozen=True)
class JudgedTexts:
    """A collection, and texts of which is known what they describe in it.

    Attributes:
        images: the images.
        texts: the texts, each with the indices of the images that it describes.
    """

    images: Sequence[ImageData]
    texts: Sequence[tuple[str, frozenset[int]]]


def judged_scenes(image_size: int) -> JudgedTexts:
    """Return scenes, captions of some of them, and captions of other scenes that describe none of them."""
    scenes = Scenes("train", NUM_SCENES, seed=SCENES_SEED, image_size=image_size)
    others = Scenes("train", 4 * NUM_SCENES, seed=OTHER_SEED, image_size=image_size)
    drawn = [scenes.scene(index) for index in range(NUM_SCENES)]

    def described(text: str) -> frozenset[int]:
        return frozenset(index for index, scene in enumerate(drawn) if is_true(text, scene))

    own = [(text, described(text)) for text in _captions(scenes, NUM_TEXTS)]
    foreign = ((text, described(text)) for text in _captions(others, len(others)))
    none = list(islice((pair for pair in foreign if not pair[1]), NUM_TEXTS))
    return JudgedTexts([scenes[index].image for index in range(NUM_SCENES)], [*own, *none])


def judged_captions(source: Source, limit: int | None = None) -> JudgedTexts:
    """Return the images of a source with their captions; a caption is taken to describe its own image alone.

    The captions of every other image describe nothing, since their image is left out.

    Raises InputError if there are fewer than `MIN_IMAGES` images with captions.
    """
    records = [record for record in _readable(source, limit) if _whole_texts(record)]
    if len(records) < MIN_IMAGES:
        raise InputError(
            f"{source.name} has {len(records)} images with captions; a search is calibrated on at least "
            f"{MIN_IMAGES}"
        )
    kept, left_out = records[::2], records[1::2]
    own: dict[str, set[int]] = {}
    for index, record in enumerate(kept):
        for text in _whole_texts(record)[:1]:
            own.setdefault(clean_caption(text), set()).add(index)
    none = [clean_caption(text) for record in left_out for text in _whole_texts(record)[:1]]
    texts = [(text, frozenset(images)) for text, images in own.items()]
    texts += [(text, frozenset()) for text in none if text not in own]
    return JudgedTexts([record.image for record in kept], texts)


def calibrate_search(bundle: ModelBundle, folder_or_run: Path, judged: JudgedTexts) -> ModelBundle:
    """Fit the search score of a model, write it into its folder, and return the model with it.

    Args:
        folder_or_run: folder that holds the same model.
    Raises:
        InputError: the texts describe no image of the collection, or all that were considered.
    """
    predictor = InferenceModel(bundle)
    terms_N3, is_true_N = search_terms(predictor, judged)
    weights, offset = fit_logistic(terms_N3, is_true_N, "search")
    contrastive, matching, phrases = weights
    score = SearchScore(contrastive, matching, phrases, offset)
    calibration = replace(bundle.calibration, search=score)
    run_on_main(lambda: set_calibration(folder_or_run, calibration))
    log_on_main(
        f"search: {len(judged.texts)} texts, {len(judged.images)} images; weights of vectors, matching and "
        f"phrases {', '.join(f'{weight:.3f}' for weight in weights)}, offset {offset:.2f}"
    )
    return replace(bundle, calibration=calibration)


@torch.no_grad()
def search_terms(predictor: InferenceModel, judged: JudgedTexts) -> tuple[Tensor, Tensor]:
    """Return the (N, 3) terms of each text's candidates, and (N,) whether the text describes them."""
    features, vector_ICE = _encode(predictor, judged.images)
    contrastive = predictor.model.contrastive
    terms, truths = [], []
    for text, described in judged.texts:
        if not predictor.is_known(text):
            continue
        encoded = predictor.encode_texts([text])
        query_E = contrastive.embed_texts(encoded.cls_ND)[0]
        score_I = (vector_ICE @ query_E).amax(1) / contrastive.temperature
        best = score_I.topk(min(CANDIDATES, len(score_I)))
        chosen = features.select(best.indices)
        terms.append(candidate_terms(predictor, text, encoded, chosen, best.values))
        truths.append(torch.tensor([index in described for index in best.indices.tolist()]))
    if not terms:
        raise InputError("no text of the collection has a token that the model knows")
    return torch.cat(terms), torch.cat(truths)


def _encode(predictor: InferenceModel, images: Sequence[ImageData]) -> tuple[ImageFeatures, Tensor]:
    """Return the features of I images, and their (I, windows, E) vectors."""
    features, vectors = [], []
    for start in range(0, len(images), BATCH_SIZE):
        some = images[start : start + BATCH_SIZE]
        batch = predictor.encode_images([predictor.pixels(open_image(one, key="image")) for one in some])
        features.append(batch)
        vectors.append(image_vectors(predictor, batch, pyramid()))
    return ImageFeatures.cat(features), torch.cat(vectors)


def _captions(scenes: Scenes, count: int) -> Iterator[str]:
    for index in range(min(count, len(scenes))):
        yield _whole_texts(scenes[index])[0]


def _whole_texts(record: Record) -> list[str]:
    return [text for concept in record.concepts if concept.box_xyxy is None for text in concept.texts]


def _readable(source: Source, limit: int | None) -> list[Record]:
    """Return the records whose image can be opened."""
    found = []
    for index in range(len(source))[:limit]:
        try:
            record = source[index]
            open_image(record.image, key=record.key)
        except BadRecord:
            continue
        found.append(record)
    return found
