"""Which phrases of a caption, compared with which parts of an image, tell what the whole image does not.

No weight is trained: captions are divided in several ways, every phrase is compared with the parts of an
image by the model's contrastive vectors, and the sum over a caption's phrases of the log-likelihood ratio of
the best part (`evaluation/common/phrase_scores.py`) is added to the contrastive score.  The table has R@1 of
every division at its best factor on these images, and the interval over images of what it gains, which the
choice of one factor in four makes a little too good.  For example:

    python benchmarks/phrase_study.py --model runs/photos/align/model --root photos
        --train runs/photos/split1000/train.jsonl --held-out runs/photos/split1000/choose.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from frozen_encoders import captions_of, embed_texts, read_photos
from torch import Tensor

from xvlm.batch import Concepts
from xvlm.data.sources.json import JsonSource
from xvlm.data.text.cleaning import clean_caption
from xvlm.data.text.phrases import DETERMINERS, PHRASE_STARTS, split_phrases
from xvlm.inference.model import InferenceModel
from xvlm.losses.contrastive import similarity
from xvlm.losses.phrases import best_patch_similarity
from xvlm.metrics.bootstrap import bootstrap_interval
from xvlm.metrics.recall import rank_of_first_true, recall_at
from xvlm.models.vision.encoder import ImageFeatures

PHRASES_AT_ONCE = 2048
FACTORS = (0.1, 0.2, 0.3, 0.4)
LONGEST_KNOWN = 6
"""Words of the longest training phrase that is looked for."""


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        model: model with contrastive vectors.
        train: JSON lines of the training images, whose phrases are known.
        held_out: JSON lines of the images that are evaluated on.
        root: folder of the images.
    """

    model: Path
    train: Path
    held_out: Path
    root: Path


def windows() -> Tensor:
    """Return (W, 4) boxes (x0, y0, x1, y1): grids of 1 to 4 a side, halves, and the middle."""
    boxes = [
        (column / side, row / side, (column + 1) / side, (row + 1) / side)
        for side in (1, 2, 3, 4)
        for row in range(side)
        for column in range(side)
    ]
    for start in (0.0, 0.5):
        boxes += [(0.0, start, 1.0, start + 0.5), (start, 0.0, start + 0.5, 1.0)]
    return torch.tensor([*boxes, (0.25, 0.25, 0.75, 0.75)])


@dataclass(frozen=True)
class Photos:
    """Photographs and captions in the contrastive space.

    Attributes:
        whole_IE: (I, E) embeddings of the whole images.
        parts: (I, W, E) embeddings of parts of the images, by the name of their kind.
        texts: the N captions.
        regions_I: the cleaned texts of each image's regions.
        image_N: (N,) int64 image of each caption.
    """

    whole_IE: Tensor
    parts: dict[str, Tensor]
    texts: list[str]
    regions_I: list[set[str]]
    image_N: Tensor


@torch.no_grad()
def encode_photos(model: InferenceModel, source: JsonSource) -> Photos:
    """Encode all images, with their patches and windows."""
    head, box_W4 = model.model.contrastive, windows()
    whole, patches, seen = [], [], []
    for _, files in read_photos(source, len(source)):
        features = model.encode_images([model.pixels(file) for file in files])
        concepts, cls_BD = model.model.encode_whole(features)
        whole.append(head.embed_concepts(cls_BD))
        patches.append(head.embed_concepts(concepts.patches_SPD))
        seen.append(head.embed_concepts(encode_windows(model, features, box_W4)))
    whole_IE = torch.cat(whole)
    parts = {"patches": torch.cat(patches), "windows": torch.cat(seen), "the whole image": whole_IE[:, None]}
    regions_I = [region_texts(source, i) for i in range(len(source))]
    texts, image_N = captions_of(source, len(source))
    return Photos(whole_IE, parts, texts, regions_I, image_N)


def encode_windows(model: InferenceModel, features: ImageFeatures, box_W4: Tensor) -> Tensor:
    """Return v_cls (B, W, D) of W windows of B images."""
    count, size = len(features), len(box_W4)
    image_N = torch.arange(count).repeat_interleave(size)
    concepts = Concepts(image_N, box_W4.repeat(count, 1), torch.ones(count * size, dtype=torch.bool))
    _, cls_CD = model.model.encode_concepts(features, concepts)
    return cls_CD[: count * size].view(count, size, -1)


def region_texts(source: JsonSource, index: int) -> set[str]:
    """Return the cleaned texts of the regions of an image."""
    regions = [concept for concept in source[index].concepts if concept.box_xyxy is not None]
    return {clean_caption(text) for concept in regions for text in concept.texts}


def annotated(text: str, regions: set[str]) -> list[str]:
    """Return the annotated phrases of an image that occur in a caption."""
    return [phrase for phrase in sorted(regions) if f" {phrase} " in f" {clean_caption(text)} "]


def known(text: str, phrases: set[str]) -> list[str]:
    """Return the longest training phrases in a caption, from the left, without overlap."""
    words, found, start = clean_caption(text).split(), [], 0
    while start < len(words):
        for end in range(min(len(words), start + LONGEST_KNOWN), start, -1):
            if (phrase := " ".join(words[start:end])) in phrases:
                found.append(phrase)
                break
        else:
            end = start + 1
        start = end
    return found


