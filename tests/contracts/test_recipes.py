"""Every recipe returns a run that can be written, read back, built and trained."""

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
from xvlm.common.json_file import to_json
from xvlm.config import Run, from_json
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import ModelConfig
from xvlm.recipes.common.faithful import as_published
from xvlm.registry import find, names
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.task import find_task
from xvlm.tasks.common.validation import TaskValidation, ZeroShotValidation
from xvlm.training.run_folder import flatten, read_run
from xvlm.training.train import train

RECIPES = names("recipes")


def run_of(name: str, **arguments: Any) -> Any:
    return find("recipes", name).recipe(**arguments)


@pytest.mark.parametrize("name", RECIPES)
def test_returns_a_run_that_can_be_recorded(name: str, tmp_path: Path) -> None:
    run = run_of(name)
    assert isinstance(run, Run) and run.recipe == name
    kind = find_task(run.task).run
    assert type(run) is kind
    written = json.dumps(to_json(run))
    assert from_json(kind, json.loads(written)) == run
    (tmp_path / "run.json").write_text(written)
    assert read_run(tmp_path / "run.json") == run


@pytest.mark.parametrize("name", RECIPES)
def test_explains_itself_and_its_arguments(name: str) -> None:
    module = find("recipes", name)
    assert (inspect.getdoc(module) or "").splitlines()[0].endswith(".")
    doc = inspect.getdoc(module.recipe) or ""
    for argument, parameter in inspect.signature(module.recipe, eval_str=True).parameters.items():
        assert f"{argument}: " in doc
        assert parameter.default is not inspect.Parameter.empty, "a recipe runs without arguments"
        kind = parameter.annotation
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        assert kind in (int, float, str), "arguments are texts on the command line"


def needs(run: Any) -> list[str]:
    """Return the Python packages whose weights a run needs."""
    specs = (run.init.vision, run.init.text, run.init.tokenizer)
    return [spec.removeprefix("python:") for spec in specs if spec.startswith("python:")]


def defaults(name: str) -> list[str]:
    return [str(one.default) for one in inspect.signature(find("recipes", name).recipe).parameters.values()]


OWN = [
    name for name in RECIPES if not any(default.startswith(("data/", "runs/")) for default in defaults(name))
]
"""Recipes that need no downloaded data and no earlier run."""


