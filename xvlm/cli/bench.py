"""`xvlm bench`: measurements of speed and memory, and their comparison with recorded ratios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from xvlm.cli.common.options import first_word, option, options_of_function, parse_options, summary
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.registry import find, names


def command(
    words: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="BENCHMARK ...")]] = (),
) -> None:
    """Measure speed: xvlm bench BENCHMARK [--json FILE] [--check FILE] ...

    Args:
        words: step, mixed_step, rerank, data, waiting or growth, then options, which
            `xvlm bench BENCHMARK --help` lists.
    """
    command_for(words)()


def command_for(words: Sequence[str]) -> Callable[[], object]:
    """Parse a benchmark and its options, and return the call."""
    name, rest = first_word(words, "bench", "benchmark", lambda: names("bench"))
    benchmark = find("bench", name).bench
    kind = options_of(benchmark)
    return partial(
        run_benchmark, benchmark, parse_options(kind, rest, f"xvlm bench {name}", summary(benchmark))
    )


def options_of(benchmark: Callable[..., Any]) -> Any:
    """Return a dataclass of the options of a benchmark."""
    return dataclasses.make_dataclass(
        "BenchmarkOptions",
        [
            option("json", Path | None, "file for all measurements", default=None),
            option("ratios", Path | None, "file for the ratios alone, to compare with later", default=None),
            option("check", Path | None, "file of recorded ratios; 10 % worse is an error", default=None),
            *options_of_function(benchmark, first=0),
        ],
    )


def run_benchmark(benchmark: Callable[..., dict[str, Any]], values: dict[str, Any]) -> dict[str, Any]:
    """Run a benchmark and write, print and check its measurements.

    Raises InputError if a ratio is worse than the recorded one.
    """
    from xvlm import distributed
    from xvlm.bench.common.regression import check, ratios
    from xvlm.bench.common.table import table
    from xvlm.common.json_file import write_json
    from xvlm.common.outputs import check_output_file, check_writable, is_json_object

    measurements, ratio_file, recorded_file = (values.pop(one) for one in ("json", "ratios", "check"))
    for path in filter(None, (measurements, ratio_file)):
        check_output_file(path, is_json_object, "JSON object")
    if values.get("pictures"):
        check_writable(values["pictures"])
    recorded = read_ratios(recorded_file) if recorded_file else {}
    distributed.init()
    result = benchmark(**values)
    if measurements:
        write_json(measurements, result)
    if ratio_file:
        write_json(ratio_file, ratios(result))
    print(table(result))
    check(ratios(result), recorded, str(recorded_file))
    return result


def read_ratios(path: Path) -> dict[str, float]:
    """Read recorded ratios by name.  Raises InputError if the file holds anything else."""
    recorded: dict[str, Any] = read_json(path)
    for name, value in recorded.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise InputError(f"{path}: {name} is {value!r:.40}; it must be a number above 0")
    return recorded
