"""Heads: projections, matching, box, language and classification heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvlm.boxes import patch_centres
from xvlm.common.errors import InputError


def at_least_float(x: Tensor) -> Tensor:
    """Convert (...) to float32 unless it is float64: bfloat16 has three digits, too few to rank by."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_full_precision(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply a function to (...) inputs, converted by `at_least_float` and without autocast."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        return function(*map(at_least_float, inputs))


class MLPHead(nn.Sequential):
    """Linear to twice the width, LayerNorm, GELU, linear: the published matching and box heads."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, outputs)
        )


class Classifier(MLPHead):
    """Classifies a text with an image.

    Attributes:
        names: the class names, in the order of the outputs.
    """

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__(width, len(names))
        self.names = tuple(names)

    def forward(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, Y) logits, in full precision."""
        return in_full_precision(super().forward, cls_RD)


class BoxHead(MLPHead):
    """The published box head: (cx, cy, w, h) from x_cls alone."""

    def __init__(self, width: int, vision_width: int) -> None:
        super().__init__(width, 4)

    def logits(
        self, cls_RD: Tensor, tokens_RPD: Tensor, grid_hw: tuple[int, int], finer_RChw: Tensor | None = None
    ) -> Tensor:
        """(R, D) x_cls -> (R, 4) before the sigmoid; the arguments of `PointingBoxHead`, patches unused."""
        return self(cls_RD)


