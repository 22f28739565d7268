"""The ranking of candidate answers, against the probability of each answer token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import IMAGE_HW, tiny_config
from xvlm.batch import Images, Texts
from xvlm.models.generation.answer_ranking import question_context, rank_answers
from xvlm.models.generation.decoder import next_token_positions
from xvlm.models.xvlm import build_model

ANSWERS = [[2, 7, 3], [2, 7, 9, 3], [2, 11, 12, 13, 3], [2, 14, 3], [2, 11, 3]]


@pytest.mark.parametrize("first_twice", [True, False])
@pytest.mark.parametrize("k", [2, 5, 99])
def test_answers_with_the_most_probable_first_token_are_ranked_by_all_tokens(
    first_twice: bool, k: int
) -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny_config("cnn"), heads=("vqa_decoder",))).double().eval()
    for parameter in model.vqa_decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    pixels = torch.randint(0, 256, (3, 3, *IMAGE_HW), dtype=torch.uint8)
    questions = Texts.pack([[2, 5, 6], [2, 8], [2, 9, 10, 11, 12]])
    with torch.no_grad():
        context = question_context(model, model.encode_images(Images(pixels)), questions, torch.arange(3))
        answers = Texts.pack(ANSWERS)
        ranked = rank_answers(model.vqa_decoder, context, answers, k, first_twice)
        index_M, answer_M = next_token_positions(answers.lengths_N)
        for question in range(3):
            rows = torch.full((len(ANSWERS),), question)
            logits = model.vqa_decoder(answers, torch.arange(len(ANSWERS)), context, rows)
            log_M = logits.log_softmax(-1).gather(1, answers.ids_T[index_M + 1][:, None])[:, 0]
            total_A = torch.zeros(len(ANSWERS), dtype=log_M.dtype).index_add(0, answer_M, log_M)
            first_A = torch.stack([log_M[answer_M == number][0] for number in range(len(ANSWERS))])
            selected_k = first_A.topk(min(k, len(ANSWERS))).indices
            score_k = total_A[selected_k] + (first_A[selected_k] if first_twice else 0)
            order_k = score_k.argsort(descending=True)
            # Answers with the same first token tie, and either may be selected.
            if k >= len(ANSWERS):
                assert ranked.answer_Qk[question].tolist() == selected_k[order_k].tolist()
            torch.testing.assert_close(ranked.probability_Qk[question], score_k[order_k].softmax(0))
