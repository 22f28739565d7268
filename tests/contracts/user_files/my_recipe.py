"""A recipe outside the package: a tiny model on squares."""

from dataclasses import replace

from tests.tiny import tiny_run
from xvlm.common.ranges import PositiveInt
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.pretrain import PretrainRun

PUBLISHED = {"data.pairs_batch_size": 8}


def recipe(size: PositiveInt = 8, source: str = "./my_source.py") -> PretrainRun:
    """Pre-train on squares.

    Args:
        size: number of images.
        source: data source of the squares.
    """
    squares = (SourceConfig(f"{source}:train?size={size}"),)
    run = tiny_run("vit", steps=1)
    return replace(run, data=replace(run.data, pairs=squares, regions=squares), init=replace(run.init))
