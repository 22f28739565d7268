"""The published pre-training on 4 million images: Swin-B and BERT-base, 204,795 steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xvlm.config import OptimConfig
from xvlm.models.text.encoder import TextConfig
from xvlm.models.vision.encoder import VisionConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.prepare.mix import read_mix
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import DataConfig, PretrainRun

SWIN = "swin_base_patch4_window7_224.ms_in22k"
PAIRS = ("coco", "vg", "sbu", "cc3m")
REGIONS = ("coco_objs", "vg_objs", "vg_regions")
PUBLISHED = {"data.region_texts_per_batch": 1024}


def recipe(
    root: str = "data/pretrain",
    text: str = "bert-base-uncased",
    vision: str = "timm",
    mix: str = "",
) -> PretrainRun:
    """Pre-train on COCO, Visual Genome, SBU and CC3M.

    The published code takes a step on 1,024 pairs, and before every second one another step on 1,024 regions
    of 384 images, as `--faithful` does; without it one step holds the pairs and half as many regions.  The
    rate falls to 0 over 41 x 4,995 steps; the checkpoint that was released is that of step 199,999.

    Args:
        root: folder with a folder or file of image-text lines (coco, vg, sbu, cc3m) and of region lines
            (coco_objs, vg_objs, vg_regions) each.
        text: BERT that initialises the text stack, a folder or hub id.
        vision: "timm" for Swin's weights from ImageNet-22k, or a file with them.
        mix: file of a mix (`xvlm prepare mix`), whose sources are used in place of those in `root`.
    """
    return PretrainRun(
        recipe="published/base_4m",
        model=ModelConfig(VisionConfig(SWIN), TextConfig()),
        init=InitConfig(vision=vision, text=text),
        data=DataConfig(
            **streams(root, PAIRS, REGIONS, mix),
            pairs_batch_size=1024,
            regions_batch_size=384,
            max_regions=5,
            region_step_ratio=0.5,
        ),
        optim=OptimConfig(steps=204_795, lr=1e-4, warmup_steps=2500, weight_decay=0.01),
        precision="bf16",
        workers=4,
        save_every=2000,
    )


def sources(root: str, names: Sequence[str]) -> tuple[SourceConfig, ...]:
    """Return one source for each folder or file of published lines in `root`."""
    return tuple(SourceConfig(f"{root}/{name}") for name in names)


def streams(root: str, pairs: Sequence[str], regions: Sequence[str], mix: str) -> dict[str, Any]:
    """Return the sources of both streams: folders or files of published lines in `root`, or a mix's."""
    if not mix:
        return {"pairs": sources(root, pairs), "regions": sources(root, regions)}
    found = read_mix(mix)
    return {
        kind: tuple(SourceConfig(one.path, one.image_root, one.weight) for one in getattr(found, kind))
        for kind in ("pairs", "regions")
    }