class PointingBoxHead(nn.Module):
    """A box head that attends to the patches once more, and refines the point that it attends to.

    The attention-weighted mean of the patch centres is the first guess of the box centre; an MLP over x_cls
    and the attended patches corrects it and adds the size.  The box loss thus trains the localization
    directly, while the published head first has to learn to read positions out of x_cls (measured in
    docs/results.md).
    """

    def __init__(self, width: int, vision_width: int, key_width: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(width, key_width)
        self.key = nn.Linear(vision_width, key_width)
        self.value = nn.Linear(vision_width, width)
        self.read = MLPHead(width, 4)

    def logits(
        self, cls_RD: Tensor, tokens_RPD: Tensor, grid_hw: tuple[int, int], finer_RChw: Tensor | None = None
    ) -> Tensor:
        """(R, D) x_cls, (R, P, D) patches of a grid (rows, columns) -> (R, 4) before the sigmoid."""
        centre_P2 = patch_centres(grid_hw, cls_RD.device)
        query_RK, key_RPK = self.query(cls_RD), self.key(tokens_RPD)
        score_RP = (key_RPK @ query_RK[:, :, None])[..., 0] * key_RPK.shape[-1] ** -0.5
        weight_RP = score_RP.softmax(-1)
        guess_R2 = weight_RP @ centre_P2.to(weight_RP.dtype)
        attended_RD = (weight_RP[:, None] @ tokens_RPD)[:, 0]
        correction_R4 = self.read(cls_RD + self.value(attended_RD))
        return correction_R4 + F.pad(torch.logit(guess_R2, eps=1e-3), (0, 2))


class FinerPointingBoxHead(PointingBoxHead):
    """A pointing head over the cells of the finer map: they are compared by what both maps say about them.

    A cell's key is the sum of that of the finer map and of that of the patches, enlarged bilinearly, as in a
    feature pyramid (Lin et al., CVPR 2017).
    """

    def __init__(self, width: int, vision_width: int, finer_width: int, key_width: int = 64) -> None:
        super().__init__(width, vision_width, key_width)
        self.finer_norm = nn.GroupNorm(1, finer_width)
        self.finer_key = nn.Conv2d(finer_width, key_width, 3, padding=1)
        self.finer_value = nn.Linear(finer_width, width)

    def logits(
        self, cls_RD: Tensor, tokens_RPD: Tensor, grid_hw: tuple[int, int], finer_RChw: Tensor | None = None
    ) -> Tensor:
        """(R, D) x_cls, (R, P, D) patches of a grid (rows, columns), (R, C, h, w) finer map -> (R, 4)."""
        assert finer_RChw is not None
        cells_RChw = self.finer_norm(finer_RChw)
        finer_hw = (cells_RChw.shape[2], cells_RChw.shape[3])
        coarse_RKhw = self.key(tokens_RPD).transpose(1, 2).unflatten(2, grid_hw)
        key_RKhw = self.finer_key(cells_RChw) + F.interpolate(coarse_RKhw, size=finer_hw, mode="bilinear")
        score_RQ = (self.query(cls_RD)[:, None] @ key_RKhw.flatten(2))[:, 0] * key_RKhw.shape[1] ** -0.5
        weight_RQ = score_RQ.softmax(-1)
        guess_R2 = weight_RQ @ patch_centres(finer_hw, cls_RD.device).to(weight_RQ.dtype)
        cell_RC = (cells_RChw.flatten(2) @ weight_RQ[:, :, None])[..., 0]
        # The weight of a patch is that of its cells.
        weight_R1hw = F.adaptive_avg_pool2d(weight_RQ.unflatten(1, finer_hw)[:, None], grid_hw)
        weight_RP = weight_R1hw.flatten(1) / weight_R1hw.flatten(1).sum(1, keepdim=True)
        patch_RD = (weight_RP[:, None] @ tokens_RPD)[:, 0]
        correction_R4 = self.read(cls_RD + self.value(patch_RD) + self.finer_value(cell_RC))
        return correction_R4 + F.pad(torch.logit(guess_R2, eps=1e-3), (0, 2))


def build_box_head(
    kind: str, width: int, vision_width: int, finer_width: int = 0
) -> BoxHead | PointingBoxHead:
    """Build the box head of a kind, "mlp" or "point", for x_cls of `width` and patches of `vision_width`.

    Args:
        finer_width: channels of the encoder's finer map; 0 without one.
    Raises:
        InputError: there is no such kind, or it does not read the finer map.
    """
    if kind == "point":
        if finer_width:
            return FinerPointingBoxHead(width, vision_width, finer_width)
        return PointingBoxHead(width, vision_width)
    if kind != "mlp":
        raise InputError(f"box_head is {kind!r}; it may be mlp or point")
    if finer_width:
        raise InputError("box_head is 'mlp', which reads no map; finer_map needs box_head 'point'")
    return BoxHead(width, vision_width)


class ContrastiveHead(nn.Module):
    """Projections of concepts and texts into one space, and the temperature of their similarities.

    The temperature is learnt, starts at 0.07 and stays within [0.001, 0.5] (published).
    """

    def __init__(self, vision_width: int, text_width: int, embed_dim: int, temperature: float = 0.07) -> None:
        super().__init__()
        self.vision = nn.Linear(vision_width, embed_dim)
        self.text = nn.Linear(text_width, embed_dim)
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def embed_concepts(self, cls_ND: Tensor) -> Tensor:
        """(N, D) v_cls -> (N, E) of unit length, in full precision."""
        return F.normalize(in_full_precision(self.vision, cls_ND), dim=-1)

    def embed_texts(self, cls_ND: Tensor) -> Tensor:
        """(N, D) w_cls -> (N, E) of unit length, in full precision."""
        return F.normalize(in_full_precision(self.text, cls_ND), dim=-1)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the temperature to its bounds; called once in each step, before it is used."""
        self.temperature.clamp_(0.001, 0.5)


class AssignmentHead(nn.Module):
    """Classifies which image of a pair a text describes: the left one, the right one, or neither.

    `vision` projects images into the contrastive space, where the other image of a pair is sampled; it is not
    trained here (published: `vision_proj` and `ta_head` of the domain pre-training for NLVR2).
    """

    def __init__(self, width: int, vision_width: int, embed_dim: int) -> None:
        super().__init__()
        self.vision = nn.Linear(vision_width, embed_dim).requires_grad_(False)
        self.classify = nn.Linear(width, 3)

    @torch.no_grad()
    def embed_images(self, cls_BD: Tensor) -> Tensor:
        """(B, D) v_cls -> (B, E) of unit length, in full precision and without gradient."""
        return F.normalize(in_full_precision(self.vision, cls_BD), dim=-1)

    def forward(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls of texts with pairs -> (R, 3) logits of (left, right, neither), in full precision."""
        return in_full_precision(self.classify, cls_RD)


class LanguageHead(nn.Module):
    """BERT's language head: a transform, then the token embeddings as the output matrix, with a bias."""

    def __init__(self, width: int, vocab_size: int, norm_eps: float) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x_MD: Tensor, token_VD: Tensor) -> Tensor:
        """(M, D) states, (V, D) token embeddings -> (M, V) logits."""
        return F.linear(self.norm(F.gelu(self.transform(x_MD))), token_VD, self.bias)