@pytest.mark.parametrize("name", OWN)
def test_builds(name: str, tmp_path: Path) -> None:
    """A recipe with a folder of photographs gets a few; a recipe without its weights is skipped."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    arguments = {}
    if "root" in parameters:
        write_photos(tmp_path / "photos", 4).rename(tmp_path / "photos" / "train.jsonl")
        arguments = {"root": str(tmp_path / "photos")}
    run = run_of(name, **arguments)
    absent = [package for package in needs(run) if importlib.util.find_spec(package) is None]
    if absent:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    built = find_task(run.task).build(run, tmp_path / "out")
    assert sum(p.numel() for p in built.bundle.model.parameters()) > 1e5
    if built.feature_cache is None:
        assert len(built.steps[0].batches) == run.accumulation_steps
    weighted = set(built.loss_module.loss_weights())
    assert weighted


def small(run: Any, model: ModelConfig, folder: Path) -> Any:
    """Return the run with a tiny model and two small steps."""
    data = run.data
    sizes = (
        {"batch_size": 4}
        if hasattr(data, "batch_size")
        else {
            "pairs_batch_size": 4,
            "regions_batch_size": 4,
            "region_texts_per_batch": 6 if run.faithful and data.regions else 0,
        }
    )
    if run.init.model:
        size = 96 if run.init.image_size else 0
        run = replace(run, init=InitConfig(model=str(folder), image_size=size))
        sizes |= (
            {"cached_views": 0} if hasattr(data, "cached_views") else {}
        )  # the tiny model has no frozen stem
    elif getattr(data, "cached_views", 0):
        sizes |= {"cached_views": 2}
    elif not needs(run):
        run = replace(
            run,
            init=InitConfig(vocab_size=150, vocab_records=20),
            model=replace(model, heads=run.model.heads),
        )
    return replace(
        run,
        data=replace(data, **sizes),
        optim=replace(run.optim, steps=2, epochs=0.0, warmup_steps=1, warmup_ratio=0.0),
        workers=0,
        save_every=0,
    )


def validation_of(run: Any, root: Path) -> Any:
    """Return validation data for a run whose recipe names none."""
    finetune, images = root / "finetune", str(root / "images")
    if run.task == "vqa":
        return TaskValidation(
            str(finetune / "vqa_val.json"), images, answers=str(finetune / "answer_list.json")
        )
    if run.task == "nlvr2":
        return TaskValidation(str(finetune / "nlvr_dev.json"), images)
    if run.task == "captioning":
        return TaskValidation(str(finetune / "coco_karpathy" / "coco_karpathy_val.json"), images)
    grounding = str(finetune / "refcoco+_val.json")
    retrieval = "" if run.task in ("grounding", "detection") else str(finetune / "coco_val.json")
    return ZeroShotValidation(retrieval, grounding, images)


@pytest.fixture(scope="module")
def published_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    published_data.write_all(root)
    published_data.write_own(root)
    save_model(tiny_loaded("swin"), root / "pretrained")
    return root


def arguments_of(name: str, root: Path) -> dict[str, Any]:
    """Return the arguments with which a recipe finds the toy files of its kind."""
    parameters = inspect.signature(find("recipes", name).recipe).parameters
    found: dict[str, Any] = {}
    for argument in parameters.keys() & {"root", "images"}:
        default = Path(parameters[argument].default)
        found[argument] = str(
            root / default.relative_to("data") if default.parts[0] == "data" else root / default
        )
    if "scenes" in parameters:
        found["scenes"] = 8
    return found


# Values of the published configurations (ALBEF's for entailment), by recipe in faithful mode: images of a
# batch (pairs or samples, then regions), length, peak learning rate, warm-up (fraction or steps), final
# learning rate, weight decay, clipping, precision, multiplier of new parameters, flips, image size, words.
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
    "published/base_4m": (1024, 384, 204_795, 1e-4, 2500, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "published/base_16m": (3072, 1152, 200_640, 1e-4, 2500, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 30),
    "published/retrieval_coco": (
        160,
        None,
        "10 epochs",
        3e-5,
        0.1,
        0.0,
        0.01,
        0.0,
        "fp32",
        2.0,
        True,
        384,
        30,
    ),
    "published/retrieval_flickr": (
        160,
        None,
        "10 epochs",
        3e-5,
        0.1,
        0.0,
        0.01,
        0.0,
        "fp32",
        2.0,
        True,
        384,
        30,
    ),
    "published/vqa": (192, None, "10 epochs", 5e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "published/vqa_480": (192, None, "10 epochs", 5e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 480, 30),
    "published/nlvr2_domain": (1024, None, "2 epochs", 3e-5, 0.1, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "published/nlvr2": (80, None, "10 epochs", 3e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 1.0, True, 384, 30),
    "published/refcoco_boxes_domain": (None, 72, 3320, 3e-5, 0.1, 0.0, 0.01, 1.0, "half", 2.0, True, 224, 40),
    "published/refcoco_boxes": (
        None,
        160,
        "10 epochs",
        3e-5,
        0.1,
        0.0,
        0.01,
        0.0,
        "fp32",
        2.0,
        True,
        384,
        30,
    ),
    "published/refcoco_weak": (160, None, "5 epochs", 2e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 30),
    "published/captioning_domain": (
        1024,
        None,
        "2 epochs",
        3e-5,
        0.1,
        0.0,
        0.01,
        1.0,
        "half",
        2.0,
        True,
        224,
        40,
    ),
    "published/captioning": (256, None, "5 epochs", 1e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 40),
    "published/captioning_scst": (8, None, 44_275, 1e-5, 0.1, 0.0, 0.01, 0.0, "fp32", 2.0, True, 384, 40),
    "published/entailment": (256, None, "5 epochs", 2e-5, 0.1, 1e-6, 0.02, 0.0, "fp32", 2.0, True, 384, 30),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_the_published_ones(name: str) -> None:
    """`captioning_scst` keeps the image size of the captioner that it starts from, 384."""
    run = as_published(run_of(name))
    optim, data = run.optim, run.data
    assert run.faithful and optim.betas == (0.9, 0.98)
    found = {
        "batch": getattr(data, "batch_size", None) or (data.pairs_batch_size if data.pairs else None),
        "regions": data.regions_batch_size if getattr(data, "regions", ()) else None,
        "length": f"{optim.epochs:g} epochs" if optim.epochs else optim.steps,
        "lr": optim.lr,
        "warmup": optim.warmup_ratio or optim.warmup_steps,
        "final": optim.lr * optim.final_lr_ratio,
        "decay": optim.weight_decay,
        "clip": optim.max_grad_norm,
        "precision": {"bf16": "half"}.get(run.precision, run.precision),
        "new": optim.new_lr_multiplier,
        "flip": data.random_flip,
        "side": run.init.image_size or (384 if name == "published/captioning_scst" else 224),
        "words": data.max_words,
    }
    for column, published in zip(COLUMNS, PUBLISHED[name], strict=True):
        assert found[column] == (pytest.approx(published) if type(published) is float else published), column


OURS = {
    "published/captioning_scst": {"data.batch_size": 64},
    "published/nlvr2": {"optim.new_lr_multiplier": 2.0},
    "published/refcoco_boxes": {"best_metric": "grounding_acc50"},
}
"""Defaults of ours that differ, besides precision; docs/published.md has the reasons."""


@pytest.mark.parametrize("name", RECIPES)
def test_faithful_changes_the_fields_of_the_table_only(name: str) -> None:
    before, after = (flatten(to_json(run)) for run in (run_of(name), as_published(run_of(name))))
    changed = {field for field in before if before[field] != after[field]}
    assert changed == {"faithful", *getattr(find("recipes", name), "PUBLISHED", {})}
    assert {field: before[field] for field in OURS.get(name, {})} == OURS.get(name, {})


def test_the_16m_region_files_hold_word_pieces() -> None:
    run = run_of("published/base_16m")
    assert all(one.tokenized for one in run.data.regions)
    assert not any(one.tokenized for one in (*run.data.pairs, *run_of("published/base_4m").data.regions))


def test_the_box_stage_is_as_long_as_the_published_one() -> None:
    """2 x 318,547 over 8 GPUs x 24 rows; 72 images and 192 texts a step, captions only in faithful mode."""
    run = run_of("published/refcoco_boxes_domain")
    assert run.optim.steps == 2 * math.ceil(318_547 / (24 * 8)) == 3320
    assert run.data.regions_batch_size * run.optim.steps / 318_547 == pytest.approx(0.75, abs=0.001)
    assert (run.data.region_texts_per_batch, run.data.max_regions, run.data.region_captions) == (0, 5, False)
    published = as_published(run)
    assert (published.data.region_texts_per_batch, published.data.max_regions) == (192, 5)
    assert published.data.region_captions and published.published_mirror == "always"


def test_faithful_drops_and_repeats_texts_of_the_box_stage(published_files: Path, tmp_path: Path) -> None:
    """Captions are among the texts, and have no box."""
    run = run_of("published/refcoco_boxes_domain", root=str(published_files / "pretrain"))
    published = as_published(run)
    for rows in (5, 30):
        ours, theirs = (
            small(one, tiny_config("swin", (64, 64)), published_files / "pretrained")
            for one in (run, published)
        )
        theirs = replace(theirs, data=replace(theirs.data, region_texts_per_batch=rows))
        batches = [
            find_task("grounding").build(one, tmp_path / "out").steps[0].batches[0] for one in (ours, theirs)
        ]
        assert batches[0].concepts.has_box_N.all()
        assert len(batches[1].concepts) == rows
    captions = ~batches[1].concepts.has_box_N
    assert 0 < captions.sum() < rows


def test_the_command_line_has_the_last_word(
    published_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--faithful` sets the published values; an option of the same command line overrides them."""
    runs: list[Any] = []
    monkeypatch.setattr("xvlm.training.train.train", lambda run, out, **_: runs.append(run))
    arguments = [
        f"{name}={value}"
        for name, value in arguments_of("published/captioning_scst", published_files).items()
    ]
    for options in ([], ["--faithful"], ["--faithful", "--data.batch_size", "16"]):
        assert (
            main(["train", "published/captioning_scst", *arguments, *options, "--out", str(tmp_path / "out")])
            == 0
        )
    assert [(run.data.batch_size, run.precision) for run in runs] == [
        (64, "bf16"),
        (8, "fp32"),
        (16, "fp32"),
    ]


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps_and_is_evaluated(
    name: str, faithful: bool, published_files: Path, tmp_path: Path
) -> None:
    """The files have the formats that the recipe names; the model is tiny."""
    run = run_of(name, **arguments_of(name, published_files))
    if absent := [package for package in needs(run) if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{name} needs the packages {', '.join(absent)}")
    run = as_published(run) if faithful else run
    model = tiny_config("swin", (64, 64), vocab_size=TextConfig.vocab_size)
    run = small(run, model, published_files / "pretrained")
    task = find_task(run.task)
    measure = task.evaluation(run)
    if measure is None and run.task != "text_assignment":
        measure = task.evaluation(replace(run, validation=validation_of(run, published_files)))
    _, state = train(run, tmp_path / "out", evaluate=measure)
    assert state.step == 2 and (tmp_path / "out" / "model" / "model.safetensors").is_file()
    # The vocabulary of the tiny model was trained on the published files, not on scenes.
    known = {"text has only unknown tokens"} if name.startswith("scenes/") else set()
    assert set(state.bad["counts"]) <= known
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in log if "loss" in row)
    names = {name for row in log for name in row}
    assert {"lr_large"} <= names if faithful else not {name for name in names if name.startswith("loss_")}
    if faithful and name in ("published/base_4m", "published/base_16m"):
        # The log of the published code has these quantities; regions only take the second step.
        assert {"loss_itc", "loss_itm", "loss_mlm", "loss_bbox", "loss_giou", "lr", "lr_large"} <= names
        assert [("loss_bbox" in row) for row in log if "loss" in row] == [False, True]
    measured = [row for row in log if row.get("event") == "eval"]
    assert len(measured) == (measure is not None)
    assert all(len(row) > 3 for row in measured), measured
