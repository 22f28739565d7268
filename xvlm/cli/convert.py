"""`xvlm convert`: checkpoints of the published X-VLM into model folders, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import Flag
from xvlm.common.errors import printable
from xvlm.common.ranges import PositiveInt


def command(
    source: Positional[Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]],
    out: Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]],
    to_published: Flag = False,
    tokenizer: str = "",
    text_heads: PositiveInt | None = None,
    vision_heads: PositiveInt | None = None,
    local_depth: PositiveInt | None = None,
    image_size: PositiveInt | None = None,
    ema: Flag = False,
) -> None:
    """Convert a checkpoint of the published X-VLM, of any kind, into a model folder; or back.

    Args:
        source: the published checkpoint; with `--to-published` a model folder.
        out: the model folder to write; with `--to-published` the checkpoint's file.
        to_published: convert in the other direction.
        tokenizer: folder with tokenizer.json or vocab.txt, or hub id; by default as the checkpoint says.
        text_heads: attention heads of a text stack whose width is not 768 or 1024.
        vision_heads: attention heads of a ViT whose width is not 768 or 1024.
        local_depth: blocks of a ViT that run again for each region, if its width is not 768 or 1024.
        image_size: height and width of the images, if not the checkpoint's; position embeddings are
            interpolated as published.
        ema: convert the exponential moving average of the weights, which the file holds beside them.
    """
    from xvlm.models.checkpoints.convert import convert, convert_back
    from xvlm.models.checkpoints.published_sizes import UnseenSizes

    if to_published:
        print(printable(convert_back(source, out)))
    else:
        sizes = UnseenSizes(text_heads, vision_heads, local_depth, image_size)
        convert(source, out, sizes, tokenizer, ema)
