"""How fast photos are indexed, beside the encoder alone, and how fast a second run finds nothing to do.

The encoder alone gets decoded pixels; indexing reads and decodes them meanwhile on the same processors.  For
example:

    python benchmarks/index_rate.py --model runs/photos --photos photos/images --out runs/rate
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro

from xvlm.search.encode import encode_photos, read_photos
from xvlm.search.index import Index
from xvlm.search.photos import PhotoFile, list_photos
from xvlm.search.windows import image_vectors


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        model: model folder, or folder of a run.
        photos: folder of photos.
        out: folder for the index and links to the photos.
        count: photos that are encoded in each round.
        rounds: rounds of reading, encoding and indexing, alternating.
        unchanged: files of the second run; links to the photos, of which each content is encoded once.
    """

    model: Path
    photos: Path
    out: Path
    count: int = 320
    rounds: int = 5
    unchanged: int = 20_000


@torch.no_grad()
def main(study: Study) -> None:
    """Print the rates."""
    shutil.rmtree(study.out, ignore_errors=True)
    index = Index.create(study.out / "index", study.model)
    predictor, windows = index.predictor, index.window_C4
    files = [
        one for one in islice(list_photos([str(study.photos)]), study.count) if isinstance(one, PhotoFile)
    ]
    rates: dict[str, list[float]] = {
        "read and decoded": [],
        "encoded": [],
        "both, as one after the other": [],
    }
    rates["indexed"] = []
    for _ in range(study.rounds):
        begin = time.perf_counter()
        read = [one for one in read_photos(predictor, files, (), 4, 64) if not isinstance(one, Exception)]
        decoded = time.perf_counter()
        for start in range(0, len(read), 32):
            pixels = [one.pixels for one in read[start : start + 32] if one.pixels is not None]
            image_vectors(predictor, predictor.encode_images(pixels), windows).half().cpu().numpy()
        encoded = time.perf_counter()
        rows = list(encode_photos(predictor, files, windows))
        end = time.perf_counter()
        rates["read and decoded"].append(len(read) / (decoded - begin))
        rates["encoded"].append(len(read) / (encoded - decoded))
        rates["both, as one after the other"].append(len(read) / (encoded - begin))
        rates["indexed"].append(len(rows) / (end - encoded))
    for name, values in rates.items():
        print(f"{name}: {np.median(values):.1f} photos/s")
    ratios = [one / other for one, other in zip(rates["indexed"], rates["encoded"], strict=True)]
    print(f"indexed / encoded: {np.median(ratios):.2f}")
    # Each content is encoded once: an update knows the contents that earlier ones have encoded.
    listed = study.out / "photos.txt"
    listed.write_text("\n".join(file.path for file in files))
    index.update([str(listed)])
    links = study.out / "photos"
    for number in range(study.unchanged):
        link = links / f"{number % 100:02}" / f"{number}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(files[number % len(files)].path).absolute())
    print(index.update([str(links)]).summary())
    begin = time.perf_counter()
    again = index.update([str(links)])
    seconds = time.perf_counter() - begin
    print(f"{again.unchanged} unchanged files in {seconds:.2f} s: {again.unchanged / seconds:.0f} files/s")


if __name__ == "__main__":
    main(tyro.cli(Study))
