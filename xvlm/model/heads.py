"""What turns features into answers: projections, matching, box and masked-language heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPHead(nn.Sequential):
    """Linear to twice the width, LayerNorm, GELU, linear: the published matching and box heads."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, outputs)
        )


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
        return unit(self.vision(cls_ND))

    def embed_texts(self, summary_ND: Tensor) -> Tensor:
        """(N, D) w_cls -> (N, E) of unit length, never in half precision."""
        return unit(self.text(summary_ND))

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the temperature within its bounds; once a step, before it is used."""
        self.temperature.clamp_(0.001, 0.5)


def unit(x: Tensor) -> Tensor:
    """(..., E) -> unit length, at least float32: bfloat16 has three digits, too few to rank by."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class MaskedLanguageHead(nn.Module):
    """BERT's: transform, then the token embeddings as the output matrix, with a bias of its own."""

    def __init__(self, width: int, vocab_size: int, norm_eps: float) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x_MD: Tensor, token_VD: Tensor) -> Tensor:
        """(M, D) states at masked positions only, (V, D) token embeddings -> (M, V) logits."""
        return F.linear(self.norm(F.gelu(self.transform(x_MD))), token_VD, self.bias)
