"""Pre-training of a small model on procedural scenes, within minutes on 2 CPU cores."""

from __future__ import annotations

from xvlm.common.ranges import PositiveInt
from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import PRETRAINING, ModelConfig
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


def recipe(scenes: PositiveInt = 8000) -> PretrainRun:
    """Pre-train on procedural scenes.

    Args:
        scenes: number of different training scenes, each rendered once and kept in memory.
    """
    train = (SourceConfig(f"scenes:train:{scenes}", cache_in_memory=True),)
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
            heads=(*PRETRAINING, "detection"),
        ),
        init=InitConfig(vocab_size=400, vocab_records=1000),
        data=DataConfig(
            pairs=train,
            regions=train,
            pairs_batch_size=16,
            regions_batch_size=16,
            max_regions=12,
            texts_per_region=3,
            fused_per_image=1,
            absent_texts=2,
            region_captions=False,
            random_crop=False,
            rand_augment=False,
        ),
        losses=LossConfig(bbox=5.0, giou=2.0, detection=1.0),
        optim=OptimConfig(
            steps=1550, lr=1.5e-3, warmup_steps=100, weight_decay=0.02, ema_decay=0.995, schedule="cosine"
        ),
        workers=1,
        save_every=100,
    )
