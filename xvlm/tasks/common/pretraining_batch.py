"""The batch of a pre-training step: samples of both data streams, ragged and packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xvlm.batch import Concepts, Images, TensorTree, Texts
from xvlm.common.errors import InputError
from xvlm.data.samples.builders import Sample
from xvlm.data.samples.text_rows import TextRow
from xvlm.losses.contrastive import same_concept_or_text

STREAMS = ("pairs", "regions")


@dataclass(frozen=True)
class DetectionTargets(TensorTree):
    """What is to be found in the images of the regions stream.

    Attributes:
        absent_image_A: (A,) int64 image of each text that describes nothing in it.
        row_X: (X,) int64 row of each target, among the rows that have a box.
        box_xyxy_X4: (X, 4) boxes of the targets as fractions of the image.
    """

    absent_image_A: Tensor
    row_X: Tensor
    box_xyxy_X4: Tensor


@dataclass(frozen=True)
class PretrainBatch(TensorTree):
    """A batch of N text-concept rows: those of the pairs stream, then those of the regions stream.

    Attributes:
        images: images of the pairs stream, then of the regions stream.
        texts: the N texts, then A absent ones, then the masked copies of F of the N.
        concepts: the N concepts.
        concept_key_N: (N,) int64 hashes; rows of the same concept have equal keys.
        text_key_N: (N,) int64 hashes; rows of the same text have equal keys.
        fused_F: (F,) int64 rows that take part in matching and masked language modelling.
        masked_row_M: (M,) int64 index into `fused_F` of each masked token.
        masked_position_M: (M,) int64 position of each masked token in its text.
        masked_target_M: (M,) int64 original token ids of the masked tokens.
        pairs: number of rows of the pairs stream.
        phrases: the Q phrases of the captions; `None` if they have none or no loss needs them.
        phrase_row_Q: (Q,) int64 row of each phrase's caption.
        targets: what is to be found; `None` without the regions stream.
    """

    images: Images
    texts: Texts
    concepts: Concepts
    concept_key_N: Tensor
    text_key_N: Tensor
    fused_F: Tensor
    masked_row_M: Tensor
    masked_position_M: Tensor
    masked_target_M: Tensor
    pairs: int
    phrases: Texts | None = None
    phrase_row_Q: Tensor | None = None
    targets: DetectionTargets | None = None
    counts: StepCounts | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PretrainBatch:
        """Return a copy on `device`, with the counts that would wait for it afterwards."""
        if torch.device(device).type == "cpu":
            return super().to(device, non_blocking)
        boxed_N = self.concepts.boxed_rows()
        batch = replace(self, concepts=replace(self.concepts, boxed_N=boxed_N), counts=self.counted())
        return super(PretrainBatch, batch).to(device, non_blocking)

    def counted(self) -> StepCounts:
        """Return the counts; unless they are known, they are read from the device."""
        return self.counts or StepCounts.of(self)

    @property
    def absent(self) -> int:
        """Number of absent texts."""
        return 0 if self.targets is None else len(self.targets.absent_image_A)


@dataclass(frozen=True)
class StepCounts(TensorTree):
    """The numbers that decide the shapes of a step, so that the step need not ask the device for them.

    Attributes:
        clean_tokens: tokens of the N texts and the absent ones, without masked copies.
        fused_pairs: number of the first `fused_F` that belong to the pairs stream.
        masked_pairs: number of the first `masked_row_M` that belong to the pairs stream.
        negative_Q: (Q,) int64 rows among `fused_F` that have a negative in their own stream.
        negative_pairs: number of the first `negative_Q` that belong to the pairs stream.
        matching_tokens: upper bound of the tokens of the matching loss's positives and negatives, of the
            pairs stream and of the regions stream.
        masked_tokens: tokens of the masked copies.
        boxed_tokens: tokens of the texts whose concept has a box.
        absent_tokens: tokens of the absent texts.
    """

    clean_tokens: int
    fused_pairs: int
    masked_pairs: int
    negative_Q: Tensor
    negative_pairs: int
    matching_tokens: tuple[int, int]
    masked_tokens: int
    boxed_tokens: int
    absent_tokens: int

    @classmethod
    def of(cls, batch: PretrainBatch) -> StepCounts:
        """Count a batch."""
        rows, fused_F = len(batch.concepts), batch.fused_F
        length_N, absent_A, masked_F = batch.texts.lengths_N.split([rows, batch.absent, len(fused_F)])
        fused_pairs = int((fused_F < batch.pairs).sum())
        masked_pairs = int((batch.masked_row_M < fused_pairs).sum())
        negatives, matching = [], []
        streams = (slice(0, batch.pairs), slice(batch.pairs, rows))
        for stream, row_F in zip(streams, fused_F.tensor_split([fused_pairs]), strict=True):
            keys = batch.concept_key_N, batch.text_key_N
            positive_FN = same_concept_or_text(*(key[row_F] for key in keys), *(key[stream] for key in keys))
            row_Q = row_F[~positive_FN.all(1)]
            negatives.append(row_Q)
            matching.append(int(length_N[row_F].sum()))
            if len(row_Q):
                longest = int(length_N[stream].max())  # whichever texts will be sampled
                matching[-1] += int(length_N[row_Q].sum()) + longest * len(row_Q)
        return cls(
            clean_tokens=int(length_N.sum() + absent_A.sum()),
            fused_pairs=fused_pairs,
            masked_pairs=masked_pairs,
            negative_Q=torch.cat(negatives),
            negative_pairs=len(negatives[0]),
            matching_tokens=(matching[0], matching[1]),
            masked_tokens=int(masked_F.sum()),
            boxed_tokens=int(length_N[batch.concepts.has_box_N].sum()),
            absent_tokens=int(absent_A.sum()),
        )


@dataclass(frozen=True)
class PretrainCollate:
    """Collates samples of the data streams "pairs" and "regions", either of which may be missing.

    Attributes:
        fused_per_image: rows of each image that take part in matching and masked language modelling, which
            cost four passes of the cross-modal encoder; 0 uses all (published).  They are the first ones,
            and the sample builder orders its rows at random.
        region_texts: number of rows of the regions stream; 0 keeps them all.
    """

    fused_per_image: int = 0
    region_texts: int = 0

    def __call__(self, streams: Mapping[str, Sequence[Sample]]) -> PretrainBatch:
        """Return the batch.  Raises InputError if there is no sample at all."""
        if self.region_texts and "regions" in streams:
            streams = {**streams, "regions": with_row_count(streams["regions"], self.region_texts)}
        return collate(streams, self.fused_per_image)


def with_row_count(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Drop or repeat rows at random so that the samples have `count` rows in all.

    The published batches have a fixed size.  The random choice is seeded by the rows themselves.
    """
    rows = [(image, row) for image, sample in enumerate(samples) for row in sample.rows]
    rng = np.random.default_rng([row.text_key % 2**32 for _, row in rows])
    order = [int(index) for index in rng.permutation(len(rows))]
    selected = order[:count] + [order[index % len(order)] for index in range(count - len(order))]
    rows_of_image: list[list[TextRow]] = [[] for _ in samples]
    for index in sorted(selected):
        image, row = rows[index]
        rows_of_image[image].append(row)
    return [replace(sample, rows=tuple(own)) for sample, own in zip(samples, rows_of_image, strict=True)]


