"""What a model is given: images, packed texts, and the concepts that texts describe.

Shapes use the legend of `xvlm/__init__.py`.  Everything here moves as one with `.to(device)` and
`.pin_memory()`, so that the training loop needs to know nothing about what is inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from xvlm.errors import InputError


class Movable:
    """Dataclasses of tensors, of other movables, and of plain values."""

    def _map(self, name: str, *args: Any, **kwargs: Any) -> Self:
        moved = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, (Tensor, Movable)):
                moved[item.name] = getattr(value, name)(*args, **kwargs)
        return replace(self, **moved)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with every tensor on `device`."""
        return self._map("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map("pin_memory")


@dataclass(frozen=True)
class Images(Movable):
    """Images of one size.

    Attributes:
        pixels_BCHW: (B, 3, height, width) uint8, RGB.  Normalisation happens on the device, in the
            vision encoder, which knows its own mean and deviation.
        after_stem: True where the encoder's frozen stem has been computed before; `pixels_BCHW` then
            holds its output (B, channels, h, w), floating.
    """

    pixels_BCHW: Tensor
    after_stem: bool = False

    def __len__(self) -> int:
        return self.pixels_BCHW.shape[0]


@dataclass(frozen=True)
class Texts(Movable):
    """Texts stored one after another, without padding.

    Attributes:
        ids_T: (T,) int64 token ids; every text starts with `[CLS]`.
        lengths_N: (N,) int64, at least 1 each; their sum is T.
        longest: the largest length, as a plain number so that nobody must ask the device.
    """

    ids_T: Tensor
    lengths_N: Tensor
    longest: int

    def __len__(self) -> int:
        return self.lengths_N.shape[0]

    @classmethod
    def pack(cls, ids: Sequence[Sequence[int]]) -> Texts:
        """Pack N lists of token ids.  Raises InputError if one of them is empty."""
        lengths = [len(row) for row in ids]
        if lengths and min(lengths) == 0:
            raise InputError(f"text {lengths.index(0)} has no tokens; every text needs at least one")
        flat = [token for row in ids for token in row]
        return cls(
            torch.tensor(flat, dtype=torch.int64),
            torch.tensor(lengths, dtype=torch.int64),
            max(lengths, default=0),
        )

    @classmethod
    def cat(cls, parts: Iterable[Texts]) -> Texts:
        """The texts of all parts, in order."""
        parts = list(parts)
        return cls(
            torch.cat([part.ids_T for part in parts]),
            torch.cat([part.lengths_N for part in parts]),
            max(part.longest for part in parts),
        )


@dataclass(frozen=True)
class Concepts(Movable):
    """The visual concept of each row: which image, and where in it.

    Attributes:
        image_N: (N,) int64 index into the batch's images.
        box_xyxy_N4: (N, 4) float32 in [0, 1] of the image as the model sees it (after crop, flip and
            resize); the whole image is (0, 0, 1, 1).
        has_box_N: (N,) bool, False where the concept is the whole image (no box loss).
    """

    image_N: Tensor
    box_xyxy_N4: Tensor
    has_box_N: Tensor

    @classmethod
    def none(cls, device: torch.device | str) -> Concepts:
        """No region: the concepts of a model are then the whole images."""
        return cls(
            torch.empty(0, dtype=torch.int64, device=device),
            torch.empty(0, 4, device=device),
            torch.empty(0, dtype=torch.bool, device=device),
        )

    def __len__(self) -> int:
        return self.image_N.shape[0]
