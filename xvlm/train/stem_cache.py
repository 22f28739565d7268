"""Compute the frozen stem of an encoder once for several views of every image, and keep it.

Resumable: finished blocks of images are not computed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from xvlm.batch import Images
from xvlm.data.images import open_image
from xvlm.data.limits import in_workers
from xvlm.data.sources import Source
from xvlm.data.transforms import random_resized_crop
from xvlm.errors import InputError
from xvlm.model.vision import VisionEncoder
from xvlm.progress import tracked
from xvlm.records import BadRecord
from xvlm.run import write_json

BLOCK = 512
"""Images between savings."""

View = tuple[Tensor, list[tuple[float, float, float, float]], list[bool]]


class _Views(Dataset[tuple[str, View | BadRecord]]):
    """Image i -> its views as (V, 3, h, w) uint8, their crops, and which are mirrored.

    View 0 is the whole image, view 1 the whole image mirrored; the others are random crops of which every
    second one is mirrored.
    """

    def __init__(
        self, sources: Sequence[Source], size_hw: tuple[int, int], views: int, scale: tuple[float, float]
    ) -> None:
        self.places = [(source, i) for source in sources for i in range(len(source))]
        self.size_hw, self.views, self.scale = size_hw, views, scale

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[str, View | BadRecord]:
        source, place = self.places[index]
        rng = np.random.default_rng([7, index])
        try:
            record = source[place]
            opened = open_image(record.image, key=record.key)
            whole = (0.0, 0.0, float(opened.width), float(opened.height))
            crops = [whole, whole] + [
                random_resized_crop(opened.width, opened.height, self.scale, rng)
                for _ in range(self.views - 2)
            ]
            mirrored = [view % 2 == 1 for view in range(self.views)]
            pixels = [F.pil_to_tensor(opened.resized(crop, self.size_hw)) for crop in crops]
        except BadRecord as error:
            return f"{source.name}[{place}]", error
        flipped = [p.flip(-1) if m else p for p, m in zip(pixels, mirrored, strict=True)]
        return record.key, (torch.stack(flipped), crops, mirrored)


def keep_stem(
    encoder: VisionEncoder,
    sources: Sequence[Source],
    folder: Path,
    views: int,
    scale: tuple[float, float] = (0.4, 1.0),
    workers: int = 1,
) -> Path:
    """Fill `folder` with `views` (an even number, at least 2) views of every image of the sources.

    Bad images are left out; the view that asks for one then counts it as bad.
    """
    if views < 2 or views % 2:
        raise InputError(f"views is {views}; it must be an even number from 2 up")
    if encoder.stem is None:
        raise InputError("the vision encoder has no frozen stem; set stem_blocks")
    data = _Views(sources, encoder.config.image_hw, views, scale)
    print_of_stem = _fingerprint(encoder.stem)
    encoder.eval()
    with torch.inference_mode():
        probe = encoder.stem(torch.zeros(1, 3, *encoder.config.image_hw))
    shape = (len(data), views, *probe.shape[1:])
    about = {
        "stem": print_of_stem,
        "shape": list(shape),
        "scale": list(scale),
        "sources": [s.name for s in sources],
    }
    done_path = folder / "progress.json"
    progress: dict[str, Any] = {"about": about, "keys": [], "seconds": 0.0}
    if done_path.exists():
        before = json.loads(done_path.read_text())
        progress = before if before["about"] == about else progress
    if len(progress["keys"]) == len(data):
        _finish(folder, progress)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "views.json").unlink(missing_ok=True)
    begun = time.monotonic() - progress["seconds"]
    start = len(progress["keys"])
    mode = "r+" if start else "w+"
    features = np.memmap(folder / "features.bf16", dtype=np.int16, mode=mode, shape=shape)  # type: ignore[call-overload]
    crops = np.load(folder / "crops.npy") if start else np.zeros((len(data), views, 4), np.float32)
    mirrored = np.load(folder / "mirrored.npy") if start else np.zeros((len(data), views), bool)
    loader = DataLoader(
        data,
        batch_size=None,
        sampler=range(start, len(data)),
        num_workers=workers,
        worker_init_fn=in_workers(),
    )
    seen = tracked(loader, "keeping the stem of images", len(data), start)
    for index, (key, found) in enumerate(seen, start=start):
        if isinstance(found, BadRecord):
            progress["keys"].append(None)
        else:
            pixels, crop, mirror = found
            with torch.inference_mode():
                x = encoder.normalised(Images(pixels)).contiguous(memory_format=torch.channels_last)
                out = encoder.stem(x).to(torch.bfloat16).contiguous()
            features[index] = out.view(torch.int16).numpy()
            crops[index], mirrored[index] = crop, mirror
            progress["keys"].append(key)
        last = index + 1 == len(data)
        if (index + 1) % BLOCK == 0 or last:
            features.flush()
            np.save(folder / "crops.npy", crops)
            np.save(folder / "mirrored.npy", mirrored)
            progress["seconds"] = time.monotonic() - begun
            write_json(done_path, progress)
    _finish(folder, progress)
    return folder


def _finish(folder: Path, progress: dict[str, Any]) -> None:
    """Only a folder with `views.json` is complete."""
    write_json(
        folder / "views.json",
        progress["about"] | {"keys": progress["keys"], "seconds": progress["seconds"]},
    )


def stem_seconds(folder: Path) -> float:
    """How long it took to fill a folder, over all sittings."""
    return float(json.loads((folder / "views.json").read_text())["seconds"])


def _fingerprint(stem: nn.Module) -> str:
    """Changes when a weight of the stem does."""
    digest = hashlib.blake2b(digest_size=8)
    for value in stem.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
