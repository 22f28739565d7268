"""What the steps of pre-training, and of fine-tuning that shares its losses, are made of."""

from __future__ import annotations

from dataclasses import dataclass

from xvlm.ranges import CropScale, MaxTokens, NonNegativeFloat, NonNegativeInt, PositiveInt, Probability
from xvlm.tasks._build import SourceConfig


@dataclass(frozen=True)
class DataConfig:
    """What a step is made of.

    Attributes:
        pairs, regions: sources of the two parts; an empty part is left out.
        pairs_batch, regions_batch: images of each part in a global batch.
        captions: captions shown with each image of the pairs part.
        max_regions: texts shown with each image of the regions part.
        region_turns: batches of regions for each of pairs (published: 0.5).  Every step holds its share of
            them; in faithful mode a whole one takes an optimiser step of its own, before that of the pairs,
            in as many steps (published: by chance; here evenly spread).
        region_rows: in faithful mode, texts of a global batch of regions: if there are more, some are left
            out, if there are fewer, some stand there twice (published: 1024); 0: as many as there are.
        region_texts: of these, how many may speak of the same concept.
        fused_per_image: see `Collate`.
        region_captions: whether a caption may be one of them.
        boxes_as_captions: whether the pairs part shows texts of regions too, as texts of the whole image.
        scale: of the pairs part's random crops.
        crop, flip, rand_augment: see `data/transforms.py`.
        max_words, max_tokens, word_dropout: see `TextView`; max_masks: see `mask_tokens`.
        stem_views: with a frozen stem: views of each image that are kept instead (`train/stem_cache.py`);
            0 computes the stem in every step.
        stem_cache: folder for them; empty: in the run's folder.
    """

    pairs: tuple[SourceConfig, ...] = ()
    regions: tuple[SourceConfig, ...] = ()
    pairs_batch: PositiveInt = 64
    regions_batch: PositiveInt = 16
    captions: PositiveInt = 1
    max_regions: PositiveInt = 5
    region_turns: NonNegativeFloat = 1.0
    region_rows: NonNegativeInt = 0
    region_texts: PositiveInt = 1
    fused_per_image: NonNegativeInt = 0
    region_captions: bool = True
    boxes_as_captions: bool = False
    scale: CropScale = (0.2, 1.0)
    crop: bool = True
    flip: bool = True
    rand_augment: bool = True
    max_words: PositiveInt = 40
    max_tokens: MaxTokens = 40
    max_masks: PositiveInt = 8
    word_dropout: Probability = 0.0
    stem_views: NonNegativeInt = 0
    stem_scale: CropScale = (0.4, 1.0)
    stem_cache: str = ""