def before_determiners(text: str) -> list[str]:
    """Split a caption before each determiner and before each word that begins a phrase."""
    words = clean_caption(text).split()
    starts = DETERMINERS | PHRASE_STARTS
    parts = re.split(" ?/", " ".join(f"/{word}" if word in starts else word for word in words))
    return [part for part in parts if part and not set(part.split()) <= starts]


def runs_of_words(count: int) -> Callable[[str], list[str]]:
    """Return the division of a caption into all runs of `count` words."""

    def split(text: str) -> list[str]:
        words = clean_caption(text).split()
        return [" ".join(words[i : i + count]) for i in range(max(1, len(words) - count + 1))]

    return split


@torch.no_grad()
def phrase_scores(model: InferenceModel, part_IWE: Tensor, phrases_N: Sequence[Sequence[str]]) -> Tensor:
    """Return the (I, N) scores of captions by their phrases."""
    phrases = sorted({phrase for own in phrases_N for phrase in own})
    index = {phrase: u for u, phrase in enumerate(phrases)}
    head = model.model.contrastive
    ratios = []
    for start in range(0, len(phrases), PHRASES_AT_ONCE):
        some = phrases[start : start + PHRASES_AT_ONCE]
        embedding_UE = embed_texts(model, some)
        best = [best_patch_similarity(part, embedding_UE, head.temperature) for part in part_IWE.split(64)]
        ratios.append(torch.cat(best).log_softmax(0) + torch.tensor(float(len(part_IWE))).log())
    ratio_IU = torch.cat(ratios, 1)
    caption_Z = torch.tensor([n for n, own in enumerate(phrases_N) for _ in own])
    phrase_Z = torch.tensor([index[phrase] for own in phrases_N for phrase in own])
    score_IN = ratio_IU.new_zeros(len(part_IWE), len(phrases_N))
    return score_IN.index_add_(1, caption_Z, ratio_IU[:, phrase_Z])


def right_at_1(score_IN: Tensor, image_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return (I,) 1 where the first caption of an image is right, and (N,) the same of the captions."""
    own_IN = image_N == torch.arange(len(score_IN))[:, None]
    of_images, of_captions = (
        recall_at(rank_of_first_true(*table), 1) for table in ((score_IN, own_IN), (score_IN.T, own_IN.T))
    )
    return of_images, of_captions


def table_row(name: str, gains: Sequence[tuple[Tensor, Tensor, list[int]]], factor: float | None) -> str:
    """Return a row of the table.

    Args:
        gains: for each direction, whether each query is right, the same before, and its image.
    """
    cells = []
    for right_Q, before_Q, image_Q in gains:
        low, high = bootstrap_interval((right_Q - before_Q).tolist(), image_Q)
        gained = "" if factor is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
        cells.append(f"{100 * right_Q.mean():.1f} %{gained}")
    return f"| {name} | {' | '.join(cells)} | {'' if factor is None else factor} |"


def main(study: Study) -> None:
    """Print the table."""
    model = InferenceModel.load(study.model)
    with torch.autocast("cpu", torch.bfloat16):
        photos = encode_photos(model, JsonSource(study.held_out, str(study.root)))
        temperature = model.model.contrastive.temperature
        whole_IN = similarity(photos.whole_IE, embed_texts(model, photos.texts), temperature).detach()
        train = JsonSource(study.train, str(study.root))
        training = set().union(*(region_texts(train, i) for i in range(len(train))))
        regions_N = [photos.regions_I[image] for image in photos.image_N.tolist()]
        chosen = [split_phrases(text) for text in photos.texts]
        pairs = list(zip(photos.texts, regions_N, strict=True))
        divisions = {
            "as annotated": ([annotated(text, regions) for text, regions in pairs], "patches"),
            "longest phrases of training": ([known(text, training) for text in photos.texts], "patches"),
            "before determiners too": ([before_determiners(text) for text in photos.texts], "patches"),
            "runs of three words": ([runs_of_words(3)(text) for text in photos.texts], "patches"),
            "single words": ([runs_of_words(1)(text) for text in photos.texts], "patches"),
            **{f"`split_phrases`, {kind}": (chosen, kind) for kind in photos.parts},
        }
        before = right_at_1(whole_IN, photos.image_N)
        images = list(range(len(whole_IN))), photos.image_N.tolist()
        print(
            "| phrases | image to text, R@1 (gain) | text to image, R@1 (gain) | factor |\n|---|---|---|---|"
        )
        print(table_row("none", list(zip(before, before, images, strict=True)), None))
        for name, (phrases_N, kind) in divisions.items():
            score_IN = phrase_scores(model, photos.parts[kind], phrases_N)
            found = {factor: right_at_1(whole_IN + factor * score_IN, photos.image_N) for factor in FACTORS}
            factor = max(found, key=lambda one: sum(float(right.mean()) for right in found[one]))
            print(table_row(name, list(zip(found[factor], before, images, strict=True)), factor), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
