"""What the cut-off of a search keeps and leaves out, on scenes, where every text is known to fit or not.

Texts that fit are captions of pictures of the index; texts that fit nothing are captions of other scenes that
describe no picture of the index.  For example:

    python benchmarks/search_cut_off.py --model runs/demo --out runs/cut
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from xvlm.common.progress import progress_bar
from xvlm.experiments.app import write_scenes
from xvlm.scenes import Scenes, is_true
from xvlm.search.index import Index


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        model: folder of a run, such as the demo's.
        out: folder of pictures and index.
        texts: number of texts that fit, and of texts that fit nothing.
        thresholds: further thresholds beside that of the model.
    """

    model: Path
    out: Path
    texts: int = 300
    thresholds: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5)


def main(study: Study) -> None:
    """Print the table."""
    pictures = write_scenes(study.out / "pictures")
    index = Index.create(study.out / "index", study.model)
    index.update([str(pictures)])
    count = len(index)
    shown = Scenes("test", count, image_size=256)
    scenes = [shown.scene(number) for number in range(count)]
    fitting = [text for number in range(study.texts) for text in captions(shown, number)][: study.texts]
    others = Scenes("train", 20 * study.texts, seed=9, image_size=256)
    absent: list[str] = []
    for number in range(len(others)):
        absent += [text for text in captions(others, number) if not any(is_true(text, one) for one in scenes)]
        if len(absent) >= study.texts:
            break
    absent = absent[: study.texts]
    kept: list[float] = []
    for text in progress_bar(fitting, "texts that fit", len(fitting)):
        true = {
            str((pictures / f"{number:04}.png").absolute())
            for number in range(count)
            if is_true(text, scenes[number])
        }
        hits = index.search(text, k=50, min_probability=0.0)
        kept += [hit.probability or 0.0 for hit in hits if hit.path in true]
    best = [
        max((hit.probability or 0.0 for hit in index.search(text, k=50, min_probability=0.0)), default=0.0)
        for text in progress_bar(absent, "texts that fit nothing", len(absent))
    ]
    search = index.predictor.calibration.search
    assert search is not None
    print(
        f"{count} pictures, {len(fitting)} texts that fit {len(kept)} found ones, {len(absent)} that fit none"
    )
    print("| smallest probability | fitting pictures kept | absent texts that find nothing |\n|---|---|---|")
    for threshold in sorted({search.threshold, *study.thresholds}):
        cells = [
            f"{100 * np.mean(np.array(kept) >= threshold):.1f} %",
            f"{100 * np.mean(np.array(best) < threshold):.1f} %",
        ]
        default = " (default)" if threshold == search.threshold else ""
        print(f"| {threshold:.2f}{default} | {' | '.join(cells)} |")


def captions(scenes: Scenes, number: int) -> list[str]:
    """Return the captions of a scene."""
    return [text for one in scenes[number].concepts if one.box_xyxy is None for text in one.texts[:1]]


if __name__ == "__main__":
    main(tyro.cli(Study))
