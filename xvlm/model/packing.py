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
class Bin:
    """Some segments, padded to the longest of them: s segments of up to l tokens, t tokens in all.

    Attributes:
        slot_t: (t,) where each of them stands among the s * l padded places.
        mask_sl: (s, l) bool, True where a token stands.
    """

    slot_t: Tensor
    mask_sl: Tensor

    def pad(self, x_tD: Tensor) -> Tensor:
        """(t, ...) the bin's tokens -> (s, l, ...), zeros where no token stands."""
        segments, longest = self.mask_sl.shape
        out = x_tD.new_zeros(segments * longest, *x_tD.shape[1:])
        return out.index_copy(0, self.slot_t, x_tD).unflatten(0, (segments, longest))

    def unpad(self, x_slD: Tensor) -> Tensor:
        """(s, l, ...) -> (t, ...)."""
        return x_slD.flatten(0, 1).index_select(0, self.slot_t)


@dataclass(frozen=True)
class Packing:
    """Which of T packed tokens belong to which of S segments.

    Attributes:
        lengths_S: (S,) int64 tokens of each segment; 0 is allowed.
        longest: the largest of them, or a bound on it.
        segment_T: (T,) int64 segment of each token.
        place_T: (T,) int64 place of each token within its segment, from 0.
        bins: all segments that have tokens, in groups that are padded together.
        by_bin_T, by_bin_S: (T,) tokens and (S,) segments, less empty ones, in the bins' order.
    """

    lengths_S: Tensor
    longest: int
    segment_T: Tensor
    place_T: Tensor
    bins: tuple[Bin, ...]
    by_bin_T: Tensor | None = None
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
        place_T = torch.arange(total, device=device) - (lengths_S.cumsum(0) - lengths_S)[segment_T]
        if lengths_S.is_cpu and total:
            return cls(lengths_S, longest, segment_T, place_T, *_bins(lengths_S, segment_T, place_T))
        mask_SL = torch.arange(longest, device=device) < lengths_S[:, None]
        return cls(lengths_S, longest, segment_T, place_T, (Bin(segment_T * longest + place_T, mask_SL),))

    @property
    def first_S(self) -> Tensor:
        """(S,) index of each segment's first token, its `[CLS]`, among the packed tokens."""
        return self.lengths_S.cumsum(0) - self.lengths_S

    def tokens_by_bin(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        """(T, ...) packed -> for each bin its (s, l, ...), padded."""
        if self.by_bin_T is not None:
            x_TD = x_TD.index_select(0, self.by_bin_T)
        parts = x_TD.split([one.slot_t.shape[0] for one in self.bins])
        return tuple(one.pad(part) for one, part in zip(self.bins, parts, strict=True))

    def segments_by_bin(self, x_S: Tensor, dim: int) -> tuple[Tensor, ...]:
        """(..., S, ...), segments along `dim` -> for each bin (..., s, ...)."""
        if self.by_bin_S is not None:
            x_S = x_S.index_select(dim, self.by_bin_S)
        return x_S.split([one.mask_sl.shape[0] for one in self.bins], dim)

    def from_bins(self, x_slD: Iterable[Tensor]) -> Tensor:
        """For each bin (s, l, ...) -> (T, ...) packed."""
        x_TD = torch.cat([one.unpad(x) for one, x in zip(self.bins, x_slD, strict=True)])
        if self.by_bin_T is None:
            return x_TD
        back_T = torch.empty_like(self.by_bin_T).index_copy_(0, self.by_bin_T, torch.arange(len(x_TD)))
        return x_TD.index_select(0, back_T)


def _bins(lengths_S: Tensor, segment_T: Tensor, place_T: Tensor) -> tuple[tuple[Bin, ...], Tensor, Tensor]:
    """Segments grouped by the next of `STEPS`, each group padded to its longest; empty ones are left out."""
    step_S = torch.bucketize(lengths_S, torch.tensor(STEPS))
    step_T = step_S[segment_T]
    bins, tokens, segments = [], [], []
    for step in step_T.unique().tolist():
        segment_s = ((step_S == step) & (lengths_S > 0)).nonzero()[:, 0]
        token_t = (step_T == step).nonzero()[:, 0]
        longest = int(lengths_S[segment_s].max())
        row_S = torch.zeros_like(lengths_S).index_copy_(0, segment_s, torch.arange(len(segment_s)))
        slot_t = row_S[segment_T[token_t]] * longest + place_T[token_t]
        bins.append(Bin(slot_t, torch.arange(longest) < lengths_S[segment_s][:, None]))
        tokens.append(token_t)
        segments.append(segment_s)
    return tuple(bins), torch.cat(tokens), torch.cat(segments)


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
    start_R = (lengths_S.cumsum(0) - lengths_S)[chosen_R]
    new_start_R = lengths_R.cumsum(0) - lengths_R
    shift_T = torch.repeat_interleave(start_R - new_start_R, lengths_R, output_size=total)
    return torch.arange(total, device=lengths_S.device) + shift_T, lengths_R, total
