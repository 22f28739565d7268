"""`xvlm eval` and `xvlm bench`: any measure by the name of its file, with its own options."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from docstring_parser import parse

from xvlm.data.published import Keys
from xvlm.errors import InputError
from xvlm.jsonfile import read_json
from xvlm.lookup import find, names
from xvlm.ranges import PositiveInt, Probability, SignificantBits, check_options, hints_of
from xvlm.terminal import escaped_output, notice


def measure(words: Sequence[str]) -> dict[str, float] | None:
    """Measure a model: `MEASURE --model M --data D --out O`, then options of the measure.

    Options are the keyword arguments of `evaluate` in the measure's file, with what its docstring says.

    Returns:
        the metrics; `None` on all ranks but the main one, which writes.
    """
    from xvlm import dist
    from xvlm.data.limits import change_limits
    from xvlm.data.sources import SCHEMES, open_source
    from xvlm.evaluate._skipped import Skipped
    from xvlm.gallery._results import results_folder, write_results
    from xvlm.machine import usable_precision
    from xvlm.predict import Predictor
    from xvlm.run import json_text, write_text
    from xvlm.train.loop import autocast

    name, *rest = chosen(words, "eval", "evaluate")
    evaluate = find("evaluate", name).evaluate
    given = asked(options_of(evaluate), rest, f"xvlm eval {name}", evaluate)
    model, data, out, image_root, precision, max_bad = (
        given.pop(one) for one in ("model", "data", "out", "image_root", "precision", "max_bad")
    )
    change_limits(**{one: given.pop(one) for one in LIMITS})
    keys = {one.name: given.pop(one.name) for one in key_fields()}
    keys = {key: value for key, value in keys.items() if value != getattr(Keys(), key)}
    if keys and data.partition(":")[0] in SCHEMES:
        raise InputError(f"--{next(iter(keys)).replace('_', '-')} is for JSON and tar files, not for {data}")
    dist.init()
    with results_folder(out):
        predictor, source = Predictor.load(model, dist.device()), open_source(data, image_root, **keys)
        skipped = Skipped()
        with autocast(dist.device(), usable_precision(precision, dist.device())):
            metrics, found = evaluate(predictor, source, **given, skipped=skipped)
        if dist.is_main():
            write_text(out / "skipped.jsonl", skipped.to_jsonl())
        skipped.check(max_bad, str(out / "skipped.jsonl"))
        if not dist.is_main():
            return None
        for line in skipped.lines():
            notice(line)
        if skipped.missing_ids and hasattr(find("evaluate", name), "submission"):
            notice(incomplete(skipped.missing_ids))
        report = write_results(out, name, metrics, found, shlex.join(["xvlm", "eval", *words]))
    notice(f"report: {report}")
    print(json_text(metrics))
    return metrics


def incomplete(ids: Sequence[Any]) -> str:
    """What a submission lacks, in words."""
    first = ", ".join(str(one) for one in ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"submission.json lacks {len(ids)} that were skipped ({first}); servers refuse incomplete ones"


def key_fields() -> list[dataclasses.Field[Any]]:
    """Names of a data file's fields that can be given."""
    return list(dataclasses.fields(Keys))


def bench(words: Sequence[str]) -> dict[str, Any]:
    """Measure speed: `MEASURE`, then options of the measure, `--json FILE`, `--ratios FILE`, `--check FILE`.

    Raises InputError if a ratio is worse than the one kept in the file to check.
    """
    from xvlm import dist
    from xvlm.bench._check import check, ratios
    from xvlm.bench._show import table
    from xvlm.outputs import check_output_file, check_writable, is_json_object
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
    for path in filter(None, (everything, kept)):
        check_output_file(path, is_json_object, "JSON object")
    if given.get("pictures"):
        check_writable(given["pictures"])
    kept_ratios = kept_ratios_in(known) if known else {}
    dist.init()
    result: dict[str, Any] = measurement(**given)
    if everything:
        write_json(everything, result)
    if kept:
        write_json(kept, ratios(result))
    print(table(result))
    check(ratios(result), kept_ratios, str(known))
    return result


def kept_ratios_in(path: Path) -> dict[str, float]:
    """The ratios that a file keeps, by name.  Raises InputError if it holds anything else."""
    kept: dict[str, Any] = read_json(path)
    for name, value in kept.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"{path}: {name} is {value!r:.40}; it must be a number above 0")
    return kept


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
    with escaped_output():
        found = tyro.cli(options, args=words, prog=prog, description=summary)
    given = {field.name: getattr(found, field.name) for field in dataclasses.fields(options)}
    check_options(hints_of(options), given)
    return given


def option(name: str, kind: Any, text: str, **default: Any) -> tuple[str, Any, Any]:
    """A field of a dataclass of options."""
    return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(**default)


def own_options(function: Callable[..., Any], skipped: int) -> list[tuple[str, Any, Any]]:
    """The keyword arguments of a function, but for the first `skipped`, with what its docstring says.

    One that a shell cannot give, the list of `skipped` samples, is left out.
    """
    help_of = described(function)
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    return [
        option(one.name, one.annotation, help_of.get(one.name, ""), default=one.default)
        for one in parameters[skipped:]
        if one.name != "skipped"
    ]


def described(thing: Any) -> dict[str, str]:
    """What the docstring of a function or a dataclass says of each argument."""
    params = parse(inspect.getdoc(thing) or "").params
    return {one.arg_name: " ".join((one.description or "").split()) for one in params}


def options_of(evaluate: Callable[..., Any]) -> Any:
    """A dataclass of what every measure takes, and of the keyword arguments of this one."""
    hints = get_type_hints(Keys)
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
            option(
                "max_bad",
                Probability,
                "share of samples that may be skipped; 1 refuses nothing",
                default=0.01,
            ),
            *(
                option(one.name, hints[one.name], described(Keys).get(one.name, ""), default=one.default)
                for one in key_fields()
            ),
            *own_options(evaluate, skipped=2),
        ],
    )


LIMITS = ("max_pixels", "significant_bits", "allow_remote", "allow_private")
"""Fields of `Limits` that are options of an evaluation."""


def limit_options() -> list[tuple[str, Any, Any]]:
    """Fields for the limits of what is read."""
    flag = tyro.conf.FlagCreatePairsOff[bool]
    return [
        option("max_pixels", PositiveInt, "largest image, in pixels", default=100_000_000),
        option("significant_bits", SignificantBits, "of 16-bit images; 0: seen from each image", default=0),
        option("allow_remote", flag, "data files may name images by URL", default=False),
        option("allow_private", flag, "URLs may lead to private addresses", default=False),
    ]
