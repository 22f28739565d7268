"""The decoder of answers (VQA) and captions: the layers of the text stack with causal self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xvlm.batch import Texts
from xvlm.models.heads import LanguageHead, in_full_precision
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.cross_encoder import CrossEncoder
from xvlm.models.text.encoder import TextConfig, TextEncoder, TextFeatures
from xvlm.models.text.packing import segment_starts


class Decoder(nn.Module):
    """Token embeddings, text layers, cross-modal layers and a language head.

    Captions use a full text stack over the patches of an image; answers use cross-modal layers alone, over
    the states of a question (published: `XVLMForCaptioning`, `XVLMForVQA`).
    """

    def __init__(self, config: TextConfig, context_dim: int) -> None:
        super().__init__()
        self.text = TextEncoder(config)
        self.cross = CrossEncoder(config, context_dim)
        self.head = LanguageHead(config.width, config.vocab_size, config.norm_eps)

    def forward(
        self,
        texts: Texts,
        text_R: Tensor,
        context: ConceptTokens,
        context_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """Predict the next tokens of text `text_R[r]` with context `context_R[r]` in each row r.

        Args:
            text_R, context_R: (R,) int64 indices.
            keys_values: result of `CrossEncoder.keys_values`, if it was computed before.
        Returns:
            (M, V) logits at all tokens of each row except its last one, row by row.
        """
        features = self.text(texts, causal=True)
        return self.head(self.states(features, text_R, context, context_R, keys_values), features.token_VD)

    def states(
        self,
        texts: TextFeatures,
        text_R: Tensor,
        context: ConceptTokens,
        context_R: Tensor,
        keys_values: list[Tensor] | None = None,
    ) -> Tensor:
        """Return the (M, D) states that `forward` predicts from; `texts` are encoded with `causal`."""
        fused = self.cross(texts, text_R, context, context_R, keys_values, causal=True)
        lengths_R = texts.packing.lengths_S[text_R]
        index_M, _ = next_token_positions(lengths_R)
        return fused.states_TD.index_select(0, fused.token_indices(lengths_R)[index_M])

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a text."""
        return self.text.embedding.max_positions - self.text.embedding.first_position

    def predict(self, x_MD: Tensor) -> Tensor:
        """(M, D) states -> (M, V) logits in full precision, to rank or sample by."""
        return in_full_precision(self.head, x_MD, self.text.embedding.token.weight)


def next_token_positions(lengths_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (M,) packed tokens that are not the last one of their text, and the (M,) text of each."""
    device = lengths_R.device
    text_T = torch.repeat_interleave(torch.arange(len(lengths_R), device=device), lengths_R)
    last_R = lengths_R.cumsum(0) - 1
    has_next_T = torch.ones_like(text_T, dtype=torch.bool).index_fill_(0, last_R, False)
    index_M = has_next_T.nonzero()[:, 0]
    return index_M, text_T[index_M]


def is_after_prompt(lengths_R: Tensor, index_M: Tensor, text_M: Tensor, prompt_length: int) -> Tensor:
    """Return an (M,) mask of the `next_token_positions` whose next token is not part of the prompt.

    Args:
        index_M, text_M: results of `next_token_positions` for texts of (R,) lengths.
        prompt_length: number of tokens of the prompt, with which every text begins.
    """
    position_M = index_M - segment_starts(lengths_R)[text_M]
    return position_M + 1 >= prompt_length
