"""Cleaning of texts, normalization of answers, patches of a box and RefCOCO's IoU, case by case."""

from __future__ import annotations

import pytest
import torch

from tests.published import golden
from xvlm.boxes import iou_inclusive_pixels, patches_touched
from xvlm.data.text.cleaning import clean_caption, clean_question
from xvlm.metrics.vqa import normalize_answer
from xvlm.records import BadRecord

FILE = "text_and_boxes.json"


def test_captions_are_cleaned_as_published() -> None:
    for text, expected in golden(FILE, "pre_caption_max_words_40"):
        if isinstance(expected, dict):
            with pytest.raises(BadRecord, match="no text left"):
                clean_caption(text, 40)
        else:
            assert clean_caption(text, 40) == expected


def test_questions_are_cleaned_as_published() -> None:
    for text, expected in golden(FILE, "pre_question_max_words_30"):
        assert clean_question(text, 30) == expected


def test_answers_are_normalized_as_in_the_official_code() -> None:
    for text, expected in golden(FILE, "vqa_answer_normalised"):
        assert normalize_answer(text) == expected, text


def test_inclusive_pixels_agree_with_the_published_tool() -> None:
    for case in golden(FILE, "refcoco_iou_inclusive_pixels"):
        a, b = (torch.tensor(case[name], dtype=torch.float64) for name in ("a_xywh", "b_xywh"))
        assert iou_inclusive_pixels(a, b).item() == pytest.approx(case["iou"], abs=1e-12), case


def test_patches_agree_with_the_published_rule() -> None:
    for case in golden(FILE, "box_to_patches_half_open_row_major_without_cls"):
        x, y, w, h = case["box_xywh"]
        side, grid = case["patch_size"] * case["grid"], case["grid"]
        # In float32, as a batch holds them.
        box_xyxy = torch.tensor([[x / side, y / side, (x + w) / side, (y + h) / side]], dtype=torch.float32)
        assert patches_touched(box_xyxy, (grid, grid))[0].nonzero().flatten().tolist() == case["patches"], (
            case
        )


def test_the_file_has_no_other_entries() -> None:
    assert set(golden(FILE)) == {
        "pre_caption_max_words_40",
        "pre_question_max_words_30",
        "vqa_answer_normalised",
        "refcoco_iou_inclusive_pixels",
        "box_to_patches_half_open_row_major_without_cls",
    }
