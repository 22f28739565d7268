"""Published checkpoints for `xvlm convert`, and checkpoints of runs that are to go on."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.fuzz import mutate, payload
from tests.fuzz.case import Box, Call, Command
from tests.fuzz.kinds.models import weights

NEW_WORDS = (
    "",
    "out",
    "out",
    "out/deep/er",
    "../canary",
    "../canary/runs",
    "..",
    ".",
    "file",
    "run",
)


def generate(rng: random.Random, box: Box) -> Call:
    """A damaged checkpoint, and the command that takes it."""
    return rng.choice([converted, converted, resumed])(rng, box)


def converted(rng: random.Random, box: Box) -> Call:
    """`xvlm convert`, to a folder that may hold something."""
    path = box.folder / rng.choice(["a.th", "a.pth", f"a{mutate.ESCAPES}.th", "a b.th"])
    made = rng.choice([damaged, damaged, hostile, wrapped, tensors, tensors, configured, special])
    made(rng, box, path)
    (box.folder / "file").write_text("something else\n")
    out = rng.choice(NEW_WORDS) if rng.random() < 0.3 else "out"
    words: list[object] = ["convert", path, out, "--text-heads", 4, "--vision-heads", 3, "--local-depth", 2]
    if made is not configured or rng.random() < 0.3:
        words += ["--tokenizer", box.kit / "tokenizer"]
    if rng.random() < 0.2:
        words += ["--image-size", rng.choice([0, -1, 10**9, 96, 65])]
    return replace(Command.of(*words), may_add=True)


def published(box: Box) -> dict[str, Any]:
    """The good one."""
    found: dict[str, Any] = torch.load(box.kit / "published.th", weights_only=True)
    return found


def damaged(rng: random.Random, box: Box, path: Path) -> None:
    """Cut or flipped."""
    path.write_bytes(mutate.damaged(rng, (box.kit / "published.th").read_bytes()))


def hostile(rng: random.Random, box: Box, path: Path) -> None:
    """A pickle that would run a command, in the forms that PyTorch knows."""
    whole: Any = published(box)
    whole[rng.choice(["model", "config", "optimizer"])] = payload.evil(box)
    how = rng.randrange(3)
    if how == 0:
        torch.save(whole, path)
    elif how == 1:
        torch.save(whole, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(payload.pickled(box, rng.choice([0, 2, 4])))


def wrapped(rng: random.Random, box: Box, path: Path) -> None:
    """Under other names, in other containers."""
    model = published(box)["model"]
    whole: Any = rng.choice(
        [
            {"state_dict": {f"module.{name}": value for name, value in model.items()}},
            {"module": model, "dp_world_size": 2},
            {"model": {"model": model}},
            {f"module.{name}": value for name, value in model.items()},
            {"model": model, "model_ema": model, "epoch": 3},
            {"model": []}, {"model": None}, {"model": {}}, {}, [], None, 3, [model], {1: model},
            {"model": {1: 2}},
            {"model": {"a": 1}}, {"model": torch.zeros(3)}, torch.zeros(3), {"model": {None: torch.zeros(2)}},
        ]
    )  # fmt: skip
    torch.save(whole, path, _use_new_zipfile_serialization=rng.random() < 0.8)


def tensors(rng: random.Random, box: Box, path: Path) -> None:
    """Tensors missing, renamed, reshaped, of another type, sparse, huge without taking room."""
    whole = published(box)
    model = whole["model"]
    for _ in range(rng.choice([1, 1, 3])):
        name = rng.choice(list(model))
        value = model[name]
        how = rng.randrange(10)
        if how == 0:
            del model[name]
        elif how == 1:
            model[rng.choice(mutate.TEXTS)] = model.pop(name)
        elif how == 2:
            model[name] = value[..., :-1] if value.ndim else value[None]
        elif how == 3:
            model[name] = value.to(rng.choice([torch.float16, torch.int8, torch.complex64, torch.bool]))
        elif how == 4:
            model[name] = torch.zeros((), dtype=value.dtype).expand(10**6, 10**6)
        elif how == 5:
            model[name] = (
                torch.full_like(value, rng.choice([float("nan"), float("inf")]))
                if value.is_floating_point()
                else value
            )
        elif how == 6:
            model[name] = value.to_sparse() if value.ndim else value
        elif how == 7:
            model[name] = torch.empty(0)
        elif how == 8:
            model[name] = value.to("meta")
        else:
            model[name] = rng.choice([None, 1, "text", [value]])
    torch.save(whole, path)


def configured(rng: random.Random, box: Box, path: Path) -> None:
    """The checkpoint's own configuration names packages and files."""
    whole = published(box)
    package = payload.write_package(box)
    config: dict[Any, Any] = copy.deepcopy(whole["config"])
    config["text_encoder"] = rng.choice(
        [
            f"python:{package}",
            f"python:{package}.x",
            "python:os",
            "python:",
            "../canary",
            str(box.kit / "tokenizer"),
            "/etc",
            mutate.value(rng),
        ]
    )
    config["max_tokens"] = rng.choice([*mutate.NUMBERS, "30", None, [1]])
    config["prompt"] = mutate.value(rng)
    whole["config"] = mutate.mutated(rng, config) if rng.random() < 0.5 else config
    torch.save(whole, path)


def special(rng: random.Random, box: Box, path: Path) -> None:
    """No regular file, or the file of something else."""
    how = rng.randrange(7)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.symlink_to("/dev/zero")
    elif how == 2:
        path.mkdir()
    elif how == 3:
        shutil.copyfile(box.kit / "model" / "model.safetensors", path)
    elif how == 4:
        path.write_bytes(rng.choice([b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02."]))
    elif how == 5:
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        buffer = io.BytesIO()
        torch.jit.script(torch.nn.Linear(2, 2)).save(buffer) if rng.random() < 0.5 else None
        path.write_bytes(buffer.getvalue() or b"x")


def resumed(rng: random.Random, box: Box) -> Call:
    """A run's folder with something in it changed, and the run that is to go on for a step."""
    folder = box.folder / "run"
    shutil.copytree(box.kit / "run", folder)
    for _ in range(rng.choice([1, 1, 2])):
        everything = sorted(path for path in folder.rglob("*") if path.is_file())
        path = rng.choice(everything)
        if path.suffix == ".safetensors":
            copied = path.parent / "model.safetensors"
            if path != copied and rng.random() < 0.5:
                path.write_bytes(mutate.damaged(rng, path.read_bytes()))
            elif copied.exists():
                weights(rng, box, path.parent)
        elif path.suffix == ".json" and rng.random() < 0.6:
            try:
                path.write_text(json.dumps(mutate.mutated(rng, json.loads(path.read_text()))))
            except ValueError:
                continue
        elif rng.random() < 0.5:
            path.write_bytes(mutate.damaged(rng, path.read_bytes()))
        else:
            path.unlink()
            if rng.random() < 0.3:
                path.mkdir()
    run = box.kit / "run" / "run.json" if rng.random() < 0.7 else folder / "run.json"
    return Command.of(
        "train", "--from", run, "--out", folder, "--resume", "--optim.steps", 3, "--minutes", 0.2
    )
