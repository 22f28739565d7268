"""Texts written token by token: answers about a question (VQA), captions of an image.

The same layers as those that read, made causal: a token sees itself, what stands before it, and what the
text is about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xvlm.batch import Texts
from xvlm.model.attention import ConceptTokens
from xvlm.model.fusion import CrossEncoder
from xvlm.model.heads import LanguageHead, at_least_float, full_precision
from xvlm.model.packing import first_tokens
from xvlm.model.text import TextConfig, TextEncoder


class Decoder(nn.Module):
    """Token embeddings, layers that read the text alone, layers that also look, and a language head.

    Captions are written by a whole text stack that looks at an image, answers by cross-modal layers alone
    that look at the states of a question (published: `XVLMForCaptioning`, `XVLMForVQA`).
    """

    def __init__(self, config: TextConfig, looked_width: int) -> None:
        super().__init__()
        self.text = TextEncoder(config)
        self.cross = CrossEncoder(config, looked_width)
        self.head = LanguageHead(config.width, config.vocab_size, config.norm_eps)

    def forward(
        self,
        texts: Texts,
        text_R: Tensor,
        looked_at: ConceptTokens,
        looked_at_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """Row r is text `text_R[r]` (R,), written about `looked_at_R[r]` (R,), both int64 indices.

        Returns:
            (M, V) logits of the token that follows, at every token of every row but the row's last, row after
            row.
        """
        return self.head(*self._states(texts, text_R, looked_at, looked_at_R, keys_values))

    def states(
        self,
        texts: Texts,
        text_R: Tensor,
        looked_at: ConceptTokens,
        looked_at_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """(M, D) states from which `forward` predicts; arguments as there, (R,) indices."""
        return self._states(texts, text_R, looked_at, looked_at_R, keys_values)[0]

    def _states(
        self,
        texts: Texts,
        text_R: Tensor,
        looked_at: ConceptTokens,
        looked_at_R: Tensor,
        keys_values: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """(M, D) states, and the token embeddings (V, D) that are the output matrix; (R,) indices."""
        features = self.text(texts, causal=True)
        fused = self.cross(features, text_R, looked_at, looked_at_R, keys_values, causal=True)
        lengths_R = texts.lengths_N[text_R]
        at_M, _ = followed(lengths_R)
        return fused.states_TD.index_select(0, fused.places(lengths_R)[at_M]), features.token_VD

    @property
    def longest(self) -> int:
        """Tokens that its positions reach."""
        return self.text.embedding.max_positions - self.text.embedding.first_position

    def predict(self, x_MD: Tensor) -> Tensor:
        """(M, D) states -> (M, V) logits of what follows, to rank or draw by: never in half precision."""
        with full_precision(x_MD):
            return self.head(at_least_float(x_MD), self.text.embedding.token.weight)


def after_prompt(lengths_R: Tensor, at_M: Tensor, text_M: Tensor, prompt: int) -> Tensor:
    """(M,) bool, which of the tokens that `followed` names are followed by one that is written, not given.

    Args:
        lengths_R: (R,) tokens of each text, of which the first `prompt` are given.
        at_M, text_M: (M,) from `followed`.
    """
    place_M = at_M - first_tokens(lengths_R)[text_M]
    return place_M + 1 >= prompt


def followed(lengths_R: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the packed tokens of R texts have a token after them in their text.

    Returns:
        (M,) their places among all T tokens, and the text (M,) that each belongs to.
    """
    device = lengths_R.device
    text_T = torch.repeat_interleave(torch.arange(len(lengths_R), device=device), lengths_R)
    last_R = lengths_R.cumsum(0) - 1
    keep_T = torch.ones_like(text_T, dtype=torch.bool).index_fill_(0, last_R, False)
    at_M = keep_T.nonzero()[:, 0]
    return at_M, text_T[at_M]
