"""Weights of the losses of pre-training, and how negatives are chosen."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.common.ranges import NonNegativeFloat, NonNegativeInt, Probability


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses in the total; a loss of weight 0 is not computed.

    Attributes:
        itc: weight of the image-text contrastive loss, of both data streams.
        itm: weight of the image-text matching loss, of both data streams.
        mlm: weight of the masked language modelling loss, of both data streams.
        bbox: weight of the L1 loss of boxes.
        giou: weight of the generalised IoU loss of boxes.
        uniform_negative_ratio: fraction of the matching loss's negatives that are sampled uniformly, instead
            of in proportion to the contrastive similarity.  With 0 (published), a new cross-modal encoder on
            well-aligned encoders learns nothing for long, for the encoders cannot tell any of its negatives
            from the positives (measured in docs/results.md).
        global_negatives: whether negatives are sampled from the rows of all ranks, instead of this rank's own
            (published).  They are harder, and cost the patches and text states of all ranks on every rank.
        detection: weight of the losses of the detection head, of the regions stream (published: 0).  They
            train presence on the texts of regions and on absent ones (`data.absent_texts`), and places and
            boxes on everything that a text describes.
        phrases: weight of the contrastive loss of captions by their phrases, each with its best patch, of the
            pairs stream (published: 0).  It trains what `phrase_weight` of `xvlm eval retrieval` ranks by.
        all_pairs: number of texts of the pairs stream, on each rank and in each micro-batch, that are matched
            with the images of all of them instead of with one negative each; 0: none (published).  A new
            cross-modal encoder learns much more from such a step, which costs `all_pairs` squared passes.
    """

    itc: NonNegativeFloat = 1.0
    itm: NonNegativeFloat = 1.0
    mlm: NonNegativeFloat = 1.0
    bbox: NonNegativeFloat = 1.0
    giou: NonNegativeFloat = 1.0
    detection: NonNegativeFloat = 0.0
    phrases: NonNegativeFloat = 0.0
    uniform_negative_ratio: Probability = 0.0
    global_negatives: bool = False
    all_pairs: NonNegativeInt = 0
