"""Model folders from strangers: configuration, weights and vocabulary damaged or hostile."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.fuzz import mutate, payload
from tests.fuzz.case import Box, Call, Command, Reading

SIZES = (
    "width",
    "heads",
    "mlp_width",
    "text_layers",
    "cross_layers",
    "max_positions",
    "vocab_size",
    "embed_dim",
)
HUGE = (10**9, 10**6, -1, 0, 2**63, 0.5, "1", None, [1], True)


def generate(rng: random.Random, box: Box) -> Call:
    """A copy of a good model folder with something in it changed, and what loads it."""
    kind = rng.choice(["model", "vqa_decoder", "caption_decoder", "pair_classifier", "classifier"])
    folder = box.folder / "model"
    shutil.copytree(box.kit / kind, folder)
    for _ in range(rng.choice([1, 1, 2])):
        if not all(path.is_file() for path in folder.iterdir()):
            break  # it holds a device or a pipe already, which the next change would read
        rng.choice([config, config, options, sizes, weights, weights, vocabulary, vocabulary, files])(
            rng, box, folder
        )
    if rng.random() < 0.3:
        image = box.kit / "photos" / "0.jpg"
        return Command.of("ground", image, "the red dog", "--model", folder, "--json")
    return Reading(f"load_model of a changed {kind}", lambda: asked(folder))


def asked(folder: Path) -> None:
    """Loads a model and asks it something."""
    from tests.tiny import photo
    from xvlm.predict import Predictor

    predictor = Predictor.load(folder, "cpu")
    picture = predictor.image(photo(40, 30, 1))
    for ask in (
        lambda: picture.ground("the red dog"),
        lambda: picture.match(["the red dog"]),
        lambda: picture.ask("what is it?"),
        lambda: picture.ask("what is it?", ["a dog", "a cat"]),
        lambda: picture.caption(),
    ):
        try:
            ask()
        except AttributeError:  # the model has no such head
            continue


def change_json(path: Path, change: Any) -> None:
    """Rewrites a JSON file, if it still is one."""
    if path.exists() and not path.is_file():  # an earlier change made it a link to a device
        return
    try:
        tree = json.loads(path.read_text())
    except (ValueError, OSError):
        return
    path.write_text(json.dumps(change(tree)))


def config(rng: random.Random, box: Box, folder: Path) -> None:
    """Any of its values."""
    path = folder / "config.json"
    if rng.random() < 0.3:
        path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    else:
        change_json(path, lambda tree: mutate.mutated(rng, tree))


def options(rng: random.Random, box: Box, folder: Path) -> None:
    """Options and names that would make timm read, fetch or run something."""
    evil = box.folder / "evil.pth"
    evil.write_bytes(payload.pickled(box))
    package = payload.write_package(box)
    name, value = rng.choice(
        [
            ("checkpoint_path", str(evil)),
            ("checkpoint_path", str(box.folder / "nothing.pth")),
            ("pretrained", True),
            ("pretrained_cfg", {"file": str(evil)}),
            ("pretrained_cfg_overlay", {"file": str(evil)}),
            ("pretrained_cfg_overlay", {"url": "http://127.0.0.1:9/x.pth"}),
            ("features_only", True),
            ("scriptable", True),
            ("cache_dir", str(box.root / "canary")),
            ("norm_layer", f"{package}.VALUE"),
            ("act_layer", package),
            ("block_args", {"x": 1}),
            ("img_size", 10**6),
            ("channels", [10**6] * 4),
            ("layers", [10**6] * 4),
            ("stem_width", 10**7),
            ("drop_path_rate", float("nan")),
            ("output_stride", 3),
            ("num_classes", 10**9),
            ("in_chans", 0),
            ("kwargs", {}),
            ("model_name", "resnet10t"),
            ("self", 1),
        ]
    )

    def change(tree: Any) -> Any:
        vision = tree["model"]["vision"]
        vision.setdefault("options", {})[name] = value
        if rng.random() < 0.3:
            names = (
                f"hf-hub:{box.folder}", f"local-dir:{box.folder}", "hf-hub:timm/resnet10t",
                "resnet10t.nothing", f"python:{package}.VALUE", "../../x", "",
                "vit_giant_patch14_224", mutate.ESCAPES,
            )  # fmt: skip
            vision["name"] = rng.choice(names)
        return tree

    change_json(folder / "config.json", lambda tree: change(tree) if holds_vision(tree) else tree)


def holds_vision(tree: Any) -> bool:
    """Whether a configuration is whole enough to be changed there."""
    try:
        return isinstance(tree["model"]["vision"].get("options", {}), dict)
    except (KeyError, TypeError, AttributeError):
        return False


def sizes(rng: random.Random, box: Box, folder: Path) -> None:
    """One size of the model, far from what its weights have."""

    def change(tree: Any) -> Any:
        found = [
            (part, key)
            for part, key in mutate.places(tree)
            if key in (*SIZES, "image_hw", "max_words", "max_tokens")
        ]
        if found:
            part, key = rng.choice(found)
            part[key] = [rng.choice(HUGE)] * 2 if key == "image_hw" else rng.choice(HUGE)
        return tree

    change_json(folder / "config.json", change)


def weights(rng: random.Random, box: Box, folder: Path) -> None:
    """The header, its length, offsets and types, or the numbers."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    how = rng.randrange(6)
    if how == 0 or len(data) < 16:
        path.write_bytes(mutate.damaged(rng, data))
        return
    (length,) = struct.unpack("<Q", data[:8])
    body = data[8 + length :]
    if how == 1:
        path.write_bytes(
            struct.pack("<Q", rng.choice([0, 1, 2**62, 2**64 - 1, 10**8 + 1, len(data)])) + data[8:]
        )
    elif how == 2:
        path.write_bytes(payload.pickled(box))
    elif how == 3:
        spoiled = bytearray(data)
        at = 8 + length + 4 * rng.randrange(max(1, len(body) // 4))
        spoiled[at : at + 4] = struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38]))
        path.write_bytes(spoiled)
    else:
        try:
            tree = json.loads(data[8 : 8 + length])
        except ValueError:
            return
        names = [name for name in tree if name != "__metadata__"]
        if how == 4:
            tensor = tree[rng.choice(names)]
            tensor[rng.choice(list(tensor))] = rng.choice(
                ["I64", "BF16", "F8_E4M3", "X", [2**62], [-1], [0, 2**62], [0]]
            )
        elif rng.random() < 0.5:
            tree.pop(rng.choice(names))
        else:
            tree = mutate.mutated(rng, tree)
        text = json.dumps(tree).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def vocabulary(rng: random.Random, box: Box, folder: Path) -> None:
    """Ids, duplicates, special tokens, other kinds of tokenizer."""
    path = folder / "tokenizer.json"

    def change(tree: Any) -> Any:
        how = rng.randrange(8)
        words = tree["model"]["vocab"]
        if how == 0:
            words[rng.choice(list(words))] = rng.choice([2**32 - 1, 2**32, -1, 2**31, 10**9, 1.5, "1", None])
        elif how == 1:
            words[rng.choice(list(words))] = rng.choice(list(words.values()))
        elif how == 2:
            words.pop(
                rng.choice(["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", rng.choice(list(words))]), None
            )
        elif how == 3:
            tree["added_tokens"] = [
                {"id": rng.choice([0, 2**32 - 1, 5]), "content": rng.choice(mutate.TEXTS), "special": True}
            ]
        elif how == 4:
            words.update({f"word{number}": len(words) + number for number in range(rng.choice([1, 100_000]))})
        elif how == 5:
            tree["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x" * 1000}
        elif how == 6:
            tree["pre_tokenizer"] = {
                "type": "Split",
                "pattern": {"Regex": rng.choice(["(", "(a|a)*b", ""])},
                "behavior": "Isolated",
                "invert": False,
            }
        else:
            return mutate.mutated(rng, tree)
        return tree

    if rng.random() < 0.2:
        path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    elif rng.random() < 0.1:
        path.write_bytes(payload.pickled(box))
    else:
        change_json(path, lambda tree: change(tree) if isinstance(tree, dict) else tree)


def files(rng: random.Random, box: Box, folder: Path) -> None:
    """A file that is missing, a folder, a link, or another one."""
    path = folder / rng.choice(["config.json", "model.safetensors", "tokenizer.json"])
    path.unlink(missing_ok=True)
    how = rng.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to("/dev/zero")
    elif how == 2:
        path.write_bytes(b"")
    elif how == 3:
        path.symlink_to(box.kit / "photos" / "0.jpg")
