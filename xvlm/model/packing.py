"""Packed tokens: many texts in one (T, D) tensor, without padding, and the two ways out of it.

Linear layers, norms and MLPs work on packed tokens and never see padding (design, section 6).  Only attention
needs to know which tokens belong together: it pads inside, over whatever segments it is given.  The
same packed tokens may be seen as texts (self-attention) or as all texts of one image (cross-attention).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Where each packed token stands when S segments are padded to the longest.

    Attributes:
        lengths_S: (S,) int64 tokens of each segment; 0 is allowed.
        longest: L, the largest of them.
        segment_T: (T,) int64 segment of each token.
        slot_T: (T,) int64 index of each token among S * L padded places.
        mask_SL: (S, L) bool, True where a token stands.
    """

    lengths_S: Tensor
    longest: int
    segment_T: Tensor
    slot_T: Tensor
    mask_SL: Tensor

    @classmethod
    def of(cls, lengths_S: Tensor, total: int, longest: int) -> Packing:
        """Segments of the given (S,) lengths, `total` tokens in all.

        The two numbers are plain so that nothing waits for the device.
        """
        device = lengths_S.device
        segment_T = torch.repeat_interleave(
            torch.arange(lengths_S.shape[0], device=device), lengths_S, output_size=total
        )
        place_T = torch.arange(total, device=device) - (lengths_S.cumsum(0) - lengths_S)[segment_T]
        mask_SL = torch.arange(longest, device=device) < lengths_S[:, None]
        return cls(lengths_S, longest, segment_T, segment_T * longest + place_T, mask_SL)

    @property
    def first_S(self) -> Tensor:
        """(S,) index of each segment's first token, its `[CLS]`, among the packed tokens."""
        return self.lengths_S.cumsum(0) - self.lengths_S

    @property
    def place_T(self) -> Tensor:
        """(T,) place of each token within its segment, from 0."""
        return self.slot_T - self.segment_T * self.longest

    def pad(self, x_TD: Tensor) -> Tensor:
        """(T, ...) packed -> (S, L, ...), zeros where no token stands."""
        segments, longest = self.mask_SL.shape
        out = x_TD.new_zeros(segments * longest, *x_TD.shape[1:])
        return out.index_copy(0, self.slot_T, x_TD).view(segments, longest, *x_TD.shape[1:])

    def unpad(self, x_SLD: Tensor) -> Tensor:
        """(S, L, ...) padded -> (T, ...) packed."""
        return x_SLD.flatten(0, 1).index_select(0, self.slot_T)


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
