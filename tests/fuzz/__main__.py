"""Fuzzing from a shell: `python -m tests.fuzz --cases 2000 --seed 0 [--kind images] [--only 17]`.

Prints a table by kind, then every failure with what plays it back; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

KINDS = sorted(path.stem for path in (Path(__file__).parent / "kinds").glob("*.py"))
COLUMNS = ("returned", "refused")


def main(words: Sequence[str] | None = None) -> int:
    """Runs the cases; 1 if any fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first case's number")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--only", type=int, help="this one case of each kind")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of a case")
    parser.add_argument("--list", type=int, default=50, help="failures shown")
    parser.add_argument("--all", action="store_true", help="show what did not fail, too")
    asked = parser.parse_args(words)
    kinds = asked.kind or KINDS
    numbers = (
        [asked.only]
        if asked.only is not None
        else range(asked.seed, asked.seed + -(-asked.cases // len(kinds)))
    )
    cases = [(kind, number) for number in numbers for kind in kinds]
    work = Path(tempfile.mkdtemp(prefix="xvlm-fuzz-"))
    try:
        found = run(
            cases if asked.only is not None else cases[: asked.cases], work, asked.jobs, asked.seconds
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return told(found, asked.list, asked.all)


def run(
    cases: Sequence[tuple[str, int]], work: Path, jobs: int, seconds: float
) -> list[tuple[str, int, dict[str, object]]]:
    """(kind, seed, outcome) of every case, run by `jobs` servers."""
    for name in ("home", "kit", "results"):
        (work / name).mkdir()
    os.environ.update(
        HOME=str(work / "home"), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", NO_COLOR="1", TERM="dumb",
        PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    sys.dont_write_bytecode = True
    build_kit(work / "kit")
    begun, servers = time.monotonic(), []
    for job in range(jobs):
        pid = os.fork()
        if pid == 0:
            os._exit(serve(cases[job::jobs], work, job, seconds))
        servers.append(pid)
    bad = [pid for pid in servers if os.waitpid(pid, 0)[1]]
    print(f"{len(cases)} cases, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if bad:
        raise RuntimeError("a server of the fuzzing ended by itself")
    lines = [line for path in (work / "results").iterdir() for line in path.read_text().splitlines()]
    return sorted((kind, seed, outcome) for kind, seed, outcome in map(json.loads, lines))


def build_kit(folder: Path) -> None:
    """In a process of its own, so that torch's threads are not those of the servers."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            from tests.fuzz.kit import write_kit

            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            write_kit(folder)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the kit could not be made")


def serve(cases: Sequence[tuple[str, int]], work: Path, job: int, seconds: float) -> int:
    """Runs cases one after another, each in a fork of this process, which has everything imported."""
    from tests.fuzz.server import Limits, import_everything, run_case

    import_everything()
    folder = work / f"job_{job}"
    folder.mkdir()
    with (work / "results" / f"{job}.jsonl").open("w") as results:
        for kind, seed in cases:
            generate = importlib.import_module(f"tests.fuzz.kinds.{kind}").generate
            outcome = run_case(generate, kind, seed, folder, work / "kit", Limits(seconds))
            results.write(json.dumps([kind, seed, vars(outcome) | {"failed": outcome.is_failure}]) + "\n")
            results.flush()
    return 0


def told(found: list[tuple[str, int, dict[str, object]]], most: int, everything: bool = False) -> int:
    """Prints the table and the failures."""
    verdicts = sorted({str(outcome["verdict"]) for _, _, outcome in found} - set(COLUMNS))
    columns = [*COLUMNS, *verdicts]
    print(
        f"{'kind':12}"
        + "".join(f"{name:>13}" for name in ["cases", *columns])
        + f"{'slowest s':>13}{'MiB':>8}"
    )
    for kind in sorted({kind for kind, _, _ in found}):
        own = [outcome for one, _, outcome in found if one == kind]
        counts = Counter(str(outcome["verdict"]) for outcome in own)
        slowest = max(float(str(outcome["seconds"])) for outcome in own)
        most_memory = max(int(str(outcome["mebibytes"])) for outcome in own)
        cells = [len(own), *(counts[name] for name in columns)]
        print(f"{kind:12}" + "".join(f"{cell:13}" for cell in cells) + f"{slowest:13.1f}{most_memory:8}")
    failed = [(kind, seed, outcome) for kind, seed, outcome in found if outcome["failed"]]
    for kind, seed, outcome in found if everything else failed[:most]:
        print(f"\n--- {outcome['verdict']}: python -m tests.fuzz --kind {kind} --only {seed}")
        print(str(outcome["detail"]).encode("ascii", "backslashreplace").decode().replace("\x1b", "\\x1b"))
    print(f"\n{len(failed)} of {len(found)} cases failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
