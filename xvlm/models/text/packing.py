"""Packed texts: the tokens of many texts in one (T, D) tensor, without padding.

Linear layers, norms and MLPs work on packed tokens.  Only attention has to know which tokens belong together:
it pads segments of similar length together, in buckets.  A segment is one text in self-attention, and all
text tokens that attend to one image in cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xvlm.batch import Texts

BUCKET_SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Largest length of the segments in each bucket; longer segments share one more bucket."""


@dataclass(frozen=True)
class Padding:
    """Segments of packed tokens, padded together in buckets of similar length.

    Attributes:
        masks: (s, l) bool for each bucket of s segments that are padded to l tokens: False at padding.
        token_of_padded: int64 token at each position of all padded buckets, flat; any token at padding.
        padded_index_T: (T,) int64 index of each token among these positions.
        bucket_order_S: segments in the order of the buckets, without empty segments; `None` if they are in
            order already.
    """

    masks: tuple[Tensor, ...]
    token_of_padded: Tensor
    padded_index_T: Tensor
    bucket_order_S: Tensor | None = None

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


@dataclass(frozen=True)
class Packing:
    """Which of T packed tokens belong to which of S segments.

    Attributes:
        lengths_S: (S,) int64 number of tokens of each segment; 0 is allowed.
        start_S: (S,) int64 index of each segment's first token among the packed tokens.
        total: T; tokens behind the last segment's are filler, whose states nobody reads.
        longest: largest length, or an upper bound of it; `None` if only the device knows the lengths.
    """

    lengths_S: Tensor
    start_S: Tensor
    total: int
    longest: int | None

    @classmethod
    def from_lengths(cls, lengths_S: Tensor, total: int, longest: int | None) -> Packing:
        """Pack segments of (S,) lengths, `total` tokens in all, none longer than `longest`.

        The two numbers are arguments because reading them from a GPU would wait for it.
        """
        return cls(lengths_S, segment_starts(lengths_S), total, longest)

    @classmethod
    def from_texts(cls, texts: Texts) -> Packing:
        """Return the packing of texts: a segment is a text."""
        return cls.from_lengths(texts.lengths_N, texts.ids_T.shape[0], texts.longest)

    @cached_property
    def segment_T(self) -> Tensor:
        """(T,) int64 segment of each token; filler belongs to the last one."""
        end_S, device = self.start_S + self.lengths_S, self.lengths_S.device
        segment_T = torch.searchsorted(end_S, torch.arange(self.total, device=device), right=True)
        return segment_T.clamp_(max=self.lengths_S.shape[0] - 1)

    @cached_property
    def position_T(self) -> Tensor:
        """(T,) int64 position of each token within its segment, from 0."""
        token_T = torch.arange(self.total, device=self.lengths_S.device)
        return token_T - self.start_S.index_select(0, self.segment_T)

    @cached_property
    def padding(self) -> Padding:
        """How attention pads the segments; a GPU has a single bucket, since it need not wait for the host."""
        if self.lengths_S.is_cpu and self.total:
            return _length_buckets(self.lengths_S, self.total)
        longest = self.longest
        if longest is None:
            longest = int(self.lengths_S.max()) if len(self.lengths_S) else 0
        return _single_bucket(self, longest)


def segment_starts(lengths_S: Tensor) -> Tensor:
    """Return the (S,) index at which each segment of (S,) lengths begins."""
    return lengths_S.cumsum(0) - lengths_S


def padded_indices(start_S: Tensor, longest: int, total: int) -> Tensor:
    """Return the (S, longest) tokens from each start (S,) on; those behind a segment's end are arbitrary."""
    return (start_S[:, None] + torch.arange(longest, device=start_S.device)).clamp(max=total - 1)


def _single_bucket(packing: Packing, longest: int) -> Padding:
    """Pad all segments together, to `longest` tokens each."""
    lengths_S, total = packing.lengths_S, packing.total
    width = longest if total else 0  # without tokens, padding has none to repeat
    mask_SL = torch.arange(width, device=lengths_S.device) < lengths_S[:, None]
    token_SL = padded_indices(packing.start_S, width, total)
    # Filler lies behind the last segment's end: any position will do.
    index_T = (packing.segment_T * width + packing.position_T).clamp_(max=max(0, mask_SL.numel() - 1))
    return Padding((mask_SL,), token_SL.flatten(), index_T)


def _length_buckets(lengths_S: Tensor, total: int) -> Padding:
    """Pad the segments in a bucket for each used one of `BUCKET_SIZES`."""
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
    padded_index_T = index_T.new_zeros(total).index_copy_(0, token_of_padded[index_T], index_T)
    return Padding(tuple(masks), token_of_padded, padded_index_T, torch.cat(segments))


def select_segments(packing: Packing, selected_R: Tensor, total: int | None = None) -> tuple[Tensor, Packing]:
    """Select segments for a new packing, repeats allowed.

    Args:
        selected_R: (R,) int64 indices of segments.
        total: tokens of the new packing, or an upper bound, whose excess becomes filler.  Without it, the
            number is read from the device.
    Returns:
        (T,) indices of the new packing's tokens among the present ones, and the new packing.
    """
    lengths_R = packing.lengths_S.index_select(0, selected_R)
    selected = Packing.from_lengths(
        lengths_R, int(lengths_R.sum()) if total is None else total, packing.longest
    )
    shift_R = packing.start_S.index_select(0, selected_R) - selected.start_S
    token_T = torch.arange(selected.total, device=lengths_R.device)
    token_T = token_T + shift_R.index_select(0, selected.segment_T)
    return token_T.clamp_(max=packing.total - 1), selected
