"""Command lines: every command, with the options that its code lists set to unexpected values."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
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
    """Return one command line."""
    (box.folder / "file").write_text("something else\n")
    (box.folder / "full").mkdir()
    (box.folder / "full" / "notes.txt").write_text("mine\n")
    (box.folder / "link").symlink_to(box.root / "canary")
    kinds = [asked, measured, measured, trained, trained, trained, hostile, made, made, long, words]
    return replace(rng.choice(kinds)(rng, box), may_add=True)


def spoiled(rng: random.Random, box: Box, options: dict[str, str], given: dict[str, Any]) -> list[object]:
    """Return the words of options: good values, some of them and of the others replaced by anything.

    Args:
        options: type of every option, as text.
        given: good values.
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
    """Return a value for an option, mostly of its type but out of range."""
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
    """Return a path to write to, mostly a bad one, within the root of the case."""
    return rng.choice(OUTS) if rng.random() < 0.5 else str(box.folder / "own")


def options_of_command(name: str) -> dict[str, str]:
    """Return the types of the options of a command, those of option groups included."""
    from xvlm.registry import find

    return options_of_types(find("cli", name).command)


def options_of_types(typed: Any) -> dict[str, str]:
    """Return the types of the options that a function or a dataclass defines."""
    from xvlm.common.ranges import type_hints

    found: dict[str, str] = {}
    for name, hint in type_hints(typed).items():
        group = getattr(hint, "__origin__", hint)
        if dataclasses.is_dataclass(group):
            found |= options_of_types(group)
        elif name != "return" and "Positional" not in str(hint):
            found[name] = str(hint)
    return found


PREDICTED = {
    "grounding": ("ground", "model"),
    "vqa": ("ask", "vqa_decoder"),
    "nlvr2": ("compare", "pair_classifier"),
    "captioning": ("caption", "caption_decoder"),
    "self_critical": ("caption", "caption_decoder"),
    "entailment": ("ground", "classifier"),
}
"""Tasks of `xvlm predict`: a command with the same inputs, and a model."""


def asked(rng: random.Random, box: Box) -> Command:
    """Return a call of ground, match, caption, ask, compare or predict."""
    name = rng.choice(["ground", "match", "caption", "ask", "compare", "predict"])
    image = box.kit / "photos" / "0.jpg"
    pictures: list[object] = [
        rng.choice([*[image] * 9, "nothing.jpg", "file", "full", "", "-"]) for _ in range(2)
    ]
    text: object = rng.choice(mutate.TEXTS) if rng.random() < 0.4 else "the red dog"
    model = {"caption": "caption_decoder", "ask": "vqa_decoder", "compare": "pair_classifier"}.get(
        name, "model"
    )
    command, start = name, [name]
    if name == "predict":
        task = rng.choice(sorted(PREDICTED))
        command, model = PREDICTED[task]
        start = ["predict", task if rng.random() < 0.9 else rng.choice(["nothing", "a.py", *mutate.TEXTS])]
    first = {"caption": pictures[:1], "compare": [*pictures, text]}.get(command, [pictures[0], text])
    found = spoiled(rng, box, options_of_command(command), {"model": box.kit / model})
    return Command.of(*[str(word).replace("\0", "") for word in (*start, *first)], *found)


def measured(rng: random.Random, box: Box) -> Command:
    """Return a call of `xvlm eval` or `xvlm layers`."""
    from xvlm.cli.eval import options_of
    from xvlm.tasks.common.task import measure_of

    name = rng.choice([*MEASURES, "layers"])
    measure = "weak_grounding" if name == "layers" else name
    data = box.folder / "data.json"
    data.write_text(json.dumps(records(box.kit, measure)))
    given = {"model": box.kit / MEASURES[measure], "data": data, "out": out_of(rng, box)}
    if name == "layers":
        return Command.of("layers", *spoiled(rng, box, options_of_command("layers"), given))
    options = options_of_types(options_of(measure_of(name).evaluate))
    if name == "captioning":
        given |= {"max_tokens": "8", "no_java": None}
    return Command.of("eval", name, *spoiled(rng, box, options, given))


