"""The published fine-tuning for question answering on VQA v2 with Visual Genome, at 384 pixels."""

from __future__ import annotations

from xvlm.recipes._published import FLOAT32
from xvlm.run import OptimConfig
from xvlm.tasks._build import Init, SourceConfig
from xvlm.tasks._finetune import FinetuneData
from xvlm.tasks.vqa import VQARun

PUBLISHED = FLOAT32


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> VQARun:
    """Ten passes over train, val and Visual Genome's questions, as for the test server.

    Args:
        model: pre-trained model folder.
        root: folder with vqa_train.json, vqa_val.json and vg_qa.json, published form.
        images: folder with `coco` and `visualgenome`.
    """
    files = {"vqa_train": "coco", "vqa_val": "coco", "vg_qa": "visualgenome"}
    train = tuple(SourceConfig(f"{root}/{name}.json", f"{images}/{where}") for name, where in files.items())
    return VQARun(
        recipe="vqa",
        init=Init(model=model, image_size=384),
        data=FinetuneData(train=train, batch=192, max_words=30),
        optim=OptimConfig(epochs=10, lr=5e-5, warmup_share=0.1, weight_decay=0.01, clip=0.0),
        precision="bf16",
        workers=4,
    )
