"""Photographs and captions after frozen encoders, for the studies, and matching over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xvlm.common.progress import progress_bar
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.transforms import PairTransform
from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.common.candidates import CandidateScores
from xvlm.evaluation.common.queries import chunks
from xvlm.inference.model import InferenceModel
from xvlm.losses.contrastive import similarity
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.records import Record

IMAGES_AT_ONCE, TEXTS_AT_ONCE, PAIRS_AT_ONCE = 32, 256, 512


def read_photos(source: JsonSource, count: int) -> Iterator[tuple[list[Record], list[ImageFile]]]:
    """Yield the first `count` records and their images, some at a time, and show the progress."""
    records = (source[i] for i in range(count))
    for some in chunks(progress_bar(records, "encoding images", count), IMAGES_AT_ONCE):
        yield some, [open_image(record.image, key=record.key) for record in some]


def captions_of(source: JsonSource, count: int) -> tuple[list[str], Tensor]:
    """Return the N captions of the first `count` images, and the (N,) int64 image of each."""
    texts_I = [
        [text for one in source[i].concepts if one.box_xyxy is None for text in one.texts]
        for i in range(count)
    ]
    image_N = [i for i, own in enumerate(texts_I) for _ in own]
    return [text for own in texts_I for text in own], torch.tensor(image_N)


@torch.no_grad()
def embed_texts(model: InferenceModel, texts: Sequence[str]) -> Tensor:
    """Return the (N, E) contrastive embeddings of N texts."""
    states = [model.encode_texts(some).cls_ND for some in chunks(texts, TEXTS_AT_ONCE)]
    return model.model.contrastive.embed_texts(torch.cat(states))


@dataclass(frozen=True)
class EncodedPhotos:
    """Photographs and their captions after the frozen encoders.

    Attributes:
        patch_IVPD: (I, V, P, D) bfloat16 patches of V crops of each image, for matching.
        grid_hw: (rows, columns) of the patch grid.
        embedding_IE: (I, E) contrastive embeddings of the whole images.
        texts: the N captions.
        image_N: (N,) int64 image of each caption.
        embedding_NE: (N, E) contrastive embeddings of the captions.
    """

    patch_IVPD: Tensor
    grid_hw: tuple[int, int]
    embedding_IE: Tensor
    texts: list[str]
    image_N: Tensor
    embedding_NE: Tensor


@torch.no_grad()
def encode_photos(
    scored: InferenceModel, read: InferenceModel, source: JsonSource, images: int, crops: int
) -> EncodedPhotos:
    """Encode the first images and their captions.

    Args:
        scored: model of the contrastive scores.
        read: model of the patches.
        images: number of images; 0 for all.
        crops: number of random crops of each image; 0 for the whole image.
    """
    count = min(images or len(source), len(source))
    crop = PairTransform(read.model.config.vision.image_hw, (0.5, 1.0), random_flip=False, rand_augment=None)
    rng = np.random.default_rng(0)
    patches, embeddings = [], []
    for _, files in read_photos(source, count):
        _, cls_BD = scored.model.encode_whole(scored.encode_images([scored.pixels(file) for file in files]))
        embeddings.append(scored.model.contrastive.embed_concepts(cls_BD))
        views = [[crop(file, (), rng)[0] for file in files] for _ in range(crops)]
        features = [read.encode_images(view) for view in views or [[read.pixels(file) for file in files]]]
        patches.append(torch.stack([one.tokens_BPD.bfloat16() for one in features], 1))
    texts, image_N = captions_of(source, count)
    return EncodedPhotos(
        torch.cat(patches),
        features[0].grid_hw,
        torch.cat(embeddings),
        texts,
        image_N,
        embed_texts(scored, texts),
    )


def match(
    read: InferenceModel, photos: EncodedPhotos, patch_BPD: Tensor, texts: Sequence[str], pairs: Tensor
) -> Tensor:
    """Return the (R, 2) logits of pairs; `pairs` is (2, R), the index of the text and that of the image."""
    with torch.no_grad():
        concepts, _ = read.model.encode_whole(ImageFeatures(patch_BPD.float(), photos.grid_hw))
        encoded = read.encode_texts(texts)
    return read.model.match(read.model.fuse_cls(encoded, pairs[0], concepts, pairs[1]))


def log_odds(logits_R2: Tensor) -> Tensor:
    """(R, 2) logits -> (R,) log-odds of a match."""
    return logits_R2[:, 1] - logits_R2[:, 0]


@torch.no_grad()
def candidate_scores(
    read: InferenceModel, photos: EncodedPhotos, temperature: Tensor, k: int
) -> tuple[CandidateScores, CandidateScores]:
    """Return the scores of the k best candidates of each image and of each caption."""
    score_IN = similarity(photos.embedding_IE, photos.embedding_NE, temperature)
    own_IN = photos.image_N == torch.arange(len(score_IN))[:, None]
    read.model.eval()
    tables = []
    for score_QN, own_QN, images_first in ((score_IN, own_IN, True), (score_IN.T, own_IN.T, False)):
        best = score_QN.topk(k, 1)
        query = torch.arange(len(score_QN)).repeat_interleave(k)
        candidate = best.indices.flatten()
        image_R, text_R = (query, candidate) if images_first else (candidate, query)
        odds_R = torch.empty(len(query))
        for rows in image_R.argsort(stable=True).split(PAIRS_AT_ONCE):
            images, image_row = image_R[rows].unique(return_inverse=True)
            texts, text_row = text_R[rows].unique(return_inverse=True)
            some = [photos.texts[text] for text in texts.tolist()]
            pairs = torch.stack((text_row, image_row))
            odds_R[rows] = log_odds(match(read, photos, photos.patch_IVPD[images, 0], some, pairs))
        true_Qk, none_Qk = own_QN.gather(1, best.indices), torch.zeros_like(best.values)
        tables.append(CandidateScores(best.values, odds_R.view(-1, k), none_Qk, true_Qk))
    return tables[0], tables[1]
