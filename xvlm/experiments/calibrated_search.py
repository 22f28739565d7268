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
from xvlm.data.text.absent import cleaned, named_kinds, names_another_thing
from xvlm.distributed import run_on_main
from xvlm.evaluation.calibration import fit_logistic
from xvlm.inference.model import InferenceModel
from xvlm.models.calibration import THRESHOLD, SearchScore
from xvlm.models.checkpoints.folder import ModelBundle, set_calibration
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import BadRecord, ImageData, Record
from xvlm.scenes import Scenes, is_true
from xvlm.search.rerank import candidate_terms
from xvlm.search.windows import image_vectors, pyramid
from xvlm.training.train import log_on_main

CANDIDATES, BATCH_SIZE = 30, 32
MIN_IMAGES = 20
PHRASES = 1
"""Phrases of an image that are searched for, beside one of its captions."""
NUM_TEXTS = 100
"""Texts that describe an image of the collection, and as many that describe none."""
NUM_SCENES, SCENES_SEED = 200, 1
OTHER_SEED = 2
"""Seed of the scenes whose captions describe none of the collection."""


@dataclass(frozen=True)
class JudgedText:
    """A text, and what is known of the images that it describes.

    Attributes:
        text: the text.
        described: indices of images that it describes.
        uncertain: indices of images that it may describe, too.
    """

    text: str
    described: frozenset[int]
    uncertain: frozenset[int] = frozenset()


@dataclass(frozen=True)
class JudgedTexts:
    """A collection, and texts of which is known what they describe in it."""

    images: Sequence[ImageData]
    texts: Sequence[JudgedText]


def judged_scenes(image_size: int) -> JudgedTexts:
    """Return scenes, captions of some of them, and captions of other scenes that describe none of them."""
    scenes = Scenes("train", NUM_SCENES, seed=SCENES_SEED, image_size=image_size)
    others = Scenes("train", 4 * NUM_SCENES, seed=OTHER_SEED, image_size=image_size)
    scene_list = [scenes.scene(index) for index in range(NUM_SCENES)]

    def judged(text: str) -> JudgedText:
        return JudgedText(text, frozenset(i for i, scene in enumerate(scene_list) if is_true(text, scene)))

    own = map(judged, _captions(scenes, NUM_TEXTS))
    foreign = map(judged, _captions(others, len(others)))
    none = islice((one for one in foreign if not one.described), NUM_TEXTS)
    return JudgedTexts([scenes[index].image for index in range(NUM_SCENES)], [*own, *none])


