"""Names of the version before this one, which are still read: in `run.json`, `config.json`, checkpoints and
on the command line.  The next version drops this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from xvlm.common.terminal import print_notice

T = TypeVar("T")

HEADS = {
    "masked": "mlm",
    "pairs": "pair_classifier",
    "assignment": "text_assignment",
    "answers": "vqa_decoder",
    "captions": "caption_decoder",
    "labels": "classifier",
}
"""Heads, and the first part of the names of their tensors."""

TASKS = {"assignment": "text_assignment"}

RECIPES = {
    "photos": "photos/pretrain",
    **{
        f"photos_{name}": f"photos/{name}"
        for name in ("align", "captioning", "grounding", "retrieval", "vqa", "weak_grounding")
    },
    **{
        f"scenes_{name}": f"scenes/{name}"
        for name in ("captioning", "grounding", "nlvr2", "vqa", "weak_grounding")
    },
    **{
        name: f"published/{name}"
        for name in (
            *("base_4m", "base_16m", "captioning", "captioning_domain", "captioning_scst", "entailment"),
            *("nlvr2", "nlvr2_domain", "refcoco_boxes", "refcoco_boxes_domain", "refcoco_weak"),
            *("retrieval_coco", "retrieval_flickr", "vqa", "vqa_480"),
        )
    },
}

FIELDS = {
    "accumulate": "accumulation_steps",
    "keep_best": "best_metric",
    "dev": "validation",
    "optim.new_multiplier": "optim.new_lr_multiplier",
    "optim.vision_multiplier": "optim.vision_lr_multiplier",
    "optim.text_multiplier": "optim.text_lr_multiplier",
    "optim.decoder_multiplier": "optim.decoder_lr_multiplier",
    "optim.warmup": "optim.warmup_steps",
    "optim.warmup_share": "optim.warmup_ratio",
    "optim.final_lr": "optim.final_lr_ratio",
    "optim.clip": "optim.max_grad_norm",
    "optim.ema": "optim.ema_decay",
    "model.parts": "model.heads",
    "model.vision.freeze_norm": "model.vision.freeze_batch_norm",
    "model.vision.stem_blocks": "model.vision.frozen_stem_blocks",
    "init.spread": "init.evenly_spaced_layers",
    "init.corpus": "init.vocab_records",
    "losses.easy_negatives": "losses.uniform_negative_ratio",
    "data.batch": "data.batch_size",
    "data.pairs_batch": "data.pairs_batch_size",
    "data.regions_batch": "data.regions_batch_size",
    "data.captions": "data.captions_per_image",
    "data.region_turns": "data.region_step_ratio",
    "data.region_rows": "data.region_texts_per_batch",
    "data.region_texts": "data.texts_per_region",
    "data.scale": "data.crop_scale",
    "data.crop": "data.random_crop",
    "data.flip": "data.random_flip",
    "data.stem_views": "data.cached_views",
    "data.stem_scale": "data.cached_crop_scale",
    "data.stem_cache": "data.feature_cache",
    "data.*.cache": "data.*.cache_in_memory",
    "dev.top": "validation.rerank_top_k",
    "captions": "captions_per_image",
    "questions": "questions_per_image",
    "statements": "statements_per_pair",
    "samples": "num_samples",
    "smoothing": "label_smoothing",
}
"""Fields of a run by their dotted names, as in `run.json` and as options of `xvlm train`."""

OPTIONS = {
    "top": "rerank-top-k",
    "memory": "memory-gb",
    "batch": "batch-size",
    "beams": "num-beams",
    "samples": "num-samples",
}
"""Options of `xvlm eval` and `xvlm caption`."""


def renamed_words(words: Sequence[str]) -> list[str]:
    """A command line with today's names for old ones; each old name is noted on standard error."""
    command = words[0] if words else ""
    new = [_renamed_word(command, number, word) for number, word in enumerate(words)]
    for old, now in zip(words, new, strict=True):
        if old != now:
            print_notice(f"{old} is now called {now}; the next version will not know the old name")
    return new


def _renamed_word(command: str, number: int, word: str) -> str:
    if command == "train" and number == 1 and word.startswith("task="):
        return f"task={TASKS.get(word.removeprefix('task='), word.removeprefix('task='))}"
    if command == "train" and number == 1:
        return RECIPES.get(word.replace("-", "_"), word)
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    plain = name.replace("-", "_")
    if command == "train" and (field := _renamed_option(plain)) != plain:
        return f"--{field.replace('_', '-')}{equals}{value}"
    if command in ("eval", "caption") and name in OPTIONS:
        return f"--{OPTIONS[name]}{equals}{value}"
    return word


