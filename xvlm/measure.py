"""`xvlm eval` and `xvlm bench`: any measure by the name of its file, with its own options."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from docstring_parser import parse

from xvlm.errors import InputError
from xvlm.lookup import find, names


def measure(words: Sequence[str]) -> dict[str, float] | None:
    """Measure a model: `MEASURE --model M --data D --out O`, then options of the measure.

    Options are the keyword arguments of `evaluate` in the measure's file, with what its docstring says.

    Returns:
        the metrics; `None` on all ranks but the main one, which writes.
    """
    from xvlm import dist
    from xvlm.data.limits import change_limits
    from xvlm.data.sources import open_source
    from xvlm.gallery._results import write_results
    from xvlm.machine import usable_precision
    from xvlm.predict import Predictor
    from xvlm.train.loop import autocast

    name, *rest = chosen(words, "eval", "evaluate")
    evaluate = find("evaluate", name).evaluate
    given = asked(options_of(evaluate), rest, f"xvlm eval {name}", evaluate)
    model, data, out, image_root, precision = (
        given.pop(one) for one in ("model", "data", "out", "image_root", "precision")
    )
    change_limits(**{one: given.pop(one) for one in LIMITS})
    dist.init()
    predictor, source = Predictor.load(model, dist.device()), open_source(data, image_root)
    with autocast(dist.device(), usable_precision(precision, dist.device())):
        metrics, found = evaluate(predictor, source, **given)
    if not dist.is_main():
        return None
    report = write_results(out, name, metrics, found, shlex.join(["xvlm", "eval", *words]))
    print(f"report: {report}", file=sys.stderr)
    print(json.dumps(metrics))
    return metrics


def bench(words: Sequence[str]) -> dict[str, Any]:
    """Measure speed: `MEASURE`, then options of the measure, `--json FILE`, `--ratios FILE`, `--check FILE`.

    Raises InputError if a ratio is worse than the one kept in the file to check.
    """
    from xvlm import dist
    from xvlm.bench._check import check, ratios
    from xvlm.bench._show import table
    from xvlm.run import write_json

    name, *rest = chosen(words, "bench", "bench")
    measurement = find("bench", name).bench
    options = dataclasses.make_dataclass(
        "BenchOptions",
        [
            option("json", Path | None, "file for everything that was measured", default=None),
            option("ratios", Path | None, "file for its ratios alone, to be checked later", default=None),
            option("check", Path | None, "file with kept ratios: worse by 10 % is an error", default=None),
            *own_options(measurement, skipped=0),
        ],
    )
    given = asked(options, rest, f"xvlm bench {name}", measurement)
    everything, kept, known = (given.pop(one) for one in ("json", "ratios", "check"))
    kept_ratios = json.loads(known.read_text()) if known else {}
    dist.init()
    result: dict[str, Any] = measurement(**given)
    if everything:
        write_json(everything, result)
    if kept:
        write_json(kept, ratios(result))
    print(table(result))
    check(ratios(result), kept_ratios, str(known))
    return result


def chosen(words: Sequence[str], command: str, room: str) -> Sequence[str]:
    """`words`, of which the first names a file of the room.  Raises InputError if there is no name."""
    if not words or words[0].startswith("-"):
        raise InputError(
            f"xvlm {command} needs a measure first ({', '.join(names(room))}); "
            f"`xvlm {command} MEASURE --help` lists its options"
        )
    return words


def asked(options: Any, words: Sequence[str], prog: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The options in `words`, by name; the help says what the function does."""
    summary = (inspect.getdoc(function) or "").split("\n", 1)[0]
    found = tyro.cli(options, args=words, prog=prog, description=summary)
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(options)}


def option(name: str, kind: Any, text: str, **default: Any) -> tuple[str, Any, Any]:
    """A field of a dataclass of options."""
    return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(**default)


def own_options(function: Callable[..., Any], skipped: int) -> list[tuple[str, Any, Any]]:
    """The keyword arguments of a function, but for the first `skipped`, with what its docstring says."""
    help_of = {
        one.arg_name: " ".join((one.description or "").split())
        for one in parse(inspect.getdoc(function) or "").params
    }
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    return [
        option(one.name, one.annotation, help_of.get(one.name, ""), default=one.default)
        for one in parameters[skipped:]
    ]


def options_of(evaluate: Callable[..., Any]) -> Any:
    """A dataclass of what every measure takes, and of the keyword arguments of this one."""
    return dataclasses.make_dataclass(
        "EvaluationOptions",
        [
            option("model", Path, "model folder, run folder or hub repository"),
            option("data", str, "JSON or JSON-lines file, tar shards, or a scheme such as scenes:test:500"),
            option("out", Path, "folder for metrics.json, predictions.json and report.html"),
            option("image_root", str | None, "where image paths start; else beside the file", default=None),
            option(
                "precision",
                Literal["fp32", "bf16"],
                "bf16 is faster where there are instructions for it",
                default="fp32",
            ),
            *limit_options(),
            *own_options(evaluate, skipped=2),
        ],
    )


LIMITS = ("max_pixels", "significant_bits", "allow_remote", "allow_private")
"""Fields of `Limits` that are options of an evaluation."""


def limit_options() -> list[tuple[str, Any, Any]]:
    """Fields for the limits of what is read."""
    flag = tyro.conf.FlagCreatePairsOff[bool]
    return [
        option("max_pixels", int, "largest image, in pixels", default=100_000_000),
        option("significant_bits", int, "of 16-bit images; 0: seen from each image", default=0),
        option("allow_remote", flag, "data files may name images by URL", default=False),
        option("allow_private", flag, "URLs may lead to private addresses", default=False),
    ]
