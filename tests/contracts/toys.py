"""A toy run for every task: a tiny model on a few drawn scenes.

A new file in `xvlm/tasks` is tested as soon as it has an entry here, and fails until it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.tiny import tiny_run
from xvlm.tasks._build import SourceConfig


def pretrain() -> Any:
    """Four pictures with a caption each and two with up to three regions each, as they are."""
    run = tiny_run("cnn", steps=3)
    four = (SourceConfig("scenes:train:4?image_size=64"),)
    return replace(
        run,
        data=replace(
            run.data,
            pairs=four,
            regions=four,
            pairs_batch=4,
            regions_batch=4,
            crop=False,
            flip=False,
            rand_augment=False,
        ),
    )


RUNS: dict[str, Callable[[], Any]] = {"pretrain": pretrain}
