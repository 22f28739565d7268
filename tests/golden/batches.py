"""Golden batches in the form of the pre-training task, and stand-ins for the sampling of negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.golden.files import WHOLE, packed
from xvlm.batch import Concepts, Images, Texts
from xvlm.boxes import cxcywh_to_xyxy
from xvlm.losses.contrastive import similarity
from xvlm.losses.negatives import Negatives
from xvlm.tasks.common.pretraining_batch import PretrainBatch


def image_batch(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> PretrainBatch:
    """Return the batch of images with one text each."""
    count = inputs["text_ids"].shape[0]
    whole = Concepts(torch.arange(count), WHOLE.expand(count, 4), torch.zeros(count, dtype=torch.bool))
    return _batch(inputs, "", whole, dtype, pairs=count)


def region_batch(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> PretrainBatch:
    """Return the batch of images with several concepts each; those of `region_is_image` have no box."""
    has_box_N = inputs["region_is_image"] == 0
    box_N4 = cxcywh_to_xyxy(inputs["region_bbox_cxcywh"]).float()
    box_N4 = torch.where(has_box_N[:, None], box_N4, WHOLE)
    return _batch(inputs, "region_", Concepts(inputs["region_idx"], box_N4, has_box_N), dtype, pairs=0)


def concatenate(first: Texts, second: Texts) -> Texts:
    """Concatenate two batches of texts."""
    return Texts(
        torch.cat((first.ids_T, second.ids_T)),
        torch.cat((first.lengths_N, second.lengths_N)),
        max(first.longest, second.longest),
    )


def _batch(
    inputs: dict[str, Tensor], part: str, concepts: Concepts, dtype: torch.dtype, pairs: int
) -> PretrainBatch:
    mask_NL = inputs[f"{part}text_atts"]
    texts = [packed(inputs[f"{part}{name}"], mask_NL) for name in ("text_ids", "text_ids_masked")]
    rows = torch.arange(len(concepts))
    used_NM = inputs[f"{part}masked_ids"] != -100
    return PretrainBatch(
        images=Images(inputs[f"{part}image"].to(dtype)),
        texts=concatenate(*texts),
        concepts=concepts,
        concept_key_N=rows,
        text_key_N=rows,
        fused_F=rows,
        masked_row_M=rows[:, None].expand_as(used_NM)[used_NM],
        masked_position_M=inputs[f"{part}masked_pos"][used_NM],
        masked_target_M=inputs[f"{part}masked_ids"][used_NM],
        pairs=pairs,
    )


def published_negatives(concept_N: Tensor, text_N: Tensor):
    """Stand in for `sample_negatives`: return the negatives that the published model sampled."""

    def sample(*_: object) -> Negatives:
        return Negatives(torch.arange(len(concept_N)), concept_N, text_N)

    return sample


def hardest_negatives(
    concept_NE: Tensor,
    text_NE: Tensor,
    temperature: Tensor,
    positive_FN: Tensor,
    row_F: Tensor,
    uniform_ratio: float = 0.0,
    *_: object,
) -> Negatives:
    """Stand in for `sample_negatives`: return the most probable candidates."""

    def hardest(similarity_FN: Tensor) -> Tensor:
        return ((similarity_FN.softmax(1) + 1e-5) * ~positive_FN).argmax(1)

    return Negatives(
        row_F,
        hardest(similarity(text_NE[row_F], concept_NE, temperature)),
        hardest(similarity(concept_NE[row_F], text_NE, temperature)),
    )
