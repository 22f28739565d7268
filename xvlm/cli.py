"""`xvlm`: the main job and its parts from a shell."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from xvlm.ask import ask, caption, compare, ground, match
from xvlm.errors import InputError, printable
from xvlm.failures import exit_code
from xvlm.lookup import find, names
from xvlm.machine import reuse_freed_memory
from xvlm.ranges import (
    FiniteFloat,
    NonNegativeFloat,
    PositiveInt,
    check_options,
    checked,
    from_text,
    hints_of,
)
from xvlm.terminal import escaped_output


def demo(out: Path = Path("runs/demo"), tasks: tuple[str, ...] = ()) -> None:
    """Pre-train on drawn scenes, look at unseen ones, write report.html and metrics.json.

    Args:
        out: folder; an interrupted demo goes on where it was.
        tasks: fine-tune the model for these tasks instead and write tasks.json; `all` stands for every one.
            The model is pre-trained first if the folder has none.
    """
    from xvlm.demo import run_demo
    from xvlm.demo_tasks import TASKS, check_tasks, run_tasks

    chosen = list(TASKS) if tasks == ("all",) else list(tasks)
    check_tasks(chosen)
    if not tasks or not (out / "metrics.json").exists():
        run_demo(out)
    if tasks:
        run_tasks(out, chosen)


def ablate(
    on: Literal["scenes", "photos"] = "scenes",
    root: Path = Path("photos"),
    out: Path = Path("runs/ablate"),
    minutes: NonNegativeFloat = 20.0,
) -> None:
    """The paper's claim: one budget spent on whole images, on regions, on both, on both without the box loss.

    Args:
        on: what to learn from.
        root: with photos, the folder that holds them (see `xvlm train photos`).
        out: gets one run a variant, `table.md`, `table.json`, `ablation.svg`; goes on where it was.
        minutes: of training for each variant.
    """
    from xvlm.ablate import run_ablation

    run_ablation(on, root, out, minutes)


def photos(
    root: Positional[Path], out: Path = Path("runs/photos"), minutes: NonNegativeFloat = 115.0
) -> None:
    """Train the `photos` recipe on a folder of photographs, measure it on `dev`, write the report.

    Args:
        root: folder with train.jsonl, dev.jsonl, dev_grounding.json and images.
        out: folder; an interrupted run goes on where it was.
        minutes: of keeping the stem and training, over all sittings; then it is measured as it is.
    """
    from xvlm.photos import run_photos

    run_photos(root, out, minutes)


def eval_(measure_and_options: Positional[tuple[str, ...]] = ()) -> None:
    """Measure a model on a file of the published form: xvlm eval MEASURE --model M --data D --out O [...].

    Writes metrics.json, predictions.json and report.html, and submission.json where a server takes one.
    Started by torchrun, every process measures a part; the results are those of one.

    Args:
        measure_and_options: grounding, weak_grounding, retrieval, vqa, nlvr2, captioning or entailment, then
            options; `xvlm eval MEASURE --help` lists them.
    """
    from xvlm.measure import measure

    measure(measure_and_options)


def layers(
    model: Path,
    data: str,
    out: Path,
    image_root: str | None = None,
    detections: Path | None = None,
    powers: tuple[FiniteFloat, ...] = (0.5,),
    limit: PositiveInt | None = None,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Which cross-modal layer shows best where a phrase is?  Weak grounding by each, in one pass; a table.

    Args:
        model: model folder, run folder or hub repository.
        data: phrases with a box each, as for `xvlm eval weak_grounding`; a validation split.
        out: folder for layers.json.
        image_root: where image paths start; by default beside the file.
        detections: file of candidate boxes; by default the boxes of the image's own phrases.
        powers: of the area that a candidate's score is divided by; every one is tried.
        limit: use only the first so many records.
        max_pixels: largest image.
        allow_remote: data files may name images by URL.
    """
    from xvlm import dist
    from xvlm.data.limits import change_limits
    from xvlm.data.sources import open_source
    from xvlm.evaluate._layers import layers_json, layers_table, search_layers
    from xvlm.outputs import check_output_file, is_json_object
    from xvlm.predict import Predictor
    from xvlm.run import write_json

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    dist.init()
    check_output_file(out / "layers.json", is_json_object, "JSON object")
    predictor, source = Predictor.load(model, dist.device()), open_source(data, image_root)
    results = search_layers(predictor, source, limit, powers, detections)
    if dist.is_main():
        write_json(out / "layers.json", layers_json(results))
        print(layers_table(results))


def bench(measure_and_options: Positional[tuple[str, ...]] = ()) -> None:
    """How fast is it?  xvlm bench MEASURE [--json FILE] [--check FILE] [...].

    Args:
        measure_and_options: step, rerank, data or growth, then options; `xvlm bench MEASURE --help` lists
            them.
    """
    from xvlm.measure import bench

    bench(measure_and_options)


def recipes() -> None:
    """List the recipes, a line each."""
    known = names("recipes")
    for name in known:
        print(f"{name:{max(map(len, known))}}  {summary(find('recipes', name))}")


