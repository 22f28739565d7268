"""Ranking of candidate answers (VQA) by the probability that the decoder gives to them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from xvlm.batch import Texts
from xvlm.models.generation.decoder import Decoder, next_token_positions
from xvlm.models.text.attention import ConceptTokens
from xvlm.models.text.packing import Packing, padded_indices, select_segments
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.models.xvlm import XVLM


class RankedAnswers(NamedTuple):
    """The best answers to each of Q questions, best first.

    Attributes:
        answer_Qk: (Q, k) int64 indices of the answers.
        probability_Qk: (Q, k) probabilities among these k answers.
    """

    answer_Qk: Tensor
    probability_Qk: Tensor


def question_context(
    model: XVLM, features: ImageFeatures, questions: Texts, image_Q: Tensor
) -> ConceptTokens:
    """Encode questions with their images: a context for the decoder, in which each question is a concept.

    Args:
        image_Q: (Q,) int64 image of each question.
    """
    concepts, _ = model.encode_whole(features)
    texts = model.encode_texts(questions)
    question_Q = torch.arange(len(questions), device=image_Q.device)
    fused = model.fuse(texts, question_Q, concepts, image_Q)
    states_TD = fused.states_TD.index_select(0, fused.token_indices(questions.lengths_N))
    token_QL = padded_indices(texts.packing.start_S, questions.longest, len(states_TD))
    return ConceptTokens(
        states_TD.index_select(0, token_QL.flatten()).unflatten(0, token_QL.shape),
        question_Q,
        torch.arange(questions.longest, device=image_Q.device) < questions.lengths_N[:, None],
        mean_summary=False,
        grid_hw=(1, questions.longest),
    )


def rank_answers(
    decoder: Decoder, questions: ConceptTokens, answers: Texts, k: int, first_twice: bool = True
) -> RankedAnswers:
    """Select the k answers with the most probable first token, and rank them by all their tokens (published).

    Args:
        questions: result of `question_context`.
        answers: A answers; all begin with the same token and end with `[SEP]`.
        first_twice: whether the first token is counted twice, as the published ranking does.
    """
    count, device = len(questions.set_C), answers.ids_T.device
    k = min(k, len(answers))
    question_Q = torch.arange(count, device=device)
    packing = Packing.from_texts(answers)
    keys_values = decoder.cross.keys_values(questions)
    begin = Texts.pack([[int(answers.ids_T[0])] * 2]).to(device)  # the state of the last token is not used
    begin_Q = torch.zeros_like(question_Q)
    first_QD = decoder.states(decoder.text(begin, causal=True), begin_Q, questions, question_Q, keys_values)
    first_QV = decoder.predict(first_QD).log_softmax(-1)
    first_QA = first_QV.index_select(1, answers.ids_T[packing.start_S + 1])
    best_Qk = first_QA.topk(k, dim=1)
    answer_R, question_R = best_Qk.indices.flatten(), question_Q.repeat_interleave(k)
    token_T, selected = select_segments(packing, answer_R)
    lengths_R = selected.lengths_S
    index_M, row_M = next_token_positions(lengths_R)
    # Every row has its own copy of the answer, since rows are sorted by question and answers repeat.
    rows = Texts(answers.ids_T[token_T], lengths_R, answers.longest)
    row_R = torch.arange(len(answer_R), device=device)
    states_MD = decoder.states(decoder.text(rows, causal=True), row_R, questions, question_R, keys_values)
    loss_M = F.cross_entropy(decoder.predict(states_MD), rows.ids_T[index_M + 1], reduction="none")
    score_Qk = -loss_M.new_zeros(len(answer_R)).index_add(0, row_M, loss_M).view(count, k)
    if first_twice:
        score_Qk = score_Qk + best_Qk.values
    order_Qk = score_Qk.argsort(dim=1, descending=True, stable=True)
    probability_Qk = score_Qk.gather(1, order_Qk).softmax(1)
    return RankedAnswers(best_Qk.indices.gather(1, order_Qk), probability_Qk)
