"""How far the exported graphs of each task are from PyTorch, at the sizes of the published models.

Each is a base model with random weights; `xvlm export` compares its graphs with the model at 1 and 7 rows and
1 and 40 tokens.  For example:

    python benchmarks/onnx_parity.py --out runs/onnx-parity
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from xvlm.data.text.tokenizer import Tokenizer
from xvlm.export.export import export
from xvlm.models.checkpoints.folder import ModelBundle, save_model
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import PRETRAINING, ModelConfig, build_model

SWIN, VIT = "swin_base_patch4_window7_224", "vit_base_patch16_clip_quickgelu_224"
TEXTS = ("the dog on the left of the bench",)
ENTAILMENT = ("contradiction", "entailment", "neutral")
CASES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "pretraining": (SWIN, 224, PRETRAINING),
    "pretraining, CLIP-ViT": (VIT, 224, PRETRAINING),
    "retrieval, grounding": (SWIN, 384, PRETRAINING),
    "detection": (SWIN, 384, (*PRETRAINING, "detection")),
    "entailment": (SWIN, 384, ("classifier",)),
    "image pairs": (SWIN, 384, ("pair_classifier",)),
    "captioning": (SWIN, 384, ("caption_decoder",)),
    "question answering": (SWIN, 384, ("vqa_decoder",)),
    "question answering, 480": (SWIN, 480, ("vqa_decoder",)),
}
"""Task: image encoder, side of the images in pixels, heads."""


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        out: folder for models and graphs, which are removed after each case.
        cases: names of cases; by default all.
    """

    out: Path
    cases: tuple[str, ...] = tuple(CASES)


def write_model(name: str, size: int, heads: tuple[str, ...], texts: Sequence[str], folder: Path) -> Path:
    """Write a base model with random weights, and a tokenizer that knows the words of some texts."""
    tokenizer = Tokenizer.train_wordpiece(list(texts) * 5, 200)
    options = {"window_size": size // 32} if name == SWIN else {}
    vision = VisionConfig(name, (size, size), options)
    labels = ENTAILMENT if "classifier" in heads else ()
    torch.manual_seed(0)
    model = build_model(ModelConfig(vision, TextConfig(), heads=heads, labels=labels))
    prompt = "a picture of " if "caption_decoder" in heads else ""
    return save_model(ModelBundle(model.eval(), tokenizer, prompt=prompt), folder)


def main(study: Study) -> None:
    """Export all models."""
    study.out.mkdir(parents=True, exist_ok=True)
    for case in study.cases:
        name, size, heads = CASES[case]
        model = write_model(name, size, heads, TEXTS, study.out / "model")
        start = time.perf_counter()
        differing = export(model, study.out / "onnx")
        text = ", ".join(f"{graph} {one:.1g}" for graph, one in differing.items())
        print(f"{case} ({size} pixels): {text}; {time.perf_counter() - start:.0f} s", flush=True)
        for folder in ("model", "onnx"):
            shutil.rmtree(study.out / folder)


if __name__ == "__main__":
    main(tyro.cli(Study))
