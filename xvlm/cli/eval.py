"""`xvlm eval`: the measure of any task on a data file, with its metrics, predictions and report."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import (
    Flag,
    argument_help,
    first_word,
    option,
    options_of_function,
    parse_options,
    summary,
)
from xvlm.common.ranges import PositiveInt, Probability, SignificantBits
from xvlm.common.terminal import print_notice

if TYPE_CHECKING:
    from xvlm.evaluation.common.measure import Measure


def command(words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")]] = ()) -> None:
    """Evaluate a model on a data file: xvlm eval TASK --model M --data D --out O; TASK may be a Python file.

    Writes metrics.json, evaluation.json, predictions.json and report.html, and submission.json for a server.
    Under torchrun every process evaluates a part; the results are those of one process.

    Args:
        words: a task, then options; `xvlm eval TASK --help` lists them.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse a task and its options, and return the call.

    The options are those of every evaluation, and the keyword arguments of the task's `evaluate`.
    """
    from xvlm.tasks.common.task import measure_of, measured_tasks

    name, rest = first_word(words, "eval", "task", measured_tasks)
    measure = measure_of(name)
    values = parse_options(options_of(measure.evaluate), rest, f"xvlm eval {name}", summary(measure.evaluate))
    return partial(evaluate, name, measure, values, shlex.join(["xvlm", "eval", *words]))


def evaluate(name: str, measure: Measure, values: dict[str, Any], command: str) -> dict[str, float] | None:
    """Evaluate a model and write the results.

    Args:
        name: name of the task, for the report.
        values: the options, by name.
        command: the command line, for the report.
    Returns:
        the metrics; `None` on all ranks but the main one, which writes.
    """
    from xvlm import distributed
    from xvlm.common.hardware import autocast, usable_precision
    from xvlm.common.json_file import json_text, write_text
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.data.sources.record_fields import FieldNames
    from xvlm.evaluation.common.results import results_folder, write_results
    from xvlm.evaluation.common.skipped import SkippedSamples
    from xvlm.predict import Predictor

    model, data, out, image_root, precision, max_bad = (
        values.pop(one) for one in ("model", "data", "out", "image_root", "precision", "max_bad")
    )
    change_limits(**{one: values.pop(one) for one in LIMITS})
    defaults = FieldNames()
    field_names = {one.name: values.pop(one.name) for one in dataclasses.fields(FieldNames)}
    field_names = {key: value for key, value in field_names.items() if value != getattr(defaults, key)}
    distributed.init()
    with results_folder(out):
        predictor = Predictor.load(model, distributed.device())
        source = open_source(data, image_root, **field_names)
        skipped = SkippedSamples()
        with autocast(distributed.device(), usable_precision(precision, distributed.device())):
            metrics, predictions = measure.evaluate(predictor, source, **values, skipped=skipped)
        if distributed.is_main():
            write_text(out / "skipped.jsonl", skipped.to_jsonl())
        skipped.check(max_bad, str(out / "skipped.jsonl"))
        if not distributed.is_main():
            return None
        for line in skipped.lines():
            print_notice(line)
        if skipped.missing_ids and measure.submission:
            print_notice(incomplete_submission(skipped.missing_ids))
        report = write_results(out, name, measure, metrics, predictions, command)
    print_notice(f"report: {report}")
    print(json_text(metrics))
    return metrics


def incomplete_submission(ids: Sequence[Any]) -> str:
    """Return the warning that a submission lacks samples."""
    first = ", ".join(str(one) for one in ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"submission.json lacks {len(ids)} that were skipped ({first}); servers refuse incomplete ones"


LIMITS = ("max_pixels", "significant_bits", "allow_remote", "allow_private")
"""Fields of `Limits` that are options of an evaluation."""


def options_of(evaluate: Callable[..., Any]) -> Any:
    """Return a dataclass of the options of an evaluation."""
    from xvlm.data.sources.record_fields import FieldNames

    hints, help_of = get_type_hints(FieldNames), argument_help(FieldNames)
    bits = "significant bits of 16-bit images; 0 infers them from each image"
    return dataclasses.make_dataclass(
        "EvaluationOptions",
        [
            option("model", Path, "model folder, run folder or hub repository"),
            option("data", str, "JSON or JSON-lines file, tar shards, or a scheme such as scenes:test:500"),
            option("out", Path, "folder for metrics.json, predictions.json and report.html"),
            option(
                "image_root",
                str | None,
                "folder that image paths are relative to; else the file's",
                default=None,
            ),
            option(
                "precision",
                Literal["fp32", "bf16"],
                "bf16 is faster on hardware with its instructions",
                default="fp32",
            ),
            option("max_pixels", PositiveInt, "maximum width x height of an image", default=100_000_000),
            option("significant_bits", SignificantBits, bits, default=0),
            option("allow_remote", Flag, "data files may name images by URL", default=False),
            option("allow_private", Flag, "URLs may lead to private addresses", default=False),
            option("max_bad", Probability, "maximum fraction of skipped samples; 1 allows all", default=0.01),
            *(
                option(one.name, hints[one.name], help_of.get(one.name, ""), default=one.default)
                for one in dataclasses.fields(FieldNames)
            ),
            *options_of_function(evaluate, first=2),
        ],
    )
