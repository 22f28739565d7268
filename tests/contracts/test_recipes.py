"""Every recipe, by its file: it returns a whole run, which can be written, read back and built."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from tests import published_data
from tests.tiny import tiny_config, tiny_loaded, write_photos
from xvlm.cli import main
from xvlm.lookup import find, names
from xvlm.model.folder import save_model
from xvlm.model.xvlm import ModelConfig
from xvlm.recipes._published import as_published
from xvlm.run import Run, from_json, to_json
from xvlm.tasks._build import Init
from xvlm.tasks._dev import DevConfig, FinetuneDev
from xvlm.train.run_folder import flat, read_run
from xvlm.train.start import train

RECIPES = names("recipes")


def run_of(name: str, **arguments: Any) -> Any:
    return find("recipes", name).recipe(**arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_returns_a_whole_run(name: str, tmp_path: Path) -> None:
    run = run_of(name)
    assert isinstance(run, Run) and run.recipe == name
    kind = find("tasks", run.task).RUN
    assert type(run) is kind
    written = json.dumps(to_json(run))
    assert from_json(kind, json.loads(written)) == run
    (tmp_path / "run.json").write_text(written)
    assert read_run(tmp_path / "run.json") == run


@pytest.mark.parametrize("name", RECIPES)
def test_says_what_it_is_and_what_it_takes(name: str) -> None:
    module = find("recipes", name)
    assert (inspect.getdoc(module) or "").splitlines()[0].endswith(".")
    doc = inspect.getdoc(module.recipe) or ""
    for argument, parameter in inspect.signature(module.recipe, eval_str=True).parameters.items():
        assert f"{argument}: " in doc
        assert parameter.default is not inspect.Parameter.empty, "a recipe runs without arguments"
        kind = parameter.annotation
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        assert kind in (int, float, str), "given as text on the command line"


def needs(run: Any) -> list[str]:
    """Python packages with weights that a run asks for."""
    asked = (run.init.vision, run.init.text, run.init.tokenizer)
    return [spec.removeprefix("python:") for spec in asked if spec.startswith("python:")]


def defaults(name: str) -> list[str]:
    return [str(one.default) for one in inspect.signature(find("recipes", name).recipe).parameters.values()]


OWN = [
    name for name in RECIPES if not any(default.startswith(("data/", "runs/")) for default in defaults(name))
]
"""Recipes that begin with nothing but public towers: their data are drawn or your own."""


@pytest.mark.parametrize("name", OWN)
def test_builds(name: str, tmp_path: Path) -> None:
    """On a few photographs where it asks for a folder of them; not without the weights it needs."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    arguments = {}
    if "root" in parameters:
        write_photos(tmp_path / "photos", 4).rename(tmp_path / "photos" / "train.jsonl")
        arguments = {"root": str(tmp_path / "photos")}
    run = run_of(name, **arguments)
    absent = [package for package in needs(run) if importlib.util.find_spec(package) is None]
    if absent:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    built = find("tasks", run.task).build(run, tmp_path / "out")
    assert sum(p.numel() for p in built.loaded.model.parameters()) > 1e5
    if built.stem is None:
        assert len(built.feed[0].batches) == run.accumulate
    weighted = set(built.task.loss_weights())
    assert weighted


def small(run: Any, model: ModelConfig, folder: Path) -> Any:
    """The same run on a tiny model, in two short steps."""
    data = run.data
    sizes = (
        {"batch": 4} if hasattr(data, "batch") else {"pairs_batch": 4, "regions_batch": 4, "region_rows": 6}
    )
    if run.init.model:
        size = 96 if run.init.image_size else 0
        run = replace(run, init=Init(model=str(folder), image_size=size))
        sizes |= {"stem_views": 0} if hasattr(data, "stem_views") else {}  # tiny models have no stem
    elif getattr(data, "stem_views", 0):
        sizes |= {"stem_views": 2}
    elif not needs(run):
        run = replace(run, init=Init(vocab_size=150, corpus=20), model=replace(model, parts=run.model.parts))
    return replace(
        run,
        data=replace(data, **sizes),
        optim=replace(run.optim, steps=2, epochs=0.0, warmup=1, warmup_share=0.0),
        workers=0,
        save_every=0,
    )


