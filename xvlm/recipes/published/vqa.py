"""The published fine-tuning for question answering on VQA v2 with Visual Genome, at 384 pixels."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.vqa import VQARun

PUBLISHED = FLOAT32


def recipe(model: str = "runs/base", root: str = "data/finetune", images: str = "images") -> VQARun:
    """Fine-tune for ten epochs on train, val and Visual Genome's questions, as for the test server.

    Args:
        model: pre-trained model folder.
        root: folder with vqa_train.json, vqa_val.json and vg_qa.json, published form.
        images: folder with `coco` and `visualgenome`.
    """
    files = {"vqa_train": "coco", "vqa_val": "coco", "vg_qa": "visualgenome"}
    train = tuple(SourceConfig(f"{root}/{name}.json", f"{images}/{where}") for name, where in files.items())
    return VQARun(
        recipe="published/vqa",
        init=InitConfig(model=model, image_size=384),
        data=FinetuneData(train=train, batch_size=192, max_words=30),
        optim=OptimConfig(epochs=10, lr=5e-5, warmup_ratio=0.1, weight_decay=0.01, max_grad_norm=0.0),
        precision="bf16",
        workers=4,
    )