def _renamed_option(option: str) -> str:
    """Return today's name of a field: `dev.top`, negated `data.no_crop`, of a source `data.train.0.cache`."""
    section, dot, last = option.rpartition(".")
    negation = "no_" if last.startswith("no_") else ""
    old = f"{section}{dot}{last.removeprefix('no_')}"
    new = FIELDS.get(old) or FIELDS.get(re.sub(r"^data\.\w+\.\d+\.", "data.*.", old))
    new_section = re.sub(r"^dev(?=\.|$)", "validation", section)
    if new is None:
        return f"{new_section}{dot}{last}"
    return f"{new_section}{dot}{negation}{new.rpartition('.')[2]}"


def renamed_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `run.json`, with today's names for old ones."""
    tree = _renamed_fields(run, "")
    for field, table in (("task", TASKS), ("recipe", RECIPES)):
        if isinstance(tree.get(field), str):
            tree[field] = table.get(tree[field], tree[field])
    if isinstance(run.get("model"), Mapping):
        tree["model"] = renamed_model(run["model"])
        if "parts" in run["model"]:
            _drop_ignored(tree)
    return tree


def _drop_ignored(tree: dict[str, Any]) -> None:
    """Remove the fields of an old run that had no effect, which are errors today."""

    def section(*path: str) -> dict[str, Any]:
        found: Any = tree
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    init, data, model, losses = (section(name) for name in ("init", "data", "model", "losses"))
    validation, vision, text = section("validation"), section("model", "vision"), section("model", "text")
    heads, tokenizer = model.get("heads"), ("tokenizer", "vocab_size", "vocab_records")
    ignored: list[tuple[dict[str, Any], Iterable[str], bool]] = [
        (model, ("embed_dim", "temperature", "box_head"), bool(init.get("model"))),
        (vision, vision.keys() - {"patch_dropout"}, bool(init.get("model"))),
        (text, text.keys() - {"dropout"}, bool(init.get("model"))),
        (text, text.keys() - {"text_layers", "cross_layers", "pooling", "dropout"}, bool(init.get("text"))),
        (text, ("vocab_size",), True),
        (model, ("labels",), isinstance(heads, list) and "classifier" not in heads),
        (init, ("vision", "text", "evenly_spaced_layers", *tokenizer), bool(init.get("model"))),
        (init, tokenizer, bool(init.get("text"))),
        (init, tokenizer[1:], bool(init.get("tokenizer"))),
        (init, ("evenly_spaced_layers",), not init.get("text")),
        (init, ("image_size",), not init.get("model")),
        (tree, ("published_mirror",), not tree.get("faithful")),
        (data, ("region_texts_per_batch",), not tree.get("faithful")),
        (data, ("crop_scale",), data.get("random_crop") is False),
        (data, ("cached_crop_scale", "feature_cache"), not data.get("cached_views")),
        (data, ("captions_per_image", "boxes_as_captions"), not data.get("pairs")),
        (data, ("max_regions", "texts_per_region", "region_captions"), not data.get("regions")),
        (losses, ("uniform_negative_ratio", "global_negatives"), losses.get("itm") == 0),
        (validation, ("rerank_top_k", "rerank"), not validation.get("retrieval")),
        (validation, ("detections",), not validation.get("grounding")),
        (validation, ("answers",), not validation.get("data")),
        (tree, ("eval_every",), not any(validation.get(one) for one in ("retrieval", "grounding", "data"))),
    ]
    for fields, names, has_no_effect in ignored:
        for name in list(names) if has_no_effect else ():
            fields.pop(name, None)


def renamed_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration, with today's names for old ones."""
    tree = _renamed_fields(model, "model.")
    if isinstance(tree.get("heads"), list) and "parts" in model:
        tree["heads"] = [HEADS.get(name, name) if isinstance(name, str) else name for name in tree["heads"]]
    return tree


def _renamed_fields(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        new = FIELDS.get(f"{prefix}{name}", f"{prefix}{name}").rpartition(".")[2]
        if isinstance(value, Mapping):
            value = _renamed_fields(value, f"{prefix}{name}.")
        elif isinstance(value, list):  # of sources
            value = [
                _renamed_fields(one, f"{prefix}*.") if isinstance(one, Mapping) else one for one in value
            ]
        found[new] = value
    return found


def renamed_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors by name, with today's names of heads for old ones."""
    return {_renamed_tensor(name): value for name, value in tensors.items()}


def _renamed_tensor(name: str) -> str:
    head, dot, rest = name.partition(".")
    return f"{HEADS.get(head, head)}{dot}{rest}" if dot else name


def renamed_names(names: list[str]) -> list[str]:
    """Names of parameters, with today's names of heads for old ones."""
    return [_renamed_tensor(name) for name in names]
