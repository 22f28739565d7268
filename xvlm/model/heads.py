"""What turns features into answers: projections, matching, box and masked-language heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPHead(nn.Sequential):
    """Linear to twice the width, LayerNorm, GELU, linear: the published matching and box heads."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, outputs)
        )


class LabelHead(MLPHead):
    """Which of some labels does a text with an image have?  `names`: the labels, in order."""

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__(width, len(names))
        self.names = tuple(names)

    def forward(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, C) logits of C labels, never in half precision."""
        with full_precision(cls_RD):
            return super().forward(at_least_float(cls_RD))


class BoxHead(MLPHead):
    """The published box head: (cx, cy, w, h) from x_cls alone."""

    def __init__(self, width: int, vision_width: int) -> None:
        super().__init__(width, 4)

    def logits(self, cls_RD: Tensor, tokens_RPD: Tensor, place_P2: Tensor) -> Tensor:
        """(R, D) x_cls -> (R, 4) before the sigmoid; patches (R, P, D_vision) are not looked at."""
        return self(cls_RD)


class PointingBoxHead(nn.Module):
    """Points at patches, then says where the box lies around the point.

    x_cls asks the patches of the image once more; the mean place of what answers is the first guess of the
    centre, which an MLP over x_cls and the patches' mean corrects.  Learning where to point gets its gradient
    directly from the box loss, while the published head has to learn to read places out of x_cls first
    (measured in docs/results.md).
    """

    def __init__(self, width: int, vision_width: int, key_width: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(width, key_width)
        self.key = nn.Linear(vision_width, key_width)
        self.value = nn.Linear(vision_width, width)
        self.read = MLPHead(width, 4)

    def logits(self, cls_RD: Tensor, tokens_RPD: Tensor, place_P2: Tensor) -> Tensor:
        """(R, D) x_cls, (R, P, D_vision) patches, (P, 2) their centres -> (R, 4) before the sigmoid."""
        query_RK, key_RPK = self.query(cls_RD), self.key(tokens_RPD)
        score_RP = (key_RPK @ query_RK[:, :, None])[..., 0] * key_RPK.shape[-1] ** -0.5
        weight_RP = score_RP.softmax(-1)
        centre_R2 = weight_RP @ place_P2.to(weight_RP.dtype)
        seen_RD = (weight_RP[:, None] @ tokens_RPD)[:, 0]
        correction_R4 = self.read(cls_RD + self.value(seen_RD))
        return correction_R4 + F.pad(torch.logit(centre_R2, eps=1e-3), (0, 2))


BOX_HEADS = {"mlp": BoxHead, "point": PointingBoxHead}


class ContrastiveHead(nn.Module):
    """Concept and text vectors in one space, and the temperature of their similarities.

    The temperature is learnt, starts at 0.07 and stays within [0.001, 0.5] (published).
    """

    def __init__(self, vision_width: int, text_width: int, embed_dim: int, temperature: float = 0.07) -> None:
        super().__init__()
        self.vision = nn.Linear(vision_width, embed_dim)
        self.text = nn.Linear(text_width, embed_dim)
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def embed_concepts(self, cls_ND: Tensor) -> Tensor:
        """(N, D_vision) v_cls -> (N, E) of unit length, never in half precision."""
        with full_precision(cls_ND):
            return F.normalize(self.vision(at_least_float(cls_ND)), dim=-1)

    def embed_texts(self, summary_ND: Tensor) -> Tensor:
        """(N, D) w_cls -> (N, E) of unit length, never in half precision."""
        with full_precision(summary_ND):
            return F.normalize(self.text(at_least_float(summary_ND)), dim=-1)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the temperature within its bounds; once a step, before it is used."""
        self.temperature.clamp_(0.001, 0.5)


class AssignmentHead(nn.Module):
    """Which of two images does a text describe: the left one, the right one, or neither?

    `vision` projects images into the contrastive space, in which the other image is sought; it does not learn
    here (published: `vision_proj` and `ta_head` of the domain pre-training for NLVR2).
    """

    def __init__(self, width: int, vision_width: int, embed_dim: int) -> None:
        super().__init__()
        self.vision = nn.Linear(vision_width, embed_dim).requires_grad_(False)
        self.classify = nn.Linear(width, 3)

    def embed_images(self, cls_BD: Tensor) -> Tensor:
        """(B, D_vision) v_cls -> (B, E) of unit length, never in half precision, with no gradient."""
        with full_precision(cls_BD), torch.no_grad():
            return F.normalize(self.vision(at_least_float(cls_BD)), dim=-1)

    def forward(self, cls_RD: Tensor) -> Tensor:
        """(R, D) x_cls of texts with pairs -> (R, 3) logits of (left, right, neither), never in half
        precision."""
        with full_precision(cls_RD):
            return self.classify(at_least_float(cls_RD))


def full_precision(x: Tensor) -> torch.autocast:
    """Where autocast does not make half precision of (...) `x` and what is computed from it."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float(x: Tensor) -> Tensor:
    """(...) -> float32, or float64 if it is that: bfloat16 has three digits, too few to rank by."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LanguageHead(nn.Module):
    """BERT's: transform, then the token embeddings as the output matrix, with a bias of its own."""

    def __init__(self, width: int, vocab_size: int, norm_eps: float) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x_MD: Tensor, token_VD: Tensor) -> Tensor:
        """(M, D) states where a token is sought, (V, D) token embeddings -> (M, V) logits."""
        return F.linear(self.norm(F.gelu(self.transform(x_MD))), token_VD, self.bias)
