"""Scenes from nothing: a small model learns to ground and retrieve within minutes on 2 CPU cores."""

from __future__ import annotations

from xvlm.model.text import TextConfig
from xvlm.model.vision import VisionConfig
from xvlm.model.xvlm import ModelConfig
from xvlm.ranges import PositiveInt
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


def recipe(scenes: PositiveInt = 8000) -> PretrainRun:
    """Pre-training on procedural scenes.

    Args:
        scenes: number of different training scenes, each drawn once and kept in memory.
    """
    train = (SourceConfig(f"scenes:train:{scenes}", cache=True),)
    return PretrainRun(
        recipe="demo",
        model=ModelConfig(
            vision=VisionConfig(
                "resnet10t",
                (128, 128),
                options={"output_stride": 16, "stem_width": 8, "channels": [32, 64, 96, 160]},
            ),
            text=TextConfig(
                width=160,
                heads=5,
                mlp_width=320,
                text_layers=2,
                cross_layers=3,
                max_positions=64,
                dropout=0.0,
            ),
            embed_dim=96,
            box_head="point",
        ),
        init=Init(vocab_size=400, corpus=1000),
        data=DataConfig(
            pairs=train,
            regions=train,
            pairs_batch=16,
            regions_batch=16,
            max_regions=12,
            region_texts=3,
            fused_per_image=1,
            region_captions=False,
            crop=False,
            rand_augment=False,
        ),
        losses=LossConfig(bbox=5.0, giou=2.0),
        optim=OptimConfig(steps=1900, lr=1.5e-3, warmup=100, weight_decay=0.02, ema=0.995, schedule="cosine"),
        workers=1,
        save_every=100,
    )
