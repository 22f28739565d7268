"""Choosing among given answers (VQA): a decoder ranks them by how likely it would write each."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm.batch import Texts
from xvlm.model.attention import ConceptTokens
from xvlm.model.decoder import Decoder, followed
from xvlm.model.packing import first_tokens, gather_segments, padded_places
from xvlm.model.text import TextFeatures
from xvlm.model.vision import ImageFeatures
from xvlm.model.xvlm import XVLM


class Ranked(NamedTuple):
    """The best answers to each of N questions, best first.

    Attributes:
        answer_Nk: (N, k) int64, which of the answers.
        probability_Nk: (N, k), among these k.
    """

    answer_Nk: Tensor
    probability_Nk: Tensor


def question_states(model: XVLM, features: ImageFeatures, questions: Texts, image_Q: Tensor) -> ConceptTokens:
    """Q questions, of which `image_Q` (Q,) int64 says the image -> what the decoder looks at: each question's
    tokens after they have seen the image."""
    concepts, _ = model.encode_whole(features)
    texts = model.encode_texts(questions)
    fused = model.fuse(texts, torch.arange(len(questions), device=image_Q.device), concepts, image_Q)
    states_TD = fused.states_TD.index_select(0, fused.places(questions.lengths_N))
    return text_states(texts, states_TD)


def text_states(texts: TextFeatures, states_TD: Tensor) -> ConceptTokens:
    """The (T, D) states of N texts as what a decoder looks at: one token set a text.

    `states_TD` stand in the order of `texts`.
    """
    lengths_N, longest = texts.packing.lengths_S, texts.packing.longest
    mask_NL = torch.arange(longest, device=states_TD.device) < lengths_N[:, None]
    token_NL = padded_places(texts.packing.first_S, longest, len(states_TD))
    return ConceptTokens(
        states_TD.index_select(0, token_NL.flatten()).unflatten(0, token_NL.shape),
        torch.arange(len(lengths_N), device=states_TD.device),
        mask_NL,
        mean_summary=False,
        grid_hw=(1, longest),
    )


def rank_answers(
    decoder: Decoder, questions: ConceptTokens, answers: Texts, k: int, first_twice: bool = True
) -> Ranked:
    """Two steps, as published: the k answers whose first token is likeliest, then these by all their tokens.

    Args:
        questions: what the decoder looks at; its N concepts are the questions.
        answers: every one begins with the same token and ends in `[SEP]`.
        first_twice: count the first token twice, as the published ranking does; its numbers depend on it.
    """
    count, device = len(questions.set_C), answers.ids_T.device
    k = min(k, len(answers))
    question_N = torch.arange(count, device=device)
    start_A = first_tokens(answers.lengths_N)
    keys_values = decoder.cross.keys_values(questions)
    begin = Texts.pack([[int(answers.ids_T[0]), int(answers.ids_T[0])]])  # only the first token is looked at
    begin = begin.to(device)
    first_ND = decoder.states(begin, torch.zeros_like(question_N), questions, question_N, keys_values)
    first_NV = decoder.predict(first_ND).log_softmax(-1)
    first_NA = first_NV.index_select(1, answers.ids_T[start_A + 1])
    best_Nk = first_NA.topk(k, dim=1)
    answer_R, question_R = best_Nk.indices.flatten(), question_N.repeat_interleave(k)
    token_T, lengths_R, _ = gather_segments(answers.lengths_N, answer_R)
    at_M, row_M = followed(lengths_R)
    # Rows stand sorted by question, answers repeat: a row is its own text here.
    rows = Texts(answers.ids_T[token_T], lengths_R, answers.longest)
    row_R = torch.arange(len(answer_R), device=device)
    logits_MV = decoder.predict(decoder.states(rows, row_R, questions, question_R, keys_values))
    loss_M = F.cross_entropy(logits_MV, rows.ids_T[at_M + 1], reduction="none")
    score_Nk = -loss_M.new_zeros(len(answer_R)).index_add(0, row_M, loss_M).view(count, k)
    if first_twice:
        score_Nk = score_Nk + best_Nk.values
    order_Nk = score_Nk.argsort(dim=1, descending=True, stable=True)
    probability_Nk = score_Nk.gather(1, order_Nk).softmax(1)
    return Ranked(best_Nk.indices.gather(1, order_Nk), probability_Nk)
