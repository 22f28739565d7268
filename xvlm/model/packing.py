"""Packed tokens: many texts in one (T, D) tensor, without padding, and the two ways out of it.

Linear layers, norms and MLPs work on packed tokens and never see padding (design, section 6).  Only attention
needs to know which tokens belong together: it pads inside, over whatever segments it is given, those of
similar length together.  The same packed tokens may be seen as texts (self-attention) or as all texts of
one image (cross-attention).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Segments are padded together up to the next of these lengths, where a look at lengths is free."""


@dataclass(frozen=True)
class Packing:
    """Which of T packed tokens belong to which of S segments.

    Attributes:
        lengths_S: (S,) int64 tokens of each segment; 0 is allowed.
        longest: the largest of them, or a bound on it.
        segment_T: (T,) int64 segment of each token.
        place_T: (T,) int64 place of each token within its segment, from 0.
        masks: for each bin, segments that are padded together, (s, l) bool: True where a token stands.
        token_P: (P,) int64 which token stands in each place of all bins; where none does, any.
        slot_T: (T,) int64 in which of these places each token stands.
        by_bin_S: (S,) segments, less empty ones, in the bins' order; `None`: as they are.
    """

    lengths_S: Tensor
    longest: int
    segment_T: Tensor
    place_T: Tensor
    masks: tuple[Tensor, ...]
    token_P: Tensor
    slot_T: Tensor
    by_bin_S: Tensor | None = None

    @classmethod
    def of(cls, lengths_S: Tensor, total: int, longest: int) -> Packing:
        """Segments of the given (S,) lengths, `total` tokens in all, none longer than `longest`.

        The two numbers are plain so that no GPU has to be waited for; there, one bin holds everything.
        """
        device = lengths_S.device
        segment_T = torch.repeat_interleave(
            torch.arange(lengths_S.shape[0], device=device), lengths_S, output_size=total
        )
        place_T = torch.arange(total, device=device) - first_tokens(lengths_S)[segment_T]
        if lengths_S.is_cpu and total:
            bins = _by_length(lengths_S, total)
        else:
            bins = _all_in_one(lengths_S, segment_T, place_T, longest)
        return cls(lengths_S, longest, segment_T, place_T, *bins)

    @property
    def first_S(self) -> Tensor:
        """(S,) index of each segment's first token, its `[CLS]`, among the packed tokens."""
        return first_tokens(self.lengths_S)

    def tokens_by_bin(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        """(T, ...) packed -> for each bin its (s, l, ...), padded with some of the tokens."""
        parts = x_TD.index_select(0, self.token_P).split([mask_sl.numel() for mask_sl in self.masks])
        return tuple(
            part.unflatten(0, mask_sl.shape) for part, mask_sl in zip(parts, self.masks, strict=True)
        )

    def segments_by_bin(self, x_S: Tensor, dim: int) -> tuple[Tensor, ...]:
        """(..., S, ...), segments along `dim` -> for each bin (..., s, ...)."""
        if self.by_bin_S is not None:
            x_S = x_S.index_select(dim, self.by_bin_S)
        return x_S.split([mask_sl.shape[0] for mask_sl in self.masks], dim)

    def from_bins(self, x_slD: Iterable[Tensor]) -> Tensor:
        """For each bin (s, l, ...) -> (T, ...) packed."""
        return torch.cat([part_slD.flatten(0, 1) for part_slD in x_slD]).index_select(0, self.slot_T)


def first_tokens(lengths_S: Tensor) -> Tensor:
    """(S,) lengths of segments -> (S,) where each of them begins."""
    return lengths_S.cumsum(0) - lengths_S


def padded_places(first_S: Tensor, longest: int, total: int) -> Tensor:
    """(S,) where segments begin -> (S, longest) which of `total` tokens stands where; behind an end, any."""
    return (first_S[:, None] + torch.arange(longest, device=first_S.device)).clamp(max=total - 1)


def _all_in_one(
    lengths_S: Tensor, segment_T: Tensor, place_T: Tensor, longest: int
) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """One bin for all segments: `masks`, `token_P`, `slot_T` and `by_bin_S` of a `Packing`."""
    total = len(segment_T)
    width = longest if total else 0  # of no tokens, none can stand in a place
    mask_SL = torch.arange(width, device=lengths_S.device) < lengths_S[:, None]
    token_SL = padded_places(first_tokens(lengths_S), width, total)
    return (mask_SL,), token_SL.flatten(), segment_T * width + place_T, None


def _by_length(lengths_S: Tensor, total: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor | None]:
    """The same of a bin for each of `STEPS`, padded to its longest segment; empty ones are left out."""
    first_S = first_tokens(lengths_S)
    step_S = torch.bucketize(lengths_S, torch.tensor(STEPS)).masked_fill_(lengths_S == 0, -1)
    masks, tokens, segments = [], [], []
    for step in step_S[lengths_S > 0].unique().tolist():
        segment_s = (step_S == step).nonzero()[:, 0]
        length_s = lengths_S[segment_s]
        longest = int(length_s.max())
        masks.append(torch.arange(longest) < length_s[:, None])
        tokens.append(padded_places(first_S[segment_s], longest, total).flatten())
        segments.append(segment_s)
    token_P = torch.cat(tokens)
    taken_T = torch.cat([mask_sl.flatten() for mask_sl in masks]).nonzero()[:, 0]
    slot_T = torch.empty_like(taken_T).index_copy_(0, token_P[taken_T], taken_T)
    return tuple(masks), token_P, slot_T, torch.cat(segments)


def gather_segments(lengths_S: Tensor, chosen_R: Tensor) -> tuple[Tensor, Tensor, int]:
    """Which packed tokens make up a new packing of chosen segments, repeats allowed.

    Args:
        lengths_S: (S,) lengths of the present segments.
        chosen_R: (R,) int64 indices of segments.
    Returns:
        (token_T: (T',) indices into the present tokens, lengths_R: (R,), total T').
        Reading the total waits for the device: once a step, after the negatives are drawn.
    """
    lengths_R = lengths_S[chosen_R]
    total = int(lengths_R.sum())
    start_R = first_tokens(lengths_S)[chosen_R]
    shift_T = torch.repeat_interleave(start_R - first_tokens(lengths_R), lengths_R, output_size=total)
    return torch.arange(total, device=lengths_S.device) + shift_T, lengths_R, total
