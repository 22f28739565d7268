"""Fine-tuning for visual entailment (SNLI-VE) at 384 pixels, with ALBEF's published length and rate."""

from __future__ import annotations

from xvlm.config import OptimConfig
from xvlm.recipes.common.faithful import FLOAT32
from xvlm.tasks.common.finetuning import FinetuneData
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.validation import TaskValidation
from xvlm.tasks.entailment import EntailmentRun

PUBLISHED = FLOAT32


def recipe(
    model: str = "runs/base", root: str = "data/finetune", images: str = "images/flickr30k-images"
) -> EntailmentRun:
    """Fine-tune for five epochs on SNLI-VE.

    X-VLM did not publish this task.  Five passes of 8 x 32 hypotheses at 2e-5 and side 384, cosine decay to
    1e-6 and weight decay 0.02 are ALBEF's (configs/VE.yaml); everything else (warm-up, betas, crops, words,
    the head and its rate) is as in X-VLM's own fine-tuning, without ALBEF's momentum distillation.

    Args:
        model: pre-trained model folder.
        root: folder with snli_ve_train.jsonl and snli_ve_dev.jsonl as SNLI-VE releases them.
        images: folder with the images of Flickr30k.
    """
    return EntailmentRun(
        recipe="published/entailment",
        init=InitConfig(model=model, image_size=384),
        data=FinetuneData(
            train=(SourceConfig(f"{root}/snli_ve_train.jsonl", images),), batch_size=256, max_words=30
        ),
        optim=OptimConfig(
            epochs=5,
            lr=2e-5,
            warmup_ratio=0.1,
            schedule="cosine",
            final_lr_ratio=0.05,
            weight_decay=0.02,
            max_grad_norm=0.0,
        ),
        validation=TaskValidation(f"{root}/snli_ve_dev.jsonl", images),
        best_metric="entailment_acc",
        precision="bf16",
        workers=4,
    )
