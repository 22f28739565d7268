"""Small models, batches, photographs and runs, for tests of everything above the data room."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xvlm.config import OptimConfig
from xvlm.data.samples.builders import Sample
from xvlm.data.samples.text_rows import TextRow
from xvlm.data.text.tokenizer import Tokenizer
from xvlm.models.checkpoints.folder import ModelBundle
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import PRETRAINING, XVLM, ModelConfig, build_model
from xvlm.records import BoxXYXY
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.pretraining_batch import PretrainBatch, collate
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import DataConfig, LossConfig, Pretrain, PretrainRun

IMAGE_HW = (64, 96)
VOCABULARY = 60

TEXT = TextConfig(
    vocab_size=VOCABULARY,
    width=32,
    heads=4,
    mlp_width=48,
    text_layers=2,
    cross_layers=2,
    max_positions=48,
    dropout=0.0,
)

VISION = {
    "cnn": VisionConfig(
        "resnet10t", IMAGE_HW, {"output_stride": 16, "stem_width": 8, "channels": [8, 8, 16, 24]}
    ),
    "swin": VisionConfig(
        "swin_tiny_patch4_window7_224",
        IMAGE_HW,
        {
            "embed_dim": 8,
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 4],
            "window_size": 2,
            "drop_path_rate": 0.0,
        },
    ),
    "vit": VisionConfig(
        "deit_tiny_patch16_224", IMAGE_HW, {"embed_dim": 24, "depth": 3, "num_heads": 3}, local_depth=2
    ),
    "convnext": VisionConfig("convnext_atto", IMAGE_HW, {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 24]}),
}
"""Kinds of timm models: CNN (map of (D, h, w)), Swin (map of (h, w, D)), ViT; a CNN without BatchNorm."""

KINDS = list(VISION)


def tiny_config(
    kind: str = "cnn",
    image_hw: tuple[int, int] = IMAGE_HW,
    box_head: str = "mlp",
    heads: tuple[str, ...] = PRETRAINING,
    **text: Any,
) -> ModelConfig:
    """A model configuration with one of the `VISION` towers; `text` overrides fields of `TEXT`."""
    vision = replace(VISION[kind], image_hw=image_hw)
    return ModelConfig(
        vision=vision, text=replace(TEXT, **text), embed_dim=16, box_head=box_head, heads=heads
    )


def tiny_model(kind: str = "cnn", seed: int = 0, **config: Any) -> XVLM:
    """Random weights, the same for the same seed; larger than BERT's, so that no term of a sum is lost."""
    torch.manual_seed(seed)
    model = build_model(tiny_config(kind, **config))
    with torch.no_grad():
        for part in (model.text, model.fusion, *([model.mlm] if "mlm" in model.config.heads else [])):
            for name, parameter in part.named_parameters():
                if "norm" not in name:
                    parameter.normal_(0, 0.2)
    return model


def tiny_task(
    kind: str = "cnn", losses: LossConfig | None = None, faithful: bool = False, **config: Any
) -> Pretrain:
    """Pre-training of a tiny model."""
    return Pretrain(tiny_model(kind, **config), losses or LossConfig(), faithful)


