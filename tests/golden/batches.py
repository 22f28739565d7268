"""Golden batches as the pre-training task takes them, and negatives that are given instead of drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.golden.files import WHOLE, packed
from xvlm.batch import Concepts, Images, Texts
from xvlm.boxes import cxcywh_to_xyxy
from xvlm.losses.contrastive import similarity
from xvlm.losses.matching import Negatives
from xvlm.tasks._batch import PretrainBatch


def image_batch(given: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> PretrainBatch:
    """The batch of images with a text each."""
    count = given["text_ids"].shape[0]
    whole = Concepts(torch.arange(count), WHOLE.expand(count, 4), torch.zeros(count, dtype=torch.bool))
    return _batch(given, "", whole, dtype, pairs=count)


def region_batch(given: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> PretrainBatch:
    """The batch of images with several concepts each; `region_is_image` have no box."""
    has_box_N = given["region_is_image"] == 0
    box_N4 = cxcywh_to_xyxy(given["region_bbox_cxcywh"]).float()
    box_N4 = torch.where(has_box_N[:, None], box_N4, WHOLE)
    return _batch(given, "region_", Concepts(given["region_idx"], box_N4, has_box_N), dtype, pairs=0)


def _batch(
    given: dict[str, Tensor], part: str, concepts: Concepts, dtype: torch.dtype, pairs: int
) -> PretrainBatch:
    mask_NL = given[f"{part}text_atts"]
    texts = [packed(given[f"{part}{name}"], mask_NL) for name in ("text_ids", "text_ids_masked")]
    rows = torch.arange(len(concepts))
    used_NM = given[f"{part}masked_ids"] != -100
    return PretrainBatch(
        images=Images(given[f"{part}image"].to(dtype)),
        texts=Texts.cat(texts),
        concepts=concepts,
        concept_key_N=rows,
        text_key_N=rows,
        fused_F=rows,
        masked_row_M=rows[:, None].expand_as(used_NM)[used_NM],
        masked_place_M=given[f"{part}masked_pos"][used_NM],
        masked_target_M=given[f"{part}masked_ids"][used_NM],
        pairs=pairs,
    )


def given_negatives(concept_N: Tensor, text_N: Tensor):
    """In place of `draw_negatives`: those that the published model drew."""

    def draw(*_: object) -> Negatives:
        return Negatives(torch.arange(len(concept_N)), concept_N, text_N)

    return draw


def hardest_negatives(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    same_QN: Tensor,
    asked_Q: Tensor,
    easy: float = 0.0,
) -> Negatives:
    """In place of `draw_negatives`: the likeliest draw."""

    def hardest(similarity_QN: Tensor) -> Tensor:
        return ((similarity_QN.softmax(1) + 1e-5) * ~same_QN).argmax(1)

    return Negatives(
        asked_Q,
        hardest(similarity(text_NE[asked_Q], concept_NE, temperature)),
        hardest(similarity(concept_NE[asked_Q], text_NE, temperature)),
    )