def judged_captions(source: Source, limit: int | None = None) -> JudgedTexts:
    """Return every other image of a source, and a caption and phrases of all its images.

    The texts of the images that are left out describe nothing in the collection, as far as is known: a text
    describes its own image, and may describe each image whose texts name everything that it names.

    Raises InputError if there are fewer than `MIN_IMAGES` images with captions.
    """
    records = [record for record in _readable(source, limit) if _texts(record, boxed=False)]
    if len(records) < MIN_IMAGES:
        raise InputError(
            f"{source.name} has {len(records)} images with captions; a search is calibrated on at least "
            f"{MIN_IMAGES}"
        )
    selected = records[::2]
    named = [named_kinds([text for one in record.concepts for text in one.texts]) for record in selected]
    own: dict[str, set[int]] = {}
    for number, record in enumerate(records):
        for text in cleaned([*_texts(record, False)[:1], *_texts(record, True)[:PHRASES]]):
            own.setdefault(text, set()).update([number // 2] if number % 2 == 0 else [])
    texts = []
    for text, described in own.items():
        possible = {image for image, kinds in enumerate(named) if not names_another_thing(text, kinds)}
        texts.append(JudgedText(text, frozenset(described), frozenset(possible - described)))
    return JudgedTexts([record.image for record in selected], texts)


def calibrate_search(bundle: ModelBundle, folder_or_run: Path, judged: JudgedTexts) -> ModelBundle:
    """Fit the search score of a model, write it into its folder, and return the model with it.

    Args:
        folder_or_run: folder that holds the same model.
    Raises:
        InputError: the texts describe no image of the collection, or all that were considered.
    """
    predictor = InferenceModel(bundle)
    terms = search_terms(predictor, judged)
    weights, offset = fit_logistic(terms.terms_N3, terms.is_true_N, "search")
    contrastive, matching, phrases = weights
    score = SearchScore(contrastive, matching, phrases, offset)
    threshold, share = balanced_threshold(score, terms)
    score = replace(score, threshold=threshold)
    calibration = replace(bundle.calibration, search=score)
    run_on_main(lambda: set_calibration(folder_or_run, calibration))
    named = ", ".join(f"{weight:.3f}" for weight in weights)
    log_on_main(
        f"search: {len(judged.texts)} texts, {len(judged.images)} images; weights of vectors, matching and "
        f"phrases {named}, offset {offset:.2f}; a hit has probability {threshold:.2f} or more, which keeps "
        f"{share:.1%} of what fits, and finds nothing for as many texts that fit nothing"
    )
    return replace(bundle, calibration=calibration)


@dataclass(frozen=True)
class SearchTerms:
    """What a search knows of the candidates of texts, without those of which it is uncertain if they fit.

    Attributes:
        terms_N3: (N, 3) terms of `SearchScore`.
        is_true_N: (N,) bool: the text describes the image.
        text_N: (N,) int64 index of the text.
        fits_Q: (Q,) bool: each text describes an image of the collection.
    """

    terms_N3: Tensor
    is_true_N: Tensor
    text_N: Tensor
    fits_Q: Tensor


def balanced_threshold(score: SearchScore, terms: SearchTerms) -> tuple[float, float]:
    """Return the probability at which two shares are most equal, and the smaller of them.

    They are the share of images that fit and are found, and that of texts that fit nothing and find nothing.
    """
    probability_N = score.log_odds(terms.terms_N3).sigmoid()
    best_Q = torch.zeros(len(terms.fits_Q)).scatter_reduce_(0, terms.text_N, probability_N, "amax")
    none_Q, true_N = best_Q[~terms.fits_Q], probability_N[terms.is_true_N]
    if not (len(none_Q) and len(true_N)):
        return THRESHOLD, 0.0
    steps = torch.arange(0.02, 1.0, 0.01)
    nothing = (none_Q[:, None] < steps).float().mean(0)
    found = (true_N[:, None] >= steps).float().mean(0)
    smaller = torch.minimum(nothing, found)
    return round(float(steps[smaller.argmax()]), 2), float(smaller.max())


@torch.no_grad()
def search_terms(predictor: InferenceModel, judged: JudgedTexts) -> SearchTerms:
    """Return what a search knows of each text's candidates.  Raises InputError if no text is known."""
    features, vector_ICE = _encode(predictor, judged.images)
    contrastive = predictor.model.contrastive
    terms, truths, owners = [], [], []
    fits: list[bool] = []
    for one in judged.texts:
        if not predictor.is_known(one.text):
            continue
        encoded = predictor.encode_texts([one.text])
        query_E = contrastive.embed_texts(encoded.cls_ND)[0]
        score_I = (vector_ICE @ query_E).amax(1) / contrastive.temperature
        best = score_I.topk(min(CANDIDATES, len(score_I)))
        terms_B3 = candidate_terms(predictor, one.text, encoded, features.select(best.indices), best.values)
        certain_B = torch.tensor([index not in one.uncertain for index in best.indices.tolist()])
        truth_B = torch.tensor([index in one.described for index in best.indices.tolist()])
        terms.append(terms_B3[certain_B])
        truths.append(truth_B[certain_B])
        owners.append(torch.full((int(certain_B.sum()),), len(fits)))
        fits.append(bool(one.described))
    if not terms:
        raise InputError("no text of the collection has a token that the model knows")
    return SearchTerms(torch.cat(terms), torch.cat(truths), torch.cat(owners), torch.tensor(fits))


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
        yield _texts(scenes[index], boxed=False)[0]


def _texts(record: Record, boxed: bool) -> list[str]:
    """Return the texts of the whole image, or the first text of each region."""
    concepts = [one for one in record.concepts if (one.box_xyxy is not None) == boxed]
    return [text for one in concepts for text in (one.texts[:1] if boxed else one.texts)]


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
