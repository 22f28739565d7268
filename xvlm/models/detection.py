"""Detection head: whether a text describes anything in an image, and where everything is that it describes.

Three answers of one pass of the cross-modal encoder over a text and a whole image: *presence* says whether
the text describes anything at all, *objectness* in which cells of a grid the centres of these things lie,
and *box* how far they extend.  Presence is apart from place, since a place is always the best one of an
image, whether or not there is anything to be found (as in SAM 3, Carion et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.boxes import patch_centres
from xvlm.models.heads import MLPHead, at_least_float

PRIOR_LOGIT = -4.6
"""Initial logit of objectness, a probability of 0.01: most cells hold no centre (Lin et al., ICCV 2017)."""
INITIAL_SIDE_LOGIT = -1.4
"""Initial logit of a box's sides: a fifth of the image's."""


@dataclass(frozen=True)
class Cells:
    """What the cells of S images say about themselves, before any text is known.

    Attributes:
        key_SKC: (S, K, C) keys of C cells in row-major order, to be compared with a text.
        value_SCK: (S, C, K) what the box of a cell is read from.
        grid_hw: rows and columns of the cells.
    """

    key_SKC: Tensor
    value_SCK: Tensor
    grid_hw: tuple[int, int]


class DetectionHead(nn.Module):
    """Presence, objectness and boxes of texts in whole images.

    A cell is one of the encoder's finer map, if it has one: its features and those of the patches, enlarged,
    are added as in a feature pyramid (Lin et al., CVPR 2017).  Otherwise each patch is divided into four
    cells, so that things side by side in a patch, which is a seventh of the image's side for some encoders,
    are apart.
    """

    def __init__(self, width: int, vision_width: int, finer_width: int = 0, key_width: int = 64) -> None:
        super().__init__()
        self.key_width = key_width
        self.presence = MLPHead(width, 1)
        self.query = nn.Linear(width, 2 * key_width)
        self.finer_norm: nn.Module | None = None
        if finer_width:
            self.patch = nn.Linear(vision_width, 2 * key_width)
            self.finer_norm = nn.GroupNorm(1, finer_width)
            self.finer = nn.Conv2d(finer_width, 2 * key_width, 3, padding=1)
        else:
            self.patch = nn.Linear(vision_width, 4 * 2 * key_width)
        self.objectness_bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))
        self.box = nn.Sequential(
            nn.LayerNorm(key_width),
            nn.Linear(key_width, 2 * key_width),
            nn.GELU(),
            nn.Linear(2 * key_width, 4),
        )
        # Boxes begin at the centre of their cell, with a usual size.
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, INITIAL_SIDE_LOGIT, INITIAL_SIDE_LOGIT]))

    def cells(self, patches_SPD: Tensor, grid_hw: tuple[int, int], finer_SChw: Tensor | None) -> Cells:
        """(S, P, D) patches of a grid (rows, columns), (S, C, h, w) finer map -> cells of S images."""
        maps_SChw = self.patch(patches_SPD).transpose(1, 2).unflatten(2, grid_hw)
        if self.finer_norm is None:
            maps_SChw = F.pixel_shuffle(maps_SChw, 2)
        else:
            assert finer_SChw is not None
            size = (finer_SChw.shape[2], finer_SChw.shape[3])
            enlarged = F.interpolate(maps_SChw, size=size, mode="bilinear")
            maps_SChw = self.finer(self.finer_norm(finer_SChw)) + enlarged
        key_SKC, value_SKC = maps_SChw.flatten(2).split(self.key_width, 1)
        return Cells(key_SKC, value_SKC.transpose(1, 2), (maps_SChw.shape[2], maps_SChw.shape[3]))

    def forward(
        self,
        cls_RD: Tensor,
        patches_SPD: Tensor,
        grid_hw: tuple[int, int],
        finer_SChw: Tensor | None,
        set_R: Tensor,
    ) -> Detections:
        """Compare R texts, each already read with its image, with the cells of S images, in full precision.

        Args:
            cls_RD: (R, D) x_cls.
            patches_SPD: (S, P, D) patches of a grid (rows, columns).
            finer_SChw: (S, C, h, w) finer map, if the encoder has one.
            set_R: (R,) int64 image of each row.
        """
        with torch.autocast(cls_RD.device.type, enabled=False):
            cls_RD = at_least_float(cls_RD)
            finer = None if finer_SChw is None else at_least_float(finer_SChw)
            cells = self.cells(at_least_float(patches_SPD), grid_hw, finer)
            query_RK, box_query_RK = self.query(cls_RD).split(self.key_width, 1)
            product_RC = (query_RK[:, None] @ cells.key_SKC.index_select(0, set_R))[:, 0]
            objectness_RC = product_RC * self.key_width**-0.5 + self.objectness_bias
            return Detections(self, self.presence(cls_RD)[:, 0], objectness_RC, cells, set_R, box_query_RK)

    def cell_boxes(
        self, query_XK: Tensor, value_XK: Tensor, cell_X: Tensor, grid_hw: tuple[int, int]
    ) -> Tensor:
        """Return the boxes (X, 4), (cx, cy, w, h) in [0, 1], of cells (X,) from (X, K) queries and values."""
        raw_X4 = self.box(query_XK + value_XK)
        rows, columns = grid_hw
        centre_C2 = patch_centres(grid_hw, raw_X4.device).to(raw_X4.dtype)
        # A centre may lie in a neighbouring cell: the cell that holds it need not be the one that is certain.
        offset_X2 = 1.5 * raw_X4[:, :2].tanh() / raw_X4.new_tensor([columns, rows])
        centre_X2 = (centre_C2.index_select(0, cell_X) + offset_X2).clamp(0, 1)
        return torch.cat((centre_X2, raw_X4[:, 2:].sigmoid()), 1)


@dataclass(frozen=True)
class Detections:
    """What the head says about R texts with their images; a box is computed for a cell that is asked for.

    Attributes:
        head: the head.
        presence_R: (R,) log-odds that the text describes anything in its image.
        objectness_RC: (R, C) log-odds that a cell holds the centre of something that the text describes.
        cells: the cells of S images.
        set_R: (R,) int64 image of each row.
        query_RK: (R, K) what the boxes of a text are read from.
    """

    head: DetectionHead
    presence_R: Tensor
    objectness_RC: Tensor
    cells: Cells
    set_R: Tensor
    query_RK: Tensor

    def boxes(self, row_X: Tensor, cell_X: Tensor) -> Tensor:
        """Return the boxes (X, 4), (cx, cy, w, h) in [0, 1], of rows (X,) at cells (X,)."""
        with torch.autocast(self.query_RK.device.type, enabled=False):
            value_XK = self.cells.value_SCK[self.set_R.index_select(0, row_X), cell_X]
            query_XK = self.query_RK.index_select(0, row_X)
            return self.head.cell_boxes(query_XK, value_XK, cell_X, self.cells.grid_hw)
