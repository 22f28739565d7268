"""Data of pre-training steps, and of fine-tuning that shares the losses of pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xvlm import distributed
from xvlm.common.ranges import (
    CropScale,
    MaxTokens,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Probability,
)
from xvlm.data.loading.loader import StepDataset
from xvlm.data.loading.streams import DataStream, SampleBuilder
from xvlm.data.samples.builders import PairSampleBuilder, RegionSampleBuilder
from xvlm.data.samples.cached_views import CachedFeatureViews, CachedPairTransform, CachedRegionTransform
from xvlm.data.samples.text_rows import TextRowBuilder
from xvlm.data.samples.transforms import PairTransform, RegionTransform
from xvlm.data.sources.source import Source
from xvlm.data.text.flip import FlipRule
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.tasks.common.pretraining_batch import STREAMS, PretrainCollate
from xvlm.tasks.common.setup import FeatureCacheConfig
from xvlm.tasks.common.sources import SourceConfig, mixture_weights


@dataclass(frozen=True)
class DataConfig:
    """Data of a step.

    Attributes:
        pairs: sources of images with captions; empty: there is no such data stream.
        regions: sources of images with regions; empty: there is no such data stream.
        pairs_batch_size: images with captions in a global batch.
        regions_batch_size: images with regions in a global batch.
        captions_per_image: captions of each image of the pairs stream in a step.
        max_regions: maximum number of texts of each image of the regions stream in a step.
        region_step_ratio: batches of regions for each batch of pairs (published: 0.5).  Every step holds its
            fraction of a batch; in faithful mode whole batches take optimiser steps of their own, before that
            of the pairs, in this fraction of the steps (published: at random; here evenly spaced).
        region_texts_per_batch: texts of a global batch of regions in faithful mode, where some are dropped or
            repeated to reach the number (published: 1024); 0 keeps them all.
        texts_per_region: maximum number of texts of one region among them.
        fused_per_image: texts of each image that take part in matching and masked language modelling, which
            cost four passes of the cross-modal encoder; 0 uses all (published).
        absent_texts: texts of each image of the regions stream that describe nothing in it, for the detection
            losses; fewer if its record has fewer.
        region_captions: whether a caption of the whole image may be one of the texts of the regions stream.
        boxes_as_captions: whether the pairs stream also uses texts of regions, as captions of the image.
        crop_scale: range of a random crop's area in the pairs stream, as a fraction of the image's.
        random_crop: whether to crop at random; else the whole image is resized.
        random_flip: whether to flip images horizontally at random, their texts with them.
        rand_augment: whether to apply RandAugment.
        max_words: words of a text that are used.
        max_tokens: tokens of a text that are used, special tokens included.
        max_masks: maximum number of masked tokens of a text.
        word_dropout: fraction of the words of a caption that are dropped at random.
        cached_views: random crops of each image whose features after the frozen stem are cached, see
            `training/feature_cache.py`; 0 computes the stem in every step.
        cached_crop_scale: range of the cached crops' area, as a fraction of the image's.
        feature_cache: folder of the cached features; empty: a folder in the run's folder.
    """

    pairs: tuple[SourceConfig, ...] = ()
    regions: tuple[SourceConfig, ...] = ()
    pairs_batch_size: PositiveInt = 64
    regions_batch_size: PositiveInt = 16
    captions_per_image: PositiveInt = 1
    max_regions: PositiveInt = 5
    region_step_ratio: NonNegativeFloat = 1.0
    region_texts_per_batch: NonNegativeInt = 0
    texts_per_region: PositiveInt = 1
    fused_per_image: NonNegativeInt = 0
    absent_texts: NonNegativeInt = 0
    region_captions: bool = True
    boxes_as_captions: bool = False
    crop_scale: CropScale = (0.2, 1.0)
    random_crop: bool = True
    random_flip: bool = True
    rand_augment: bool = True
    max_words: PositiveInt = 40
    max_tokens: MaxTokens = 40
    max_masks: PositiveInt = 8
    word_dropout: Probability = 0.0
    cached_views: NonNegativeInt = 0
    cached_crop_scale: CropScale = (0.4, 1.0)
    feature_cache: str = ""


STREAM_FIELDS = {
    "pairs": ("captions_per_image", "boxes_as_captions"),
    "regions": ("max_regions", "texts_per_region", "absent_texts", "region_captions"),
}
"""Fields of `DataConfig` that have an effect only if the data stream has a source."""


def without_stream(data: DataConfig, stream: str) -> DataConfig:
    """Return the configuration without a data stream; its other fields go back to their defaults."""
    names = (stream, *STREAM_FIELDS[stream])
    return replace(data, **{name: getattr(DataConfig(), name) for name in names})


def feature_cache_folder(data: DataConfig, out: Path) -> Path:
    """Return the folder of the cached features of a run in folder `out`."""
    return Path(data.feature_cache) if data.feature_cache else out / "stem"


def cached_features_of(
    data: DataConfig, sources: Mapping[str, Sequence[Source]], out: Path
) -> FeatureCacheConfig | None:
    """Return which features are computed before training; `None` for none."""
    if not data.cached_views:
        return None
    by_name = {source.name: source for several in sources.values() for source in several}
    folder = feature_cache_folder(data, out)
    return FeatureCacheConfig(folder, list(by_name.values()), data.cached_views, data.cached_crop_scale)


def step_dataset(
    run: Any, sources: Mapping[str, Sequence[Source]], bundle: ModelBundle, out: Path, flip_rule: FlipRule
) -> StepDataset:
    """Build the dataset of training steps of a `PretrainRun`, whose module imports this one."""
    data = run.data
    builders = sample_builders(run, bundle, out, flip_rule)
    batch_sizes, separate, texts_per_batch = run.batch_sizes(), {}, 0
    if run.faithful:
        separate = {"regions": data.region_step_ratio} if sources["pairs"] else {}
        texts_per_batch = data.region_texts_per_batch // (distributed.world_size() * run.accumulation_steps)
    streams = [
        DataStream(
            name,
            sources[name],
            batch_sizes[name],
            builders[name],
            mixture_weights(getattr(data, name), sources[name]),
            separate_step_ratio=separate.get(name, 0.0),
        )
        for name in STREAMS
        if sources[name]
    ]
    return StepDataset(
        streams,
        PretrainCollate(data.fused_per_image, texts_per_batch),
        run.seed,
        distributed.rank(),
        distributed.world_size(),
        run.accumulation_steps,
    )


def sample_builders(
    run: Any, bundle: ModelBundle, out: Path, flip_rule: FlipRule
) -> dict[str, SampleBuilder]:
    """Return what makes samples of records, by data stream."""
    data = run.data
    text = TextRowBuilder(
        bundle.tokenizer,
        data.max_words,
        data.max_tokens,
        mask_probability=0.25 if run.losses.mlm else 0.0,
        max_masks=data.max_masks,
        faithful=run.faithful,
        word_dropout=data.word_dropout,
    )
    captions = replace(text, with_phrases=run.losses.phrases > 0)
    size, augment = bundle.model.config.vision.image_hw, (2, 7) if data.rand_augment else None
    crop, flip = data.random_crop, data.random_flip
    pairs: PairTransform | CachedPairTransform
    regions: RegionTransform | CachedRegionTransform
    if data.cached_views:
        views = CachedFeatureViews(feature_cache_folder(data, out))
        pairs = CachedPairTransform(views, flip, flip_rule)
        regions = CachedRegionTransform(views, flip, flip_rule)
    else:
        pairs = PairTransform(size, data.crop_scale, crop, flip, augment, flip_rule)
        regions = RegionTransform(size, crop, flip, augment, flip_rule)
    return {
        "pairs": PairSampleBuilder(pairs, captions, data.captions_per_image, data.boxes_as_captions),
        "regions": RegionSampleBuilder(
            regions,
            text,
            data.max_regions,
            data.texts_per_region,
            data.region_captions,
            data.absent_texts,
        ),
    }