def asked_of(run: Any, root: Path) -> Any:
    """What a run is measured by, where its recipe leaves it open."""
    finetune, images = root / "finetune", str(root / "images")
    if run.task == "vqa":
        return FinetuneDev(str(finetune / "vqa_val.json"), images, answers=str(finetune / "answer_list.json"))
    if run.task == "nlvr2":
        return FinetuneDev(str(finetune / "nlvr_dev.json"), images)
    if run.task == "captioning":
        return FinetuneDev(str(finetune / "coco_karpathy" / "coco_karpathy_val.json"), images)
    grounding = str(finetune / "refcoco+_val.json")
    retrieval = "" if run.task == "grounding" else str(finetune / "coco_val.json")
    return DevConfig(retrieval, grounding, images)


@pytest.fixture(scope="module")
def published_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    published_data.write_all(root)
    published_data.write_own(root)
    save_model(tiny_loaded("swin"), root / "pretrained")
    return root


def arguments_of(name: str, root: Path) -> dict[str, Any]:
    """Where a recipe finds the toy files of its kind."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    given: dict[str, Any] = {}
    for argument in parameters.keys() & {"root", "images"}:
        default = Path(parameters[argument].default)
        given[argument] = str(
            root / default.relative_to("data") if default.parts[0] == "data" else root / default
        )
    if "scenes" in parameters:
        given["scenes"] = 8
    return given


# task, batch (images of pairs or samples; of regions), length, peak rate, share or steps of warm-up, final
# rate, decay, clip, precision, multiplier of new parameters, mirrors, side, words: of the published
# configurations (ALBEF's for entailment), by recipe in faithful mode.
COLUMNS = (
    "batch",
    "regions",
    "length",
    "lr",
    "warmup",
    "final",
    "decay",
    "clip",
    "precision",
    "new",
    "flip",
    "side",
    "words",
)
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "base_4m": (1024, 384, 204_795, 1e-4, 2500, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "base_16m": (3072, 1152, 200_640, 1e-4, 2500, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 30),
    "retrieval_coco": (160, None, "10 epochs", 3e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "retrieval_flickr": (160, None, "10 epochs", 3e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "vqa": (192, None, "10 epochs", 5e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "vqa_480": (192, None, "10 epochs", 5e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 480, 30),
    "nlvr2_domain": (1024, None, "2 epochs", 3e-5, 0.1, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "nlvr2": (80, None, "10 epochs", 3e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 1.0, True, 384, 30),
    "refcoco_boxes_domain": (None, 72, 3320, 3e-5, 0.1, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "refcoco_boxes": (None, 160, "10 epochs", 3e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "refcoco_weak": (160, None, "5 epochs", 2e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "captioning_domain": (1024, None, "2 epochs", 3e-5, 0.1, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "captioning": (256, None, "5 epochs", 1e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 40),
    "captioning_scst": (8, None, 44_275, 1e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 40),
    "entailment": (256, None, "5 epochs", 2e-5, 0.1, 1e-6, 0.02, 0.0, "fp32", 2.0, True, 384, 30),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_the_published_ones(name: str) -> None:
    """`captioning_scst` goes on at the side of the captioner that it begins with, 384."""
    run = as_published(run_of(name))
    optim, data = run.optim, run.data
    assert run.faithful and optim.betas == (0.9, 0.98)
    found = {
        "batch": getattr(data, "batch", None) or (data.pairs_batch if data.pairs else None),
        "regions": data.regions_batch if getattr(data, "regions", ()) else None,
        "length": f"{optim.epochs:g} epochs" if optim.epochs else optim.steps,
        "lr": optim.lr,
        "warmup": optim.warmup_share or optim.warmup,
        "final": optim.lr * optim.final_lr,
        "decay": optim.weight_decay,
        "clip": optim.clip,
        "precision": {"bf16": "half"}.get(run.precision, run.precision),
        "new": optim.new_multiplier,
        "flip": data.flip,
        "side": run.init.image_size or (384 if name == "captioning_scst" else 224),
        "words": data.max_words,
    }
    for column, published in zip(COLUMNS, PUBLISHED[name], strict=True):
        assert found[column] == (pytest.approx(published) if type(published) is float else published), column


OURS = {
    "captioning_scst": {"data.batch": 64},
    "nlvr2": {"optim.new_multiplier": 2.0},
    "refcoco_boxes": {"keep_best": "grounding_acc50"},
}
"""What differs by default besides precision, by its documented reason (docs/published.md)."""


@pytest.mark.parametrize("name", RECIPES)
def test_faithful_changes_what_the_table_says_and_no_more(name: str) -> None:
    before, after = (flat(to_json(run)) for run in (run_of(name), as_published(run_of(name))))
    changed = {field for field in before if before[field] != after[field]}
    assert changed == {"faithful", *getattr(find("recipes", name), "PUBLISHED", {})}
    assert {field: before[field] for field in OURS.get(name, {})} == OURS.get(name, {})


def test_the_16m_region_files_hold_word_pieces() -> None:
    run = run_of("base_16m")
    assert all(one.tokenized for one in run.data.regions)
    assert not any(one.tokenized for one in (*run.data.pairs, *run_of("base_4m").data.regions))


def test_the_box_stage_is_as_long_as_the_published_one() -> None:
    """2 x 318,547 over 8 GPUs x 24 rows; 72 images and 192 texts a step, captions only in faithful mode."""
    run = run_of("refcoco_boxes_domain")
    assert run.optim.steps == 2 * math.ceil(318_547 / (24 * 8)) == 3320
    assert run.data.regions_batch * run.optim.steps / 318_547 == pytest.approx(0.75, abs=0.001)
    assert (run.data.region_rows, run.data.max_regions, run.data.region_captions) == (192, 5, False)
    published = as_published(run)
    assert published.data.region_captions and published.published_mirror == "always"


def test_faithful_cuts_and_fills_the_rows_of_the_box_stage(published_files: Path, tmp_path: Path) -> None:
    """Captions stand among the rows, and have no box to learn."""
    run = run_of("refcoco_boxes_domain", root=str(published_files / "pretrain"))
    published = as_published(run)
    for rows in (5, 30):
        ours, theirs = (
            small(one, tiny_config("swin", (64, 64)), published_files / "pretrained")
            for one in (run, published)
        )
        theirs = replace(theirs, data=replace(theirs.data, region_rows=rows))
        batches = [
            find("tasks", "grounding").build(one, tmp_path / "out").feed[0].batches[0]
            for one in (ours, theirs)
        ]
        assert batches[0].concepts.has_box_N.all()
        assert len(batches[1].concepts) == rows
    captions = ~batches[1].concepts.has_box_N
    assert 0 < captions.sum() < rows


def test_the_command_line_has_the_last_word(
    published_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--faithful` brings the published values; an option in the same call is stronger."""
    asked: list[Any] = []
    monkeypatch.setattr("xvlm.train.start.train", lambda run, out, **_: asked.append(run))
    given = [f"{name}={value}" for name, value in arguments_of("captioning_scst", published_files).items()]
    for options in ([], ["--faithful"], ["--faithful", "--data.batch", "16"]):
        assert main(["train", "captioning_scst", *given, *options, "--out", str(tmp_path / "out")]) == 0
    assert [(run.data.batch, run.precision) for run in asked] == [(64, "bf16"), (8, "fp32"), (16, "fp32")]


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps_and_is_measured(
    name: str, faithful: bool, published_files: Path, tmp_path: Path
) -> None:
    """On files in the formats that the recipe names, with a tiny model in place of its own."""
    run = run_of(name, **arguments_of(name, published_files))
    if absent := [package for package in needs(run) if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    run = as_published(run) if faithful else run
    run = small(run, tiny_config("swin", (64, 64)), published_files / "pretrained")
    task = find("tasks", run.task)
    measure = task.evaluation(run)
    if measure is None and run.task != "assignment":
        measure = task.evaluation(replace(run, dev=asked_of(run, published_files)))
    _, state = train(run, tmp_path / "out", evaluate=measure)
    assert state.step == 2 and (tmp_path / "out" / "model" / "model.safetensors").is_file()
    # The tiny model's vocabulary is of the published files, not of scenes.
    known = {"text has only unknown tokens"} if name.startswith("scenes_") else set()
    assert set(state.bad["counts"]) <= known
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in log if "loss" in row)
    names = {name for row in log for name in row}
    assert {"lr_large"} <= names if faithful else not {name for name in names if name.startswith("loss_")}
    if faithful and name in ("base_4m", "base_16m"):
        # where a log of the published code has these quantities; regions only before the second step
        assert {"loss_itc", "loss_itm", "loss_mlm", "loss_bbox", "loss_giou", "lr", "lr_large"} <= names
        assert [("loss_bbox" in row) for row in log if "loss" in row] == [False, True]
    measured = [row for row in log if row.get("event") == "eval"]
    assert len(measured) == (measure is not None)
    assert all(len(row) > 3 for row in measured), measured
