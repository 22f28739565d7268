"""The fine-tuned models as the published code computes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.golden import files
from tests.golden.files import assert_same
from tests.published import golden
from xvlm.batch import Concepts, Images
from xvlm.losses.box import box_losses
from xvlm.losses.contrastive import contrastive_loss, same_thing
from xvlm.losses.language import next_token_loss, sum_by_text
from xvlm.losses.matching import matching_loss
from xvlm.model.answers import question_states, rank_answers
from xvlm.model.attention_map import attention_maps
from xvlm.model.decoder import followed
from xvlm.model.generate import Limits, Writer, beam_search, greedy, write
from xvlm.predict import match_logits

LIMITS = Limits(end=3, min_length=6, max_length=14)


def encoded(model, images):
    """Whole images as concepts."""
    return model.encode_concepts(model.encode_images(Images(images)), Concepts.none("cpu"))


def test_grounding_at_384() -> None:
    model = files.model("swin224", image_size=golden("config.json")["swin384"]["image_res"])
    given, published = files.tensors("grounding384_inputs"), files.tensors("grounding384_outputs")
    state = model.vision.model.state_dict()
    for stage in (0, 3):
        table = state[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"]
        assert_same(table, published[f"relpos{stage}"], f"relpos{stage}")
    concepts, cls_CD = encoded(model, given["image"])
    assert_same(
        torch.cat((cls_CD[:, None], concepts.tokens_SPD), 1), published["image_embeds"], "image_embeds"
    )
    rows = torch.arange(len(cls_CD))
    texts = model.encode_texts(files.packed(given["text_ids"], given["text_atts"]))
    predicted = model.predict_box(model.fuse(texts, rows, concepts, rows).cls_RD, concepts, rows)
    assert_same(predicted, published["pred_cxcywh"], "pred_cxcywh")
    l1, giou = box_losses(predicted, given["bbox_cxcywh"])
    assert_same(l1, published["loss_l1"], "loss_l1")
    assert_same(giou, published["loss_giou"], "loss_giou")


def test_retrieval_losses_where_two_rows_show_one_image() -> None:
    model, given, published = (
        files.model("swin224"),
        files.tensors("retrieval224_inputs"),
        files.tensors("retrieval224_outputs"),
    )
    concepts, cls_CD = encoded(model, given["image"])
    texts = model.encode_texts(files.packed(given["text_ids"], given["text_atts"]))
    rows = torch.arange(len(cls_CD))
    head = model.contrastive
    embedded = head.embed_concepts(cls_CD), head.embed_texts(texts.summary_ND)
    for faithful in (False, True):
        loss = contrastive_loss(*embedded, head.temperature, given["idx"], rows, faithful, "image")
        assert_same(loss, published["loss_itc"], f"loss_itc, faithful={faithful}")
    concept_R = torch.cat((rows, published["neg_image_idx"], rows))
    text_R = torch.cat((rows, rows, published["neg_text_idx"]))
    same = same_thing(given["idx"], rows, given["idx"], rows)
    assert (
        not same[rows, published["neg_image_idx"]].any() and not same[rows, published["neg_text_idx"]].any()
    )
    logits = model.match(model.fuse(texts, text_R, concepts, concept_R).cls_RD)
    assert_same(
        matching_loss(logits, torch.arange(len(text_R)) < len(rows)), published["loss_itm"], "loss_itm"
    )


def test_two_stage_scores() -> None:
    model, given, published = (
        files.model("swin224"),
        files.tensors("retrieval224_inputs"),
        files.tensors("retrieval224_outputs"),
    )
    concepts, cls_CD = encoded(model, given["eval_image"])
    texts = model.encode_texts(files.packed(given["eval_text_ids"], given["eval_text_atts"]))
    head = model.contrastive
    sims_IT = head.embed_concepts(cls_CD) @ head.embed_texts(texts.summary_ND).T
    assert_same(sims_IT, published["sims_i2t"], "sims_i2t")
    for key, sims_QC in (("scores_i2t_top4", sims_IT), ("scores_t2i_top4", sims_IT.T)):
        best_Qk = sims_QC.topk(4, dim=1).indices
        query_R, candidate_R = torch.arange(len(sims_QC)).repeat_interleave(4), best_Qk.flatten()
        image_R, text_R = (query_R, candidate_R) if "i2t" in key else (candidate_R, query_R)
        logit_R = match_logits(model, concepts, texts, image_R, text_R, published=True)
        scores_QC = torch.full_like(sims_QC, -100).index_put((query_R, candidate_R), logit_R)
        assert_same(scores_QC, published[key], key)


def test_weak_grounding_map() -> None:
    model, given, published = (
        files.model("swin224"),
        files.tensors("weakground224_inputs"),
        files.tensors("weakground224_outputs"),
    )
    concepts, cls_CD = encoded(model, given["image"])
    mask_NL = given["text_atts"]
    texts = model.encode_texts(files.packed(given["text_ids"], mask_NL))
    layer = golden("config.json", "weak_grounding_block") - len(model.text.layers)
    rows = torch.arange(len(cls_CD))
    found = attention_maps(model, texts, rows, concepts, rows, [layer])[0]
    share_N = mask_NL.sum(1) / mask_NL.shape[1]  # the published mean is over padded tokens too
    assert_same(
        found * share_N[:, None, None], published["gradcam_last_cross_layer"], "gradcam_last_cross_layer"
    )


def test_reasoning_over_pairs() -> None:
    model, given, published = (
        files.model("nlvr224"),
        files.tensors("nlvr224_inputs"),
        files.tensors("nlvr224_outputs"),
    )
    concepts, _ = encoded(model, torch.cat((given["image0"], given["image1"])))
    texts = model.encode_texts(files.packed(given["text_ids"], given["text_atts"]))
    rows = torch.arange(len(texts.summary_ND))
    logits = model.judge_pairs(model.fuse(texts, rows, concepts, rows).cls_RD)
    assert_same(logits, published["logits"], "logits")
    assert_same(F.cross_entropy(logits, given["label"]), published["loss"], "loss")


def test_answers() -> None:
    model, given, published = (
        files.model("vqa224"),
        files.tensors("vqa224_inputs"),
        files.tensors("vqa224_outputs"),
    )
    questions = files.packed(given["question_ids"], given["question_atts"])
    rows = torch.arange(len(questions))
    looked_at = question_states(model, model.encode_images(Images(given["image"])), questions, rows)
    answers = files.packed(given["answer_ids"], given["answer_atts"])
    question_R = rows.repeat_interleave(given["answers_per_question"])
    answer_R = torch.arange(len(answers))
    at_M, row_M = followed(answers.lengths_N)
    logits = model.answers(answers, answer_R, looked_at, question_R)
    loss_R = sum_by_text(next_token_loss(logits, answers.ids_T[at_M + 1]), row_M, len(answers))
    assert_same((given["answer_weights"] * loss_R).sum() / len(rows), published["loss"], "loss")
    ranked = rank_answers(model.answers, looked_at, answers, published["rank_top4_ids"].shape[1])
    assert torch.equal(ranked.answer_Nk, published["rank_top4_ids"])
    assert_same(ranked.probability_Nk, published["rank_top4_probs"], "rank_top4_probs")


def test_captions() -> None:
    model, given, published = (
        files.model("caption224"),
        files.tensors("caption224_inputs"),
        files.tensors("caption224_outputs"),
    )
    concepts, cls_CD = encoded(model, given["image"])
    mask_NL, ids_NL = given["caption_atts"], given["caption_ids"]
    texts, rows = files.packed(ids_NL, mask_NL), torch.arange(len(cls_CD))
    at_M, row_M = followed(texts.lengths_N)
    logits = model.captions(texts, rows, concepts, rows)
    place_M = at_M - (texts.lengths_N.cumsum(0) - texts.lengths_N)[row_M]
    assert_same(logits, published["logits"][row_M, place_M], "logits")
    prompt = given["prompt_ids"].tolist()
    told_M = place_M + 1 >= len(prompt)  # nothing is learnt from writing the prompt
    loss_M = next_token_loss(logits, texts.ids_T[at_M + 1], smoothing=0.1, faithful=True)
    assert_same(loss_M[told_M].mean(), published["loss"], "loss")


@pytest.mark.parametrize(("key", "beams"), [("greedy_ids", 1), ("beam3_ids", 3)])
def test_written_captions(key: str, beams: int) -> None:
    model, given, published = (
        files.model("caption224"),
        files.tensors("caption224_inputs"),
        files.tensors("caption224_outputs"),
    )
    concepts, cls_CD = encoded(model, given["image"])
    writer = Writer(model.captions, concepts, torch.arange(len(cls_CD)), beams)
    prompt = given["prompt_ids"].tolist()
    if beams == 1:
        found = [one.ids for one in write(writer, prompt, LIMITS, greedy)]
    else:
        found = [one.ids for one in beam_search(writer, prompt, LIMITS, beams)]
    assert found == [text_of(row.tolist(), len(prompt)) for row in published[key]]


def text_of(ids: list[int], start: int) -> list[int]:
    """A row of ids up to its end."""
    ends = [place for place, token in enumerate(ids) if place >= start and token == LIMITS.end]
    return ids[: ends[0]] if ends else ids
