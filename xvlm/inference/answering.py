"""Visual question answering: answers are generated, or ranked if candidates are given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from xvlm.batch import Texts
from xvlm.data.text.query_reader import checked_texts
from xvlm.inference.answers import TOP_ANSWERS, Answer
from xvlm.inference.model import InferenceModel
from xvlm.models.generation.answer_ranking import question_context, rank_answers
from xvlm.models.generation.config import GenerationConfig
from xvlm.models.generation.generate import generate
from xvlm.models.vision.encoder import ImageFeatures


@torch.no_grad()
def answer_questions(
    model: InferenceModel,
    features: ImageFeatures,
    questions: Sequence[str],
    images: Sequence[int],
    answers: Sequence[str] | None = None,
    num_beams: int = 3,
    rank_k: int = 128,
) -> list[list[Answer]]:
    """Answer questions about B images.

    Args:
        images: index of each question's image.
        answers: candidate answers; `None` generates the answer.
        num_beams: beams of the search for a generated answer.
        rank_k: candidates that are ranked by all their tokens, those with the most probable first token
            (published: 128).
    Returns:
        the best answers to each question, most probable first: up to 5 candidates, or the generated one.
    Raises:
        MissingHead: the model has no answer decoder.
    """
    ids = [model.reader.encode_question(one).ids for one in checked_texts(questions, "questions")]
    decoder = model.model.vqa_decoder
    image_Q = torch.tensor(images, device=model.device)
    context = question_context(model.model, features, Texts.pack(ids).to(model.device), image_Q)
    if answers is None:
        config = GenerationConfig(num_beams, min_tokens=0, max_tokens=model.max_tokens)
        generated = generate(decoder, context, [model.tokenizer.cls_id], model.tokenizer.sep_id, config)
        return [[Answer(model.decode(one.ids), math.exp(one.log_probability))] for (one,) in generated]
    candidates = model.reader.encode_answers(answers, decoder.max_length)
    packed = Texts.pack([list(ids) for ids in candidates]).to(model.device)
    ranked = rank_answers(decoder, context, packed, rank_k)
    texts = list(candidates.values())
    best = ranked.answer_Qk[:, :TOP_ANSWERS].tolist(), ranked.probability_Qk[:, :TOP_ANSWERS].tolist()
    return [
        [Answer(texts[index], probability) for index, probability in zip(indices, row, strict=True)]
        for indices, row in zip(*best, strict=True)
    ]
