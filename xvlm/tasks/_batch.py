"""What a pre-training step holds: samples of both parts -> one ragged batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xvlm.batch import Concepts, Images, Movable, Texts
from xvlm.data.views import Row, Sample
from xvlm.errors import InputError

PARTS = ("pairs", "regions")


@dataclass(frozen=True)
class PretrainBatch(Movable):
    """N rows: those of the pairs part, then those of the regions part.

    Attributes:
        images: of the pairs part, then of the regions part.
        texts: N texts as they are, then F of them with tokens hidden.
        concepts: N, one a row.
        concept_key_N, text_key_N: (N,) int64 hashes; equal keys mean the same thing.
        fused_F: (F,) int64 the rows that take part in matching and masked-language modelling.
        masked_row_M, masked_place_M: (M,) place in `fused_F` and within its text of each hidden token.
        masked_target_M: (M,) the tokens that stood there.
        pairs: rows of the pairs part.
    """

    images: Images
    texts: Texts
    concepts: Concepts
    concept_key_N: Tensor
    text_key_N: Tensor
    fused_F: Tensor
    masked_row_M: Tensor
    masked_place_M: Tensor
    masked_target_M: Tensor
    pairs: int


@dataclass(frozen=True)
class Collate:
    """Samples of the parts "pairs" and "regions" (either may be absent) -> one ragged batch.

    Attributes:
        fused_per_image: how many of an image's rows take part in matching and masked-language modelling,
            which cost four passes of the cross-modal encoder; 0: all (published).  Which these are is up to
            the view, whose order of concepts is random.
        region_rows: rows of the regions part; 0: as many as there are.
    """

    fused_per_image: int = 0
    region_rows: int = 0

    def __call__(self, parts: Mapping[str, Sequence[Sample]]) -> PretrainBatch:
        """Raises InputError if there is no sample at all."""
        if self.region_rows and "regions" in parts:
            parts = {**parts, "regions": with_rows(parts["regions"], self.region_rows)}
        return collate(parts, self.fused_per_image)


def with_rows(samples: Sequence[Sample], count: int) -> list[Sample]:
    """The same images with `count` rows in all: some left out, or some twice (published, where batches have a
    fixed size).  Which ones is up to chance that the rows themselves seed."""
    rows = [(image, row) for image, sample in enumerate(samples) for row in sample.rows]
    rng = np.random.default_rng([row.text_key % 2**32 for _, row in rows])
    order = [int(place) for place in rng.permutation(len(rows))]
    chosen = order[:count] + [order[place % len(order)] for place in range(count - len(order))]
    kept: list[list[Row]] = [[] for _ in samples]
    for place in sorted(chosen):
        image, row = rows[place]
        kept[image].append(row)
    return [replace(sample, rows=tuple(some)) for sample, some in zip(samples, kept, strict=True)]


def collate(parts: Mapping[str, Sequence[Sample]], fused_per_image: int = 0) -> PretrainBatch:
    """See `Collate`."""
    samples = [sample for part in PARTS for sample in parts.get(part, ())]
    if not samples:
        raise InputError("a batch needs at least one image; both parts are empty")
    rows = [row for sample in samples for row in sample.rows]
    most = fused_per_image or max(len(sample.rows) for sample in samples)
    fused = [place < most for sample in samples for place in range(len(sample.rows))]
    fused_rows = [i for i, chosen in enumerate(fused) if chosen]
    image_of_row = [i for i, sample in enumerate(samples) for _ in sample.rows]
    pixels = torch.stack([sample.pixels for sample in samples])
    whole = (0.0, 0.0, 1.0, 1.0)
    return PretrainBatch(
        images=Images(pixels, after_stem=pixels.is_floating_point()),
        texts=Texts.pack([row.ids for row in rows] + [rows[i].masked_ids for i in fused_rows]),
        concepts=Concepts(
            torch.tensor(image_of_row),
            torch.tensor([row.box_xyxy or whole for row in rows], dtype=torch.float32),
            torch.tensor([row.box_xyxy is not None for row in rows]),
        ),
        concept_key_N=torch.tensor([row.concept_key for row in rows]),
        text_key_N=torch.tensor([row.text_key for row in rows]),
        fused_F=torch.tensor(fused_rows),
        masked_row_M=index([f for f, i in enumerate(fused_rows) for _ in rows[i].positions]),
        masked_place_M=index([place for i in fused_rows for place in rows[i].positions]),
        masked_target_M=index([target for i in fused_rows for target in rows[i].targets]),
        pairs=sum(len(sample.rows) for sample in parts.get("pairs", ())),
    )


def index(numbers: Sequence[int]) -> Tensor:
    """(M,) int64, also where there are none."""
    return torch.tensor(numbers, dtype=torch.int64)


def first_texts(texts: Texts, count: int) -> Texts:
    """The first `count` texts; reading their total length waits for the device."""
    lengths = texts.lengths_N[:count]
    return Texts(texts.ids_T[: int(lengths.sum())], lengths, texts.longest)