def trained(rng: random.Random, box: Box) -> Command:
    """Return a call that trains a tiny run for a few seconds at most, or a recipe or task without data."""
    tree = json.loads((box.kit / "run" / "run.json").read_text())
    options = {name: type(value).__name__ for name, value in leaves(tree)}
    given: dict[str, Any] = {"out": out_of(rng, box), "minutes": "0.02"}
    if rng.random() < 0.3:
        given["workers"] = rng.choice(["1", "2"])
    if rng.random() < 0.25:
        from xvlm.registry import names

        recipe = rng.choice([name for name in names("recipes") if not name.startswith(("scenes", "demo"))])
        if rng.random() < 0.3:
            task = rng.choice([*names("tasks"), "nothing", "nothing.py", box.folder / "full", ""])
            return Command.of("train", f"task={task}", *spoiled(rng, box, options, given))
        root = rng.choice([[], [f"root={box.folder / 'full'}"], ["root="], ["nothing=1"], ["=", "a=b"]])
        return Command.of("train", recipe, *root, *spoiled(rng, box, options, given))
    source = rng.choice(
        [box.kit / "run" / "run.json"] * 6 + [changed(rng, box, tree), "nothing.json", "file", "full"]
    )
    return Command.of("train", "--from", source, *spoiled(rng, box, options, given))


def changed(rng: random.Random, box: Box, tree: Any) -> str:
    """Write a `run.json` with changed values, and return its path."""
    path = box.folder / "changed.json"
    path.write_text(json.dumps(mutate.mutated(rng, tree)))
    return str(path)


def hostile(rng: random.Random, box: Box) -> Command:
    """Return a call that reads a run or a model folder with the name of a Python file, which must not run."""
    evil = box.folder / "evil.py"
    evil.write_text(f"open({str(box.marker)!r}, 'w').close()\n")
    name = rng.choice([str(evil), "evil.py", "./evil.py", "evil.py:x", f"{evil}:x?a=b", "evil"])
    if rng.random() < 0.3:
        folder = box.folder / "model"
        shutil.copytree(box.kit / "model", folder)
        config = json.loads((folder / "config.json").read_text())
        config["model"] |= rng.choice([{"heads": ["box", name]}, {"box_head": name}, {"labels": [name]}])
        (folder / "config.json").write_text(json.dumps(config))
        return Command.of("ground", box.kit / "photos" / "0.jpg", "the red dog", "--model", folder)
    tree = json.loads((box.kit / "run" / "run.json").read_text())
    container, key = rng.choice([one for one in mutate.places(tree) if isinstance(one[0][one[1]], str)])
    container[key] = name
    path = box.folder / "run.json"
    path.write_text(json.dumps(tree))
    return Command.of("train", "--from", path, "--out", box.folder / "own", "--minutes", "0.02")


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values of a JSON tree by dotted name."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [one for key, value in tree.items() for one in leaves(value, f"{prefix}.{key}" if prefix else key)]


def made(rng: random.Random, box: Box) -> Command:
    """Return a call of `xvlm average` or `xvlm convert`, above all with unexpected outputs."""
    out = out_of(rng, box)
    if rng.random() < 0.5:
        some = [*[box.kit / "model"] * 9, box.kit / "vqa_decoder", "nothing", "full", "file"]
        models = [rng.choice(some) for _ in range(rng.choice([1, 2, 2, 3]))]
        return Command.of("average", *models, *spoiled(rng, box, options_of_command("average"), {"out": out}))
    source = rng.choice([*[box.kit / "published.th"] * 6, box.kit / "model", "nothing", "full"])
    given = {"tokenizer": box.kit / "tokenizer", "text_heads": "4", "vision_heads": "3", "local_depth": "2"}
    if rng.random() < 0.2:
        return Command.of("convert", source, out, "--to-published")
    return Command.of("convert", source, out, *spoiled(rng, box, options_of_command("convert"), given))


def long(rng: random.Random, box: Box) -> Command:
    """Return a wrong call of a command that would train or measure for long."""
    from xvlm.registry import names

    name = rng.choice([*LONG, "bench", "recipes"])
    if name == "bench":
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
    assert name in names("cli")
    return Command.of(name, *LONG.get(name, []), *rng.choice(wrong))


def words(rng: random.Random, box: Box) -> Command:
    """Return a call of any words."""
    from xvlm.registry import names

    known = [*names("cli"), "--help", "-h"]
    known = [name for name in known if name not in LONG]
    found = [rng.choice([*known, *mutate.TEXTS]) for _ in range(rng.randrange(5))]
    return Command.of(*[word.replace("\0", "") for word in found])
