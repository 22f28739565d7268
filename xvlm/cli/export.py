"""`xvlm export`: a model as ONNX graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from xvlm.export.folder import Precision


def command(
    model: Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]],
    out: Path,
    precision: Precision = "fp32",
) -> None:
    """Write a model as ONNX graphs, with its tokenizer and settings, and compare them with the model.

    Prints the largest difference of each graph; xvlm.OnnxPredictor.load(OUT) answers as Predictor does.

    Args:
        model: model folder, run folder or hub repository.
        out: folder to write.
        precision: fp32; fp16, for GPUs and browsers; or int8 weights of matrix products, for CPUs.
    """
    from xvlm.common.json_file import json_text
    from xvlm.export.export import export

    print(json_text(export(model, out, precision)))