def summary(thing: Any) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def train(recipe_and_fields: Positional[tuple[str, ...]] = ()) -> None:
    """Train a recipe: xvlm train RECIPE [name=value ...] [--FIELD VALUE ...].

    Args:
        recipe_and_fields: a recipe, then its arguments as name=value, then any field of the run by its dotted
            name (`xvlm train RECIPE --help` lists them); or `--from run.json` in place of the recipe.
    """
    from xvlm.recipes._published import as_published
    from xvlm.train.start import read_run, say
    from xvlm.train.start import train as train_run

    words = list(recipe_and_fields)
    if words[:1] == ["--from"] and len(words) > 1:
        recipe, run, rest = "", read_run(Path(words[1])), words[2:]
    elif words and not words[0].startswith("-"):
        recipe, rest = words[0], words[1:]
        given = []
        while rest and "=" in rest[0] and not rest[0].startswith("-"):
            given.append(rest.pop(0).partition("="))
        run = call_recipe(recipe, {name: value for name, _, value in given})
        if "--faithful" in rest:
            run = as_published(run)
    else:
        raise InputError(
            f"xvlm train needs a recipe first ({', '.join(names('recipes'))}), or --from run.json; "
            "`xvlm train RECIPE --help` lists every field"
        )
    prog = f"xvlm train {recipe or '--from run.json'}"
    options = training_options(run)
    with escaped_output():
        asked = tyro.cli(options, args=rest, prog=prog, description=summary(train))
    check_options(hints_of(options), vars(asked))
    out = asked.out or Path(f"runs/{asked.run.recipe or asked.run.task}")
    measure = find("tasks", asked.run.task).evaluation(asked.run)
    said = any(word.split("=")[0] == "--precision" for word in rest)
    train_run(
        asked.run, out, resume=asked.resume, minutes=asked.minutes, evaluate=measure, new_precision=said
    )
    say(f"model: {out / 'model'}")


def training_options(run: Any) -> Any:
    """A dataclass of a run's fields, under their own names, and of how it is to be trained."""

    def option(name: str, kind: Any, default: Any, text: str) -> tuple[str, Any, Any]:
        return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default)

    return dataclasses.make_dataclass(
        "TrainingOptions",
        [
            option("out", Path | None, None, "folder of the run; by default runs/RECIPE"),
            option("resume", tyro.conf.FlagCreatePairsOff[bool], False, "go on with the run in this folder"),
            option(
                "minutes", NonNegativeFloat | None, None, "stop, saved, after so many minutes in all sittings"
            ),
            ("run", Annotated[type(run), tyro.conf.arg(name="")], dataclasses.field(default=run)),
        ],
    )


def call_recipe(name: str, given: dict[str, str]) -> Any:
    """The recipe's run; `given` are its function's arguments as text.

    Raises InputError for an argument that it does not have, or that is no number where there must be one, or
    out of its range.
    """
    function = find("recipes", name).recipe
    parameters = inspect.signature(function, eval_str=True).parameters
    for word in given:
        if word not in parameters:
            raise InputError(
                f"recipe {name} has no argument {word}; it has {', '.join(parameters) or 'none'}"
            )
    arguments = {word: from_text(parameters[word].annotation, value, word) for word, value in given.items()}
    return function(**arguments)


def convert(
    source: Positional[Path],
    out: Positional[Path],
    to_published: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    tokenizer: str = "",
    text_heads: PositiveInt | None = None,
    vision_heads: PositiveInt | None = None,
    local_depth: PositiveInt | None = None,
    image_size: PositiveInt | None = None,
    ema: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Take a checkpoint of the published X-VLM, of any kind, into a model folder; or back.

    Args:
        source: the published checkpoint; with `--to-published` a model folder of ours.
        out: the model folder to write; with `--to-published` the checkpoint's file.
        to_published: the other way round.
        tokenizer: folder with tokenizer.json or vocab.txt, or hub id; by default as the checkpoint says.
        text_heads: attention heads of a text stack that is not 768 or 1024 wide.
        vision_heads: the same of a ViT.
        local_depth: blocks of a ViT that run again for each region, where it is not 768 or 1024 wide.
        image_size: another side of images than the checkpoint's; positions are resized as published.
        ema: take the running average of the weights that stands beside them in the file.
    """
    from xvlm.convert import convert, convert_back
    from xvlm.model.published_sizes import Unseen

    if to_published:
        print(printable(convert_back(source, out)))
    else:
        convert(source, out, Unseen(text_heads, vision_heads, local_depth, image_size), tokenizer, ema)


def average(
    models: Positional[tuple[str, ...]], out: Path, weights: tuple[NonNegativeFloat, ...] = ()
) -> None:
    """A model between several: its weights are their mean.  For models that were trained from one another.

    Args:
        models: model folders, run folders or hub repositories; the first says what the result can do.
        out: model folder to write.
        weights: one for each model, in any unit; by default all weigh the same.
    """
    from xvlm.average import average

    average(models, out, weights)
    print(printable(out))


COMMANDS: dict[str, Any] = {
    "demo": demo,
    "train": train,
    "ground": ground,
    "match": match,
    "caption": caption,
    "ask": ask,
    "compare": compare,
    "eval": eval_,
    "layers": layers,
    "bench": bench,
    "photos": photos,
    "ablate": ablate,
    "recipes": recipes,
    "convert": convert,
    "average": average,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see `xvlm/failures.py` for what it says of failures, and for exit codes."""
    reuse_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: run_command(given), given)


def run_command(arguments: list[str]) -> None:
    """The command that the first word names, with the options in the others."""
    takes_words = {"train": train, "eval": eval_, "bench": bench}.get(arguments[0] if arguments else "")
    if takes_words and arguments[1:2] not in (["-h"], ["--help"]):
        takes_words(tuple(arguments[1:]))
    else:
        with escaped_output():
            call = tyro.extras.subcommand_cli_from_dict(
                {name: parsed_only(command) for name, command in COMMANDS.items()},
                prog="xvlm",
                description="Multi-grained vision-language pre-training.",
                args=arguments,
            )
        call()


def parsed_only(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function of the command's signature that returns the call instead of making it."""

    @wraps(command)
    def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return partial(checked(command), *args, **kwargs)

    return later
