"""The ranking of given answers, against every answer's probability token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny import IMAGE_HW, tiny_config
from xvlm.batch import Images, Texts
from xvlm.model.answers import question_states, rank_answers
from xvlm.model.decoder import followed
from xvlm.model.xvlm import build_model

ANSWERS = [[2, 7, 3], [2, 7, 9, 3], [2, 11, 12, 13, 3], [2, 14, 3], [2, 11, 3]]


@pytest.mark.parametrize("first_twice", [True, False])
@pytest.mark.parametrize("k", [2, 5, 99])
def test_ranked_by_all_tokens_among_those_with_the_likeliest_first_one(first_twice: bool, k: int) -> None:
    torch.manual_seed(0)
    model = build_model(replace(tiny_config("cnn"), parts=("answers",))).double().eval()
    for parameter in model.answers.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    pixels = torch.randint(0, 256, (3, 3, *IMAGE_HW), dtype=torch.uint8)
    questions = Texts.pack([[2, 5, 6], [2, 8], [2, 9, 10, 11, 12]])
    with torch.no_grad():
        looked_at = question_states(model, model.encode_images(Images(pixels)), questions, torch.arange(3))
        answers = Texts.pack(ANSWERS)
        found = rank_answers(model.answers, looked_at, answers, k, first_twice)
        at_M, answer_M = followed(answers.lengths_N)
        for question in range(3):
            rows = torch.full((len(ANSWERS),), question)
            logits = model.answers(answers, torch.arange(len(ANSWERS)), looked_at, rows)
            log_M = logits.log_softmax(-1).gather(1, answers.ids_T[at_M + 1][:, None])[:, 0]
            total_A = torch.zeros(len(ANSWERS), dtype=log_M.dtype).index_add(0, answer_M, log_M)
            first_A = torch.stack([log_M[answer_M == number][0] for number in range(len(ANSWERS))])
            kept = first_A.topk(min(k, len(ANSWERS))).indices
            score = total_A[kept] + (first_A[kept] if first_twice else 0)
            order = score.argsort(descending=True)
            # answers of the same first token tie there, and either may be kept
            if k >= len(ANSWERS):
                assert found.answer_Nk[question].tolist() == kept[order].tolist()
            expected = score[order].softmax(0)
            torch.testing.assert_close(found.probability_Nk[question], expected)
