"""The fine-tuned models compute what the published code computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.golden import files
from tests.golden.files import assert_same
from tests.published import golden
from xvlm.batch import Concepts, Images
from xvlm.inference.grounding import match_logits
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import contrastive_loss, same_concept_or_text
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.losses.matching import matching_loss
from xvlm.models.generation.answer_ranking import question_context, rank_answers
from xvlm.models.generation.beam_search import beam_search
from xvlm.models.generation.decoder import next_token_positions
from xvlm.models.generation.incremental import IncrementalDecoder
from xvlm.models.generation.sampling import generate_tokens, greedy_choice
from xvlm.models.generation.search import LengthLimits
from xvlm.models.text.grad_cam import grad_cam_maps

LIMITS = LengthLimits(end=3, min_length=6, max_length=14)


def encoded(model, images):
    """Encode whole images as concepts."""
    return model.encode_concepts(model.encode_images(Images(images)), Concepts.none("cpu"))


def test_grounding_at_384() -> None:
    model = files.model("swin224", image_size=golden("config.json")["swin384"]["image_res"])
    inputs, published = files.tensors("grounding384_inputs"), files.tensors("grounding384_outputs")
    state = model.vision.model.state_dict()
    for stage in (0, 3):
        table = state[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"]
        assert_same(table, published[f"relpos{stage}"], f"relpos{stage}")
    concepts, cls_CD = encoded(model, inputs["image"])
    assert_same(
        torch.cat((cls_CD[:, None], concepts.tokens_SPD), 1), published["image_embeds"], "image_embeds"
    )
    rows = torch.arange(len(cls_CD))
    texts = model.encode_texts(files.packed(inputs["text_ids"], inputs["text_atts"]))
    predicted = model.predict_box(model.fuse(texts, rows, concepts, rows).cls_RD, concepts, rows)
    assert_same(predicted, published["pred_cxcywh"], "pred_cxcywh")
    l1, giou = box_losses(predicted, inputs["bbox_cxcywh"])
    assert_same(l1, published["loss_l1"], "loss_l1")
    assert_same(giou, published["loss_giou"], "loss_giou")


def test_retrieval_losses_where_two_rows_show_one_image() -> None:
    model, inputs, published = files.case("swin224", "retrieval224")
    concepts, cls_CD = encoded(model, inputs["image"])
    texts = model.encode_texts(files.packed(inputs["text_ids"], inputs["text_atts"]))
    rows = torch.arange(len(cls_CD))
    head = model.contrastive
    embedded = head.embed_concepts(cls_CD), head.embed_texts(texts.cls_ND)
    for faithful in (False, True):
        loss = contrastive_loss(*embedded, head.temperature, inputs["idx"], rows, faithful, "image")
        assert_same(loss, published["loss_itc"], f"loss_itc, faithful={faithful}")
    concept_R = torch.cat((rows, published["neg_image_idx"], rows))
    text_R = torch.cat((rows, rows, published["neg_text_idx"]))
    same = same_concept_or_text(inputs["idx"], rows, inputs["idx"], rows)
    assert (
        not same[rows, published["neg_image_idx"]].any() and not same[rows, published["neg_text_idx"]].any()
    )
    logits = model.match(model.fuse(texts, text_R, concepts, concept_R).cls_RD)
    assert_same(
        matching_loss(logits, torch.arange(len(text_R)) < len(rows)), published["loss_itm"], "loss_itm"
    )


def test_two_stage_scores() -> None:
    model, inputs, published = files.case("swin224", "retrieval224")
    concepts, cls_CD = encoded(model, inputs["eval_image"])
    texts = model.encode_texts(files.packed(inputs["eval_text_ids"], inputs["eval_text_atts"]))
    head = model.contrastive
    sims_IT = head.embed_concepts(cls_CD) @ head.embed_texts(texts.cls_ND).T
    assert_same(sims_IT, published["sims_i2t"], "sims_i2t")
    for key, sims_QC in (("scores_i2t_top4", sims_IT), ("scores_t2i_top4", sims_IT.T)):
        best_Qk = sims_QC.topk(4, dim=1).indices
        query_R, candidate_R = torch.arange(len(sims_QC)).repeat_interleave(4), best_Qk.flatten()
        image_R, text_R = (query_R, candidate_R) if "i2t" in key else (candidate_R, query_R)
        logit_R = match_logits(model, concepts, texts, image_R, text_R, published=True)
        scores_QC = torch.full_like(sims_QC, -100).index_put((query_R, candidate_R), logit_R)
        assert_same(scores_QC, published[key], key)


def test_weak_grounding_map() -> None:
    model, inputs, published = files.case("swin224", "weakground224")
    concepts, cls_CD = encoded(model, inputs["image"])
    mask_NL = inputs["text_atts"]
    texts = model.encode_texts(files.packed(inputs["text_ids"], mask_NL))
    layer = golden("config.json", "weak_grounding_block") - len(model.text.layers)
    rows = torch.arange(len(cls_CD))
    actual = grad_cam_maps(model, texts, rows, concepts, rows, [layer])[0]
    ratio_N = mask_NL.sum(1) / mask_NL.shape[1]  # the published mean includes padded tokens
    assert_same(
        actual * ratio_N[:, None, None], published["gradcam_last_cross_layer"], "gradcam_last_cross_layer"
    )


def test_reasoning_over_pairs() -> None:
    model, inputs, published = files.case("nlvr224", "nlvr224")
    concepts, _ = encoded(model, torch.cat((inputs["image0"], inputs["image1"])))
    texts = model.encode_texts(files.packed(inputs["text_ids"], inputs["text_atts"]))
    rows = torch.arange(len(texts.cls_ND))
    logits = model.classify_pairs(model.fuse(texts, rows, concepts, rows).cls_RD)
    assert_same(logits, published["logits"], "logits")
    assert_same(F.cross_entropy(logits, inputs["label"]), published["loss"], "loss")


def test_answers() -> None:
    model, inputs, published = files.case("vqa224", "vqa224")
    questions = files.packed(inputs["question_ids"], inputs["question_atts"])
    rows = torch.arange(len(questions))
    context = question_context(model, model.encode_images(Images(inputs["image"])), questions, rows)
    answers = files.packed(inputs["answer_ids"], inputs["answer_atts"])
    question_R = rows.repeat_interleave(inputs["answers_per_question"])
    answer_R = torch.arange(len(answers))
    at_M, row_M = next_token_positions(answers.lengths_N)
    logits = model.vqa_decoder(answers, answer_R, context, question_R)
    loss_R = sum_by_text(next_token_loss(logits, answers.ids_T[at_M + 1]), row_M, len(answers))
    assert_same((inputs["answer_weights"] * loss_R).sum() / len(rows), published["loss"], "loss")
    ranked = rank_answers(model.vqa_decoder, context, answers, published["rank_top4_ids"].shape[1])
    assert torch.equal(ranked.answer_Qk, published["rank_top4_ids"])
    assert_same(ranked.probability_Qk, published["rank_top4_probs"], "rank_top4_probs")


def test_captions() -> None:
    model, inputs, published = files.case("caption224", "caption224")
    concepts, cls_CD = encoded(model, inputs["image"])
    mask_NL, ids_NL = inputs["caption_atts"], inputs["caption_ids"]
    texts, rows = files.packed(ids_NL, mask_NL), torch.arange(len(cls_CD))
    at_M, row_M = next_token_positions(texts.lengths_N)
    logits = model.caption_decoder(texts, rows, concepts, rows)
    position_M = at_M - (texts.lengths_N.cumsum(0) - texts.lengths_N)[row_M]
    assert_same(logits, published["logits"][row_M, position_M], "logits")
    prompt = inputs["prompt_ids"].tolist()
    learned_M = position_M + 1 >= len(prompt)  # the prompt has no loss
    loss_M = next_token_loss(logits, texts.ids_T[at_M + 1], label_smoothing=0.1, faithful=True)
    assert_same(loss_M[learned_M].mean(), published["loss"], "loss")


@pytest.mark.parametrize(("key", "beams"), [("greedy_ids", 1), ("beam3_ids", 3)])
def test_generated_captions(key: str, beams: int) -> None:
    model, inputs, published = files.case("caption224", "caption224")
    concepts, cls_CD = encoded(model, inputs["image"])
    decoder = IncrementalDecoder(model.caption_decoder, concepts, torch.arange(len(cls_CD)), beams)
    prompt = inputs["prompt_ids"].tolist()
    if beams == 1:
        actual = [one.ids for one in generate_tokens(decoder, prompt, LIMITS, greedy_choice)]
    else:
        actual = [one.ids for one in beam_search(decoder, prompt, LIMITS, beams)]
    assert actual == [text_of(row.tolist(), len(prompt)) for row in published[key]]


def text_of(ids: list[int], start: int) -> list[int]:
    """Return a row of ids up to its end token."""
    ends = [index for index, token in enumerate(ids) if index >= start and token == LIMITS.end]
    return ids[: ends[0]] if ends else ids
