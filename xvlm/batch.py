"""Batches that the model reads: images, packed texts, and the visual concepts that the texts describe.

Shapes use the legend of `xvlm/__init__.py`.  A batch of two images and three texts, one of which describes
only the left half of the second image:

    Images    pixels_BCHW  (2, 3, height, width)
    Texts     ids_T        [CLS] a dog [SEP] [CLS] a red car [SEP] [CLS] a car [SEP]
              lengths_N    [4, 5, 4]
    Concepts  image_N      [0, 1, 1]
              box_xyxy_N4  [[0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 1]]
              has_box_N    [False, True, False]

Row i of `Texts` and row i of `Concepts` belong together: the text describes the concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from xvlm.common.errors import InputError


class TensorTree:
    """Base of dataclasses whose fields are tensors, other tensor trees, or plain values.

    `to` and `pin_memory` reach every tensor at every depth, so the data loader and the training loop handle
    any task's batch without knowing its fields.  Plain values (numbers, tuples of keys) are left unchanged.
    """

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy with every tensor on `device`."""
        return self._map("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, from which copies to a GPU are asynchronous."""
        return self._map("pin_memory")

    def _map(self, method: str, *args: Any, **kwargs: Any) -> Self:
        mapped = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, (Tensor, TensorTree)):
                mapped[field.name] = getattr(value, method)(*args, **kwargs)
        return replace(self, **mapped)  # type: ignore[type-var]


@dataclass(frozen=True)
class Images(TensorTree):
    """A batch of B images of one size.

    Attributes:
        pixels_BCHW: (B, 3, height, width) uint8 RGB in 0 to 255.  The vision encoder normalises them on the
            device with its own mean and standard deviation.
        stem_applied: True when `pixels_BCHW` holds cached outputs of the encoder's frozen stem instead:
            (B, channels, h, w), floating point.
    """

    pixels_BCHW: Tensor
    stem_applied: bool = False

    def __len__(self) -> int:
        return self.pixels_BCHW.shape[0]


@dataclass(frozen=True)
class Texts(TensorTree):
    """A packed batch of N texts: their tokens one after another, without padding.

    Attributes:
        ids_T: (T,) int64 token ids; every text starts with `[CLS]`.
        lengths_N: (N,) int64 tokens of each text, at least 1 each; they sum to T.
        longest: largest length; a Python number, so that reading it does not wait for the device.
    """

    ids_T: Tensor
    lengths_N: Tensor
    longest: int

    def __len__(self) -> int:
        return self.lengths_N.shape[0]

    @classmethod
    def pack(cls, ids: Sequence[Sequence[int]]) -> Texts:
        """Pack N lists of token ids.

        Raises:
            InputError: a list is empty.
        """
        lengths = [len(row) for row in ids]
        if lengths and min(lengths) == 0:
            raise InputError(f"text {lengths.index(0)} has no tokens; every text needs at least one")
        return cls(
            torch.tensor([token for row in ids for token in row], dtype=torch.int64),
            torch.tensor(lengths, dtype=torch.int64),
            max(lengths, default=0),
        )


@dataclass(frozen=True)
class Concepts(TensorTree):
    """The visual concept of each of N rows: an object, a region, or a whole image (X-VLM, section 3).

    Attributes:
        image_N: (N,) int64 index of the concept's image in the batch.
        box_xyxy_N4: (N, 4) float32 corners as fractions of the image after crop, flip and resize;
            (0, 0, 1, 1) for the whole image.
        has_box_N: (N,) bool, False for a whole image, which takes no part in the box loss.
        boxed_N: (number of boxes,) int64 rows that have a box; `None` if nobody has looked.
    """

    image_N: Tensor
    box_xyxy_N4: Tensor
    has_box_N: Tensor
    boxed_N: Tensor | None = None

    def __len__(self) -> int:
        return self.image_N.shape[0]

    def boxed_rows(self) -> Tensor:
        """Return `boxed_N`; unless it is known, reading the number of boxes waits for the device."""
        return self.has_box_N.nonzero()[:, 0] if self.boxed_N is None else self.boxed_N

    @classmethod
    def none(cls, device: torch.device | str) -> Concepts:
        """Return zero rows; `XVLM.encode_concepts` then encodes the whole images alone."""
        return cls(
            torch.empty(0, dtype=torch.int64, device=device),
            torch.empty(0, 4, device=device),
            torch.empty(0, dtype=torch.bool, device=device),
            torch.empty(0, dtype=torch.int64, device=device),
        )
