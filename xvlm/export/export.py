"""Write a model as ONNX graphs, and compare them with the model."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from xvlm.common.atomic import atomic_folder
from xvlm.common.errors import MissingPackageError, OutputError, XVLMError
from xvlm.common.json_file import read_json, write_json
from xvlm.common.outputs import check_writable
from xvlm.common.progress import progress_bar
from xvlm.export.folder import DESCRIPTION, FORMAT, Description, Precision
from xvlm.export.graphs import Graph, graphs_of
from xvlm.models.checkpoints.folder import ModelBundle, load_model
from xvlm.models.vision.grid import GridEncoder

OPSET = 18
CHECKED_SIZES = ((1, 1), (7, 40))
"""(Rows, tokens of a text) that the graphs are compared at; the examples that were followed have others."""
TOLERANCE = 1e-4
"""Largest difference of an fp32 graph from the model; values of 1 and more: relative."""


class ParityError(XVLMError, RuntimeError):
    """A graph does not compute what the model does."""


def export(
    model: str | Path, out: Path, precision: Precision = "fp32", opset: int = OPSET
) -> dict[str, float]:
    """Write the graphs of a model, its tokenizer and `export.json` into a folder.

    Args:
        model: model folder, run folder or hub repository.
        out: folder, which is new or holds an earlier export.
        precision: fp32; fp16, for GPUs and browsers; or int8 weights of matrix products, for CPUs.
        opset: version of the ONNX operators.
    Returns:
        the largest difference of each graph from the model, see `differences`.
    Raises:
        OutputError: the folder holds something else.
        ParityError: an fp32 graph differs by more than `TOLERANCE`, or one computes no numbers.
        MissingPackageError: the extra `export` is not installed.
    """
    _check_out(out)
    bundle = load_model(model)
    graphs = graphs_of(bundle.model)
    files = [*(f"{name}.onnx" for name in graphs), DESCRIPTION, "tokenizer.json"]
    positions = bundle.model.config.text.positions
    differing: dict[str, float] = {}
    with atomic_folder(out, files) as partial:
        for name, graph in progress_bar(graphs.items(), "exporting graphs", len(graphs)):
            path = partial / f"{name}.onnx"
            _write(graph, path, opset)
            differing[name] = largest_difference(graph, path, positions)
            if not differing[name] <= TOLERANCE:
                raise ParityError(f"the graph {name} differs from the model by {differing[name]:.2g}")
            if precision != "fp32":
                _convert(path, precision)
                differing[name] = largest_difference(graph, path, positions)
                if not np.isfinite(differing[name]):
                    raise ParityError(f"the graph {name} computes no numbers in {precision}")
        description = _describe(bundle, graphs["image"].module.grid_hw, precision, differing)
        write_json(partial / DESCRIPTION, description)
        bundle.tokenizer.save(partial)
    return differing


def _check_out(out: Path) -> None:
    check_writable(out.parent)
    if out.exists() and any(out.iterdir()):
        path = out / DESCRIPTION
        if not path.is_file() or "graphs" not in read_json(path):
            raise OutputError(f"{out} holds something that `xvlm export` did not write; name another folder")


def _write(graph: Graph, path: Path, opset: int) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph.module.eval(),
                tuple(graph.inputs.values()),
                path,
                input_names=list(graph.inputs),
                output_names=cast(list[str], graph.module.outputs),
                dynamic_shapes=tuple(dict(graph.sizes[name]) for name in graph.inputs),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise MissingPackageError(
            f"xvlm export needs the extra: pip install 'xvlm[export]' ({error})"
        ) from error


def _convert(path: Path, precision: Precision) -> None:
    """Replace a graph by one of another precision."""
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it asks for shapes, which the graph has
        try:
            quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        finally:
            logging.disable(before)
        return
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def largest_difference(graph: Graph, path: Path, positions: int) -> float:
    """Return the largest difference of a graph from its module, at `CHECKED_SIZES` as far as positions go.

    A difference is relative where the value is larger than 1, and infinite if one of both is no number.
    """
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for rows, length in CHECKED_SIZES:
        inputs = _resized(graph, rows, min(length, positions))
        with torch.no_grad():
            expected = graph.module(*inputs.values())
        names = {one.name for one in session.get_inputs()}
        found = session.run(None, {name: one.numpy() for name, one in inputs.items() if name in names})
        parts = (expected,) if isinstance(expected, Tensor) else expected
        for one, other in zip(parts, found, strict=True):
            reference = one.double().numpy()
            apart = np.abs(reference - other) / np.maximum(1.0, np.abs(reference))
            largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
    return largest


def _resized(graph: Graph, rows: int, length: int) -> dict[str, Tensor]:
    """Return inputs of other sizes: the examples again and again, or their beginning."""
    sizes = {
        "rows": rows,
        "images": rows,
        "length": length,
        "tokens": min(length, 3),
        "before": max(0, length - 3),
    }
    resized = {}
    for name, value in graph.inputs.items():
        for dimension, dim in graph.sizes[name].items():
            wanted = sizes[dim.__name__]
            index = torch.arange(wanted) % value.shape[dimension]
            value = value.index_select(dimension, index)
        resized[name] = value
    if "mask" in resized:  # the example has padding; its first token is always there
        resized["mask"] = resized["mask"].clone()
        resized["mask"][:, 0] = True
    return resized


def _describe(
    bundle: ModelBundle, grid_hw: Any, precision: Precision, differing: dict[str, float]
) -> Description:
    """Return all that is needed beside the graphs."""
    config = bundle.model.config
    return Description(
        FORMAT,
        precision,
        config.vision.image_hw,
        grid_hw,
        has_mean=isinstance(bundle.model.vision, GridEncoder),
        heads=config.heads,
        labels=config.labels,
        max_words=bundle.max_words,
        max_tokens=bundle.max_tokens,
        positions=config.text.positions,
        prompt=bundle.prompt,
        calibration=bundle.calibration,
        graphs=differing,
    )
