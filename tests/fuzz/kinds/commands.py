"""Command lines: every command, with the options that its code lists set to unexpected values."""

from __future__ import annotations

import dataclasses
import inspect
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.fuzz import mutate
from tests.fuzz.case import Box, Call, Command
from tests.fuzz.kit import MEASURES, records

NUMBERS = (
    "0", "-1", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "0.5", "99999999999999999999", "1_000",
    "0x10", "", "one", "1.0", "--1", "٣",
)  # fmt: skip
OUTS = (
    "out", "out/deep", ".", "..", "../canary", "../canary/runs", "../canary/runs/model", "file",
    "full", "/dev/null", "a\nb", f"{mutate.ESCAPES}", "x" * 300, "", "link",
)  # fmt: skip
LONG = {"demo": [], "photos": ["nothing"], "ablate": []}
"""Commands that would train for long, with what they need to begin."""


def generate(rng: random.Random, box: Box) -> Call:
    """One command line."""
    (box.folder / "file").write_text("something else\n")
    (box.folder / "full").mkdir()
    (box.folder / "full" / "notes.txt").write_text("mine\n")
    (box.folder / "link").symlink_to(box.root / "canary")
    kinds = [question, measured, measured, trained, trained, trained, made, made, long, words]
    return replace(rng.choice(kinds)(rng, box), may_add=True)


def spoiled(rng: random.Random, box: Box, options: dict[str, str], given: dict[str, Any]) -> list[object]:
    """Words of the options that are given, with some of all others, or of these, set to anything.

    Args:
        options: every option and what the code says of its type.
        given: good values; what is `...` is drawn.
    """
    chosen: dict[str, Any] = dict(given)
    for name in rng.sample(sorted(options), min(len(options), rng.choice([0, 1, 1, 1, 2]))):
        chosen[name] = value_of(rng, box, name, options[name])
    found: list[object] = []
    for name, value in chosen.items():
        if rng.random() < 0.03:
            continue
        word = "--" + name.replace("_", "-")
        found += [word] if value is None else [word, *value] if isinstance(value, list) else [word, value]
    if rng.random() < 0.05:
        found.append(rng.choice(["--nothing", "-x", "--help", "--", *mutate.TEXTS]))
    return [str(word).replace("\0", "") for word in found]


def value_of(rng: random.Random, box: Box, name: str, kind: str) -> Any:
    """A value for an option, mostly of its type but out of range."""
    last = name.rsplit(".", 1)[-1]
    if last == "out":
        return out_of(rng, box)
    if rng.random() < 0.05:
        return rng.choice(mutate.TEXTS)
    if "bool" in kind:
        return rng.choice([None, "True", "maybe"])
    if "int" in kind or "float" in kind:
        return rng.choice(NUMBERS) if rng.random() < 0.9 else [rng.choice(NUMBERS), rng.choice(NUMBERS)]
    if "Path" in kind:
        return rng.choice(
            ["nothing", ".", "file", "full", box.folder / "file", box.kit / "model", "/dev/null", "a\nb"]
        )
    return rng.choice([*mutate.TEXTS, [], ["a", "a"], "scenes:train:4", box.kit / "photos" / "photos.jsonl"])


def out_of(rng: random.Random, box: Box) -> str:
    """A place to write to, mostly a bad one; nothing outside the case's own root."""
    return rng.choice(OUTS) if rng.random() < 0.5 else str(box.folder / "own")


def parameters(function: Callable[..., Any], skipped: int = 0) -> dict[str, str]:
    """Options of a function that tyro makes a command of."""
    found = list(inspect.signature(function).parameters.values())[skipped:]
    return {one.name: str(one.annotation) for one in found if "Positional" not in str(one.annotation)}


def question(rng: random.Random, box: Box) -> Command:
    """ground, match, caption, ask, compare."""
    from xvlm.cli import COMMANDS

    name = rng.choice(["ground", "match", "caption", "ask", "compare"])
    image = box.kit / "photos" / "0.jpg"
    pictures: list[object] = [
        rng.choice([*[image] * 9, "nothing.jpg", "file", "full", "", "-"]) for _ in range(2)
    ]
    text: object = rng.choice(mutate.TEXTS) if rng.random() < 0.4 else "the red dog"
    first = {"caption": pictures[:1], "compare": [*pictures, text]}.get(name, [pictures[0], text])
    model = {"caption": "captions", "ask": "answers", "compare": "pairs"}.get(name, "model")
    options = parameters(COMMANDS[name])
    if name == "caption":
        from xvlm.model.decoding import Decoding

        options |= fields(Decoding)
        options.pop("decoding", None)
    found = spoiled(rng, box, options, {"model": box.kit / model})
    return Command.of(name, *[str(word).replace("\0", "") for word in first], *found)


def fields(kind: Any) -> dict[str, str]:
    """Options of a dataclass, nested ones by their dotted names."""
    found: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        found[field.name] = str(field.type)
    return found