def toy_row(
    rng: np.random.Generator, length: int, box_xyxy: BoxXYXY | None, concept_key: int, text_key: int
) -> TextRow:
    """A text of `length` random tokens, some of them hidden (none of a text that is `[CLS]` alone)."""
    ids = [2, *rng.integers(5, VOCABULARY, length - 1).tolist()]
    count = min(length - 1, max(1, length // 4))
    positions = sorted((1 + rng.permutation(length - 1)[:count]).tolist())
    masked = [4 if place in positions else token for place, token in enumerate(ids)]
    targets = () if box_xyxy is None else (box_xyxy,)
    hidden = [ids[p] for p in positions]
    return TextRow(ids, masked, positions, hidden, box_xyxy, concept_key, text_key, targets_xyxy=targets)


def toy_box(rng: np.random.Generator) -> BoxXYXY:
    """Anywhere in the image, not empty."""
    x, y = np.sort(rng.random(2)), np.sort(rng.random(2))
    return (float(x[0]) * 0.9, float(y[0]) * 0.9, float(x[1]) * 0.9 + 0.1, float(y[1]) * 0.9 + 0.1)


def toy_samples(
    rows_per_image: Sequence[int], seed: int = 0, boxes: bool = True, image_hw: tuple[int, int] = IMAGE_HW
) -> list[Sample]:
    """Images of noise; texts have 1 to 9 tokens, the first of all has 1.

    The first row of an image with several rows has no box, as a caption; two rows of the first such image
    share their text, so that not every other row is a negative.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for image, count in enumerate(rows_per_image):
        rows = []
        for place in range(count):
            boxed = boxes and (place > 0 or count == 1)
            length = 1 if image == place == 0 else int(rng.integers(2, 10))
            key = seed * 1000 + image * 10 + place
            text_key = key - 1 if image == 0 and place == 2 else key
            rows.append(toy_row(rng, length, toy_box(rng) if boxed else None, key, text_key))
        pixels = torch.from_numpy(rng.integers(0, 256, (3, *image_hw), dtype=np.uint8))
        samples.append(Sample(pixels, tuple(rows)))
    return samples


def toy_parts(
    pairs: int = 3, regions: Sequence[int] = (3, 1, 4), image_hw: tuple[int, int] = IMAGE_HW
) -> dict[str, list[Sample]]:
    """Samples of both parts of a pre-training step."""
    return {
        "pairs": toy_samples([1] * pairs, seed=1, boxes=False, image_hw=image_hw),
        "regions": toy_samples(regions, seed=2, image_hw=image_hw),
    }


def toy_batch(
    pairs: int = 3, regions: Sequence[int] = (3, 1, 4), image_hw: tuple[int, int] = IMAGE_HW
) -> PretrainBatch:
    """One pre-training batch, ragged."""
    return collate(toy_parts(pairs, regions, image_hw))


def tiny_run(kind: str = "cnn", steps: int = 4, **fields: Any) -> PretrainRun:
    """Pre-training of a tiny model on 64-pixel scenes; `fields` override fields of the run."""
    scenes = (SourceConfig("scenes:train:24?image_size=64"),)
    run = PretrainRun(
        model=tiny_config(kind, (64, 64), vocab_size=TextConfig.vocab_size),
        init=InitConfig(vocab_size=150),
        data=DataConfig(
            pairs=scenes, regions=scenes, pairs_batch_size=4, regions_batch_size=4, max_regions=3
        ),
        optim=OptimConfig(steps=steps, lr=3e-3, warmup_steps=2),
        workers=0,
        save_every=0,
    )
    return replace(run, **fields)


WORDS = [
    "red",
    "blue",
    "green",
    "small",
    "large",
    "round",
    "dog",
    "cat",
    "tree",
    "car",
    "above",
    "beside",
    "the",
]


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder: Path, count: int, first_bad: bool = False) -> Path:
    """`photos.jsonl` in the published region form, beside its JPEG files; sizes differ.

    Args:
        first_bad: the first file is cut in half.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    lines = []
    for number in range(count):
        width, height = int(rng.integers(40, 120)), int(rng.integers(40, 120))
        path = folder / f"{number}.jpg"
        photo(width, height, number).save(path, quality=90)
        if first_bad and number == 0:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elems = [
            {"caption": phrase(rng, 2), "attributes": [], "bb": [2.0, 3.0, width / 2, height / 3]},
            {"caption": phrase(rng, 3), "attributes": ["old"], "bb": [width / 3, height / 2, width / 3, 12]},
        ]
        lines.append({"image": path.name, "caption": [phrase(rng, 5), phrase(rng, 4)], "elems": elems})
    out = folder / "photos.jsonl"
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def phrase(rng: np.random.Generator, words: int) -> str:
    """Random words of a small vocabulary."""
    return " ".join(rng.choice(WORDS, words).tolist())


def tiny_tokenizer() -> Tokenizer:
    """A WordPiece vocabulary that knows `WORDS`."""
    return Tokenizer.train_wordpiece([" ".join(WORDS)] * 5, 200)


def tiny_loaded(kind: str = "cnn", seed: int = 0, heads: tuple[str, ...] = PRETRAINING) -> ModelBundle:
    """A model with random weights, ready to predict."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(kind, seed, vocab_size=tokenizer.vocab_size, heads=heads)
    return ModelBundle(model.eval(), tokenizer, 30, 20)


def tiny_loaded_for(part: str, labels: tuple[str, ...] = ()) -> ModelBundle:
    """A model with one part, and weights large enough to have opinions."""
    tokenizer = tiny_tokenizer()
    config = replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), heads=(part,), labels=labels)
    torch.manual_seed(1)
    model = build_model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return ModelBundle(model.eval(), tokenizer, 30, 20, prompt="the " if part == "caption_decoder" else "")


def with_sources(run: Any) -> Any:
    """The run with a source, which does not exist, wherever it may have some."""
    parts = [name for name in ("train", "pairs", "regions") if hasattr(run.data, name)]
    source = (SourceConfig("none.jsonl"),)
    return replace(run, data=replace(run.data, **dict.fromkeys(parts, source)))