def collate(streams: Mapping[str, Sequence[Sample]], fused_per_image: int = 0) -> PretrainBatch:
    """Collate samples; see `PretrainCollate`."""
    samples = [sample for stream in STREAMS for sample in streams.get(stream, ())]
    if not samples:
        raise InputError("a batch needs at least one image; both data streams are empty")
    rows = [row for sample in samples for row in sample.rows]
    limit = fused_per_image or max(len(sample.rows) for sample in samples)
    is_fused = [index < limit for sample in samples for index in range(len(sample.rows))]
    fused = [row for row, used in enumerate(is_fused) if used]
    image_of_row = [image for image, sample in enumerate(samples) for _ in sample.rows]
    pixels = torch.stack([sample.pixels for sample in samples])
    phrases = [(row, ids) for row, one in enumerate(rows) for ids in one.phrases]
    absent = [(image, ids) for image, sample in enumerate(samples) for ids in sample.absent]
    boxed = [row for row in rows if row.box_xyxy is not None]
    targets = [(row, box) for row, one in enumerate(boxed) for box in one.targets_xyxy]
    whole_image = (0.0, 0.0, 1.0, 1.0)
    return PretrainBatch(
        images=Images(pixels, stem_applied=pixels.is_floating_point()),
        texts=Texts.pack(
            [row.ids for row in rows] + [ids for _, ids in absent] + [rows[i].masked_ids for i in fused]
        ),
        concepts=Concepts(
            torch.tensor(image_of_row),
            torch.tensor([row.box_xyxy or whole_image for row in rows], dtype=torch.float32),
            torch.tensor([row.box_xyxy is not None for row in rows]),
        ),
        concept_key_N=torch.tensor([row.concept_key for row in rows]),
        text_key_N=torch.tensor([row.text_key for row in rows]),
        fused_F=torch.tensor(fused),
        masked_row_M=_int64([f for f, i in enumerate(fused) for _ in rows[i].positions]),
        masked_position_M=_int64([position for i in fused for position in rows[i].positions]),
        masked_target_M=_int64([target for i in fused for target in rows[i].targets]),
        pairs=sum(len(sample.rows) for sample in streams.get("pairs", ())),
        phrases=Texts.pack([ids for _, ids in phrases]) if phrases else None,
        phrase_row_Q=_int64([row for row, _ in phrases]) if phrases else None,
        targets=DetectionTargets(
            absent_image_A=_int64([image for image, _ in absent]),
            row_X=_int64([row for row, _ in targets]),
            box_xyxy_X4=torch.tensor([box for _, box in targets], dtype=torch.float32).view(-1, 4),
        )
        if streams.get("regions")
        else None,
    )


def _int64(numbers: Sequence[int]) -> Tensor:
    """Return a tensor (M,) that is int64 even if it is empty."""
    return torch.tensor(numbers, dtype=torch.int64)


def part_of_stream(batch: PretrainBatch, stream: slice, pairs: int) -> slice:
    """Return which of some items belong to a stream, if the first `pairs` of them belong to the pairs."""
    return slice(0, pairs) if stream.stop <= batch.pairs else slice(pairs, None)


def is_slow_to_ask(x: Tensor) -> bool:
    """Return whether reading a number from the device of (...) `x` waits for work that is queued there."""
    return not x.is_cpu


def first_texts(texts: Texts, count: int, tokens: int | None = None) -> Texts:
    """Return the first `count` texts; unless their `tokens` are known, the number is read from the device."""
    lengths = texts.lengths_N[:count]
    return Texts(texts.ids_T[: int(lengths.sum()) if tokens is None else tokens], lengths, texts.longest)