def measured(rng: random.Random, box: Box) -> Command:
    """`xvlm eval`, `xvlm layers`."""
    from xvlm.lookup import find
    from xvlm.measure import options_of

    name = rng.choice([*MEASURES, "layers"])
    measure = "weak_grounding" if name == "layers" else name
    data = box.folder / "data.json"
    data.write_text(json.dumps(records(box.kit, measure)))
    given = {"model": box.kit / MEASURES[measure], "data": data, "out": out_of(rng, box)}
    if name == "layers":
        from xvlm.cli import layers

        return Command.of("layers", *spoiled(rng, box, parameters(layers), given))
    options = {
        field.name: str(field.type)
        for field in dataclasses.fields(options_of(find("evaluate", name).evaluate))
    }
    if name == "captioning":
        given |= {"max_tokens": "8", "no_java": None}
    return Command.of("eval", name, *spoiled(rng, box, options, given))


def trained(rng: random.Random, box: Box) -> Command:
    """`xvlm train --from` of a tiny run, a few seconds at most; or a recipe whose data are not there."""
    tree = json.loads((box.kit / "run" / "run.json").read_text())
    options = {name: type(value).__name__ for name, value in leaves(tree)}
    given: dict[str, Any] = {"out": out_of(rng, box), "minutes": "0.02"}
    if rng.random() < 0.3:
        given["workers"] = rng.choice(["1", "2"])
    if rng.random() < 0.25:
        from xvlm.lookup import names

        recipe = rng.choice([name for name in names("recipes") if not name.startswith(("scenes", "demo"))])
        root = rng.choice([[], [f"root={box.folder / 'full'}"], ["root="], ["nothing=1"], ["=", "a=b"]])
        return Command.of("train", recipe, *root, *spoiled(rng, box, options, given))
    source = rng.choice(
        [box.kit / "run" / "run.json"] * 6 + [changed(rng, box, tree), "nothing.json", "file", "full"]
    )
    return Command.of("train", "--from", source, *spoiled(rng, box, options, given))


def changed(rng: random.Random, box: Box, tree: Any) -> str:
    """A `run.json` with other values in it."""
    path = box.folder / "changed.json"
    path.write_text(json.dumps(mutate.mutated(rng, tree)))
    return str(path)


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Values of a JSON tree by dotted name."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [one for key, value in tree.items() for one in leaves(value, f"{prefix}.{key}" if prefix else key)]


def made(rng: random.Random, box: Box) -> Command:
    """`xvlm average` and `xvlm convert`, above all where they write to."""
    from xvlm.cli import average, convert

    out = out_of(rng, box)
    if rng.random() < 0.5:
        some = [*[box.kit / "model"] * 9, box.kit / "answers", "nothing", "full", "file"]
        models = [rng.choice(some) for _ in range(rng.choice([1, 2, 2, 3]))]
        return Command.of("average", *models, *spoiled(rng, box, parameters(average), {"out": out}))
    source = rng.choice([*[box.kit / "published.th"] * 6, box.kit / "model", "nothing", "full"])
    given = {"tokenizer": box.kit / "tokenizer", "text_heads": "4", "vision_heads": "3", "local_depth": "2"}
    if rng.random() < 0.2:
        return Command.of("convert", source, out, "--to-published")
    return Command.of("convert", source, out, *spoiled(rng, box, parameters(convert), given))


def long(rng: random.Random, box: Box) -> Command:
    """What would train or measure for long is given only what has to be refused."""
    from xvlm.cli import COMMANDS

    name = rng.choice([*LONG, "bench", "recipes"])
    if name == "bench":
        from xvlm.lookup import names

        measure = rng.choice([*names("bench"), "nothing", ""])
        return Command.of(
            "bench",
            measure,
            rng.choice(["--check", "--json", "--nothing"]),
            *rng.choice([[], ["nothing.json", "--batch", "x"]]),
        )
    wrong = {
        "demo": [["--tasks", "nothing"], ["--out", "file"], ["--nothing"]],
        "photos": [["--minutes", "nan"], ["--minutes", "x"], [], ["--out", "file"]],
        "ablate": [
            ["--on", "nothing"],
            ["--on", "photos", "--root", "nothing"],
            ["--minutes", "x"],
            ["--out", "file", "--minutes", "-1"],
        ],
        "recipes": [["--nothing"], [], ["x"]],
    }[name]
    assert name in COMMANDS
    return Command.of(name, *LONG.get(name, []), *rng.choice(wrong))


def words(rng: random.Random, box: Box) -> Command:
    """Any words."""
    from xvlm.cli import COMMANDS

    known = ["eval", "bench", "train", "ground", "average", "convert", "layers", "--help", "-h"]
    assert set(known[:7]) <= set(COMMANDS)
    found = [rng.choice([*known, *mutate.TEXTS]) for _ in range(rng.randrange(5))]
    return Command.of(*[word.replace("\0", "") for word in found])
