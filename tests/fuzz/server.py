"""Runs a case in a forked process, watched: time, memory, files, what it raises and what it says."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests import memory
from tests.fuzz.case import MARKER, Box, Call, Command, Generator
from tests.fuzz.guard import Guard, Violation, difference, snapshot

GIB = 2**30
CANARY = ("a.txt", "runs/model/config.json", "runs/model/model.safetensors", "photos/a.jpg", ".hidden/keys")


USED = (
    "timm", "scipy.special", "scipy.interpolate", "torch._dynamo", "torch.utils.tensorboard",
    "xvlm.models.checkpoints.average", "xvlm.models.checkpoints.convert", "xvlm.evaluation.common.results",
    "xvlm.cli.eval", "xvlm.cli.train", "xvlm.predict", "xvlm.training.train",
)  # fmt: skip


def import_everything() -> None:
    """Once, before cases are forked: so that a case neither waits for imports nor pays for their memory."""
    import torch

    torch.set_num_threads(1)
    for name in USED:
        importlib.import_module(name)


@dataclass(frozen=True)
class Limits:
    """Bounds of a case."""

    seconds: float = 20.0
    bytes: int = 3 * GIB


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        verdict: "returned", "refused" (an expected failure), or what was wrong.
        detail: what was called, and what came of it.
        seconds, mebibytes: the time of the case, and the most memory that it had above this process's own.
    """

    verdict: str
    detail: str
    seconds: float = 0.0
    mebibytes: int = 0

    @property
    def is_failure(self) -> bool:
        return self.verdict not in ("returned", "refused")


def run_case(generate: Generator, kind: str, seed: int, folder: Path, kit: Path, limits: Limits) -> Outcome:
    """Makes and runs one case in a new folder, which is removed afterwards."""
    root = folder / f"{kind}_{seed}"
    box = Box(root, kit)
    prepare(root)
    before, kit_before = snapshot(root, ("case", "tmp")), os.stat(kit).st_mtime_ns
    begun = time.monotonic()
    _, inherited = memory.mebibytes()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            in_child(generate, kind, seed, box, limits)
        os._exit(70)
    status, usage, timed_out = wait(child, begun + limits.seconds)
    seconds = time.monotonic() - begun
    left = end_group(child)
    outside = difference(before, snapshot(root, ("case", "tmp")))
    if os.stat(kit).st_mtime_ns != kit_before:
        outside.append("changed the kit")
    if (report_of(root) / "may_add").exists():
        outside = [one for one in outside if one == f"made {MARKER}" or not one.startswith("made ")]
    mebibytes = max(0, usage.ru_maxrss // 1024 - inherited) if usage else 0
    verdict, detail = judged(report_of(root), status, timed_out, left, outside, mebibytes, limits)
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(report_of(root), ignore_errors=True)
    return Outcome(verdict, detail, seconds, mebibytes)


def report_of(root: Path) -> Path:
    """Where a case's process leaves what it has to say: beside its root, which it may destroy."""
    return root.with_name(f"{root.name}.report")


def prepare(root: Path) -> None:
    """Empty folders for the case, and a tree that must stay as it is."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("case", "tmp", "home"):
        (root / name).mkdir(parents=True)
    report_of(root).mkdir()
    for name in CANARY:
        path = root / "canary" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} must stay\n")
        path.chmod(0o444)


def in_child(generate: Generator, kind: str, seed: int, box: Box, limits: Limits) -> None:
    """Never returns."""
    os.setsid()
    report = report_of(box.root)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(report / name, os.O_WRONLY | os.O_CREAT), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    temporary = tempfile.tempdir = str(box.root / "tmp")
    os.environ.update(HOME=str(box.root / "home"), TMPDIR=temporary, TORCHINDUCTOR_CACHE_DIR=temporary)
    os.chdir(box.folder)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = memory.mebibytes()[0] * 2**20 + limits.bytes
    try:
        call = generate(random.Random(f"{kind} {seed}"), box)
    except BaseException:
        (report / "verdict").write_text(json.dumps(["generator", shortened()]), "utf-8")
        return
    (report / "call").write_text(said(call), "utf-8", "backslashreplace")
    if isinstance(call, Command) and call.may_add:
        (report / "may_add").touch()
    sys.path.insert(0, str(box.folder))
    guard = Guard(box.root, report / "guard", call.network)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    guard.install()
    verdict, detail = called(call)
    guard.active = False
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    ended = json.dumps([verdict, detail])
    (report / "verdict").write_text(ended, "utf-8")
    os._exit(0)


def said(call: Call) -> str:
    """What is called, as text."""
    return "xvlm " + " ".join(map(repr, call.words)) if isinstance(call, Command) else call.what


def called(call: Call) -> tuple[str, str]:
    """(verdict, detail) of a call."""
    from xvlm.common.errors import XVLMError

    try:
        if isinstance(call, Command):
            return command(call)
        call.function()
        return "returned", ""
    except XVLMError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except Violation as error:
        return "outside", str(error)
    except MemoryError:
        return "memory", shortened()
    except BaseException:
        return "traceback", shortened()


def command(call: Command) -> tuple[str, str]:
    """(verdict, detail) of a call of the command line."""
    from xvlm.cli import main

    try:
        code = main(list(call.words))
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1 if stopped.code else 0
    if code in (0, 2):
        return ("returned", "refused")[code // 2], f"exit code {code}"
    return "exit code", f"exit code {code}"


def shortened() -> str:
    """The end of the traceback."""
    return traceback.format_exc()[-1500:]


def wait(child: int, until: float) -> tuple[int, resource.struct_rusage | None, bool]:
    """(status, what it used, whether it had to be ended)."""
    pause = 0.002
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage, False
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage, True
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)


def end_group(leader: int) -> bool:
    """Ends what a case left running; whether there was anything."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    time.sleep(0.2)  # workers that are about to end
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def judged(
    report: Path,
    status: int,
    timed_out: bool,
    left: bool,
    outside: list[str],
    mebibytes: int,
    limits: Limits,
) -> tuple[str, str]:
    """(verdict, detail) of everything that was seen."""
    texts = {name: text_of(report / name) for name in ("call", "stdout", "stderr", "guard", "verdict")}
    verdict, detail = json.loads(texts["verdict"]) if texts["verdict"] else ("died", f"status {status}")
    if timed_out:
        verdict, detail = "hang", f"more than {limits.seconds:.0f} s"
    elif f"made {MARKER}" in outside:
        verdict, detail = "executed", str(outside[:5])
    elif texts["guard"] or outside:
        verdict, detail = "outside", texts["guard"][:300] + str(outside[:5])
    elif mebibytes * 2**20 > limits.bytes:
        verdict, detail = "memory", f"{mebibytes} MiB"
    elif verdict in ("returned", "refused") and "Traceback (most recent" in texts["stderr"]:
        verdict = "traceback"
    elif verdict in ("returned", "refused") and "\x1b" in texts["stderr"] + texts["stdout"]:
        verdict = "escape"
    elif left and verdict in ("returned", "refused"):
        verdict, detail = "left running", "a process of its group"
    return verdict, f"{texts['call']}\n{detail}\n{texts['stderr'][-1500:]}".strip()


def text_of(path: Path) -> str:
    """What a file holds; nothing where there is none."""
    return path.read_text("utf-8", "backslashreplace") if path.exists() else ""
