"""Packed texts: the tokens of many texts in one (T, D) tensor, without padding.

Linear layers, norms and MLPs work on packed tokens.  Only attention has to know which tokens belong together:
it pads segments of similar length together, in buckets.  A segment is one text in self-attention, and all
text tokens that attend to one image in cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKET_SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Largest length of the segments in each bucket; longer segments share one more bucket."""


@dataclass(frozen=True)
class Packing:
    """Which of T packed tokens belong to which of S segments, and how attention pads the segments.

    Attributes:
        lengths_S: (S,) int64 number of tokens of each segment; 0 is allowed.
        longest: largest length, or an upper bound of it.
        segment_T: (T,) int64 segment of each token.
        position_T: (T,) int64 position of each token within its segment, from 0.
        masks: (s, l) bool for each bucket of s segments that are padded to l tokens: False at padding.
        token_of_padded: int64 token at each position of all padded buckets, flat; any token at padding.
        padded_index_T: (T,) int64 index of each token among these positions.
        bucket_order_S: segments in the order of the buckets, without empty segments; `None` if they are in
            order already.
    """

    lengths_S: Tensor
    longest: int
    segment_T: Tensor
    position_T: Tensor
    masks: tuple[Tensor, ...]
    token_of_padded: Tensor
    padded_index_T: Tensor
    bucket_order_S: Tensor | None = None

    @classmethod
    def from_lengths(cls, lengths_S: Tensor, total: int, longest: int) -> Packing:
        """Pack segments of (S,) lengths, `total` tokens in all, none longer than `longest`.

        The two numbers are arguments because reading them from a GPU would wait for it; for the same reason
        a GPU has a single bucket.
        """
        device = lengths_S.device
        segment_T = torch.repeat_interleave(
            torch.arange(lengths_S.shape[0], device=device), lengths_S, output_size=total
        )
        position_T = torch.arange(total, device=device) - segment_starts(lengths_S)[segment_T]
        if lengths_S.is_cpu and total:
            buckets = _length_buckets(lengths_S, total)
        else:
            buckets = _single_bucket(lengths_S, segment_T, position_T, longest)
        return cls(lengths_S, longest, segment_T, position_T, *buckets)

    @property
    def start_S(self) -> Tensor:
        """(S,) index of each segment's first token, its `[CLS]`, among the packed tokens."""
        return segment_starts(self.lengths_S)

    def tokens_by_bucket(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        """Pad (T, ...) packed tokens to (s, l, ...) for each bucket; padding repeats some of the tokens."""
        sizes = [mask_sl.numel() for mask_sl in self.masks]
        parts = x_TD.index_select(0, self.token_of_padded).split(sizes)
        return tuple(
            part.unflatten(0, mask_sl.shape) for part, mask_sl in zip(parts, self.masks, strict=True)
        )

    def segments_by_bucket(self, x_S: Tensor, dim: int) -> tuple[Tensor, ...]:
        """Divide (..., S, ...), with segments along `dim`, into (..., s, ...) for each bucket."""
        if self.bucket_order_S is not None:
            x_S = x_S.index_select(dim, self.bucket_order_S)
        return x_S.split([mask_sl.shape[0] for mask_sl in self.masks], dim)

    def from_buckets(self, x_slD: Iterable[Tensor]) -> Tensor:
        """Pack the (s, l, ...) tokens of all buckets into (T, ...); padding is dropped."""
        return torch.cat([part_slD.flatten(0, 1) for part_slD in x_slD]).index_select(0, self.padded_index_T)


def segment_starts(lengths_S: Tensor) -> Tensor:
    """Return the (S,) index at which each segment of (S,) lengths begins."""
    return lengths_S.cumsum(0) - lengths_S


def padded_indices(start_S: Tensor, longest: int, total: int) -> Tensor:
    """Return the (S, longest) tokens from each start (S,) on; those behind a segment's end are arbitrary."""
    return (start_S[:, None] + torch.arange(longest, device=start_S.device)).clamp(max=total - 1)


def _single_bucket(
    lengths_S: Tensor, segment_T: Tensor, position_T: Tensor, longest: int
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """Return the last four fields of a `Packing` in which all segments are one bucket."""
    total = len(segment_T)
    width = longest if total else 0  # without tokens, padding has none to repeat
    mask_SL = torch.arange(width, device=lengths_S.device) < lengths_S[:, None]
    token_SL = padded_indices(segment_starts(lengths_S), width, total)
    return (mask_SL,), token_SL.flatten(), segment_T * width + position_T, None


def _length_buckets(
    lengths_S: Tensor, total: int
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """Return the last four fields of a `Packing` with a bucket for each used one of `BUCKET_SIZES`."""
    start_S = segment_starts(lengths_S)
    bucket_S = torch.bucketize(lengths_S, torch.tensor(BUCKET_SIZES)).masked_fill_(lengths_S == 0, -1)
    masks, tokens, segments = [], [], []
    for bucket in bucket_S[lengths_S > 0].unique().tolist():
        segment_s = (bucket_S == bucket).nonzero()[:, 0]
        length_s = lengths_S[segment_s]
        longest = int(length_s.max())
        masks.append(torch.arange(longest) < length_s[:, None])
        tokens.append(padded_indices(start_S[segment_s], longest, total).flatten())
        segments.append(segment_s)
    token_of_padded = torch.cat(tokens)
    index_T = torch.cat([mask_sl.flatten() for mask_sl in masks]).nonzero()[:, 0]
    padded_index_T = torch.empty_like(index_T).index_copy_(0, token_of_padded[index_T], index_T)
    return tuple(masks), token_of_padded, padded_index_T, torch.cat(segments)


def select_segments(lengths_S: Tensor, selected_R: Tensor) -> tuple[Tensor, Tensor, int]:
    """Select segments for a new packing, repeats allowed.

    Args:
        lengths_S: (S,) lengths of the present segments.
        selected_R: (R,) int64 indices of segments.
    Returns:
        (T,) indices of the new packing's tokens among the present ones, (R,) lengths of its segments, and T.
        Reading T waits for the device: once in a training step, after the negatives are sampled.
    """
    lengths_R = lengths_S[selected_R]
    total = int(lengths_R.sum())
    start_R = segment_starts(lengths_S)[selected_R]
    shift_T = torch.repeat_interleave(start_R - segment_starts(lengths_R), lengths_R, output_size=total)
    return torch.arange(total, device=lengths_S.device) + shift_T, lengths_R, total
