"""`xvlm`: the main job and its parts from a shell."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from xvlm.lookup import find, names
from xvlm.records import BadRecord

Json = Annotated[bool, tyro.conf.arg(help="print JSON")]


def demo(out: Path = Path("runs/demo")) -> None:
    """Pre-train on drawn scenes, look at unseen ones, write report.html and metrics.json.

    Args:
        out: folder; an interrupted demo goes on where it was.
    """
    from xvlm.demo import run_demo

    run_demo(out)


def ablate(
    on: Literal["scenes", "photos"] = "scenes",
    root: Path = Path("photos"),
    out: Path = Path("runs/ablate"),
    minutes: float = 20.0,
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


def photos(root: Positional[Path], out: Path = Path("runs/photos"), minutes: float = 115.0) -> None:
    """Train the `photos` recipe on a folder of photographs, measure it on `dev`, write the report.

    Args:
        root: folder with train.jsonl, dev.jsonl, dev_grounding.json and images.
        out: folder; an interrupted run goes on where it was.
        minutes: of keeping the stem and training, over all sittings; then it is measured as it is.
    """
    from xvlm.photos import run_photos

    run_photos(root, out, minutes)


def ground(
    image: Positional[str],
    phrase: Positional[str],
    model: Path = Path("runs/demo"),
    draw: Path | None = None,
    json: Json = False,
) -> None:
    """Where is this phrase in the image?

    Args:
        image: path or URL of an image.
        phrase: what to look for.
        model: model folder, run folder or hub repository.
        draw: write the image with the box to this file.
    """
    from xvlm.gallery import picture
    from xvlm.predict import Predictor
    from xvlm.report import DrawnBox, draw_box

    box, score = Predictor.load(model).image(image).ground(phrase)
    if draw is not None:
        draw_box(picture(image), [DrawnBox(box, f"{phrase} {score:.2f}")]).save(draw)
    show({"phrase": phrase, "box_xyxy": [round(edge, 2) for edge in box], "score": score}, json)


def match(
    image: Positional[str],
    texts: Positional[tuple[str, ...]],
    model: Path = Path("runs/demo"),
    json: Json = False,
) -> None:
    """How well does each text describe the image?

    Args:
        image: path or URL of an image.
        texts: one or more.
        model: model folder, run folder or hub repository.
    """
    from xvlm.predict import Predictor

    scores = Predictor.load(model).image(image).match(texts)
    if json:
        show({"scores": dict(zip(texts, scores, strict=True))}, json)
    else:
        for text, score in sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1]):
            print(f"{score:.4f}  {text}")


def eval_(
    measure: Positional[Literal["grounding", "retrieval"]],
    model: Path,
    data: str,
    out: Path,
    image_root: str | None = None,
    top: int = 32,
    rerank: Literal["both", "matching"] = "both",
    limit: int | None = None,
) -> None:
    """Measure a model on a file of the published form; writes metrics.json and predictions.json.

    Args:
        measure: grounding (phrases with one box each) or retrieval (images with captions).
        model: model folder, run folder or hub repository.
        data: JSON or JSON-lines file, tar shards, or a scheme such as scenes:test:500.
        out: folder for the results.
        image_root: where image paths start; by default beside the file.
        top: retrieval: candidates that are reranked by matching for every query; 0 for none.
        rerank: retrieval: by contrastive score and matching together, or by matching alone (published).
        limit: use only the first so many records.
    """
    from xvlm.data.sources import open_source
    from xvlm.evaluate import evaluate_grounding, evaluate_retrieval
    from xvlm.predict import Predictor
    from xvlm.run import write_json

    predictor, source = Predictor.load(model), open_source(data, image_root)
    if measure == "grounding":
        metrics, cases = evaluate_grounding(predictor, source, limit)
        predictions: Any = [case.to_json() for case in cases]
    else:
        metrics, ranked = evaluate_retrieval(predictor, source, limit, top, rerank)
        predictions = ranked.to_json()
    write_json(out / "metrics.json", metrics)
    write_json(out / "predictions.json", predictions)
    show(metrics, True)


def recipes() -> None:
    """List the recipes, a line each."""
    for name in names("recipes"):
        doc = inspect.getdoc(find("recipes", name)) or ""
        print(f"{name:12} {doc.splitlines()[0]}")


def train(arguments: Sequence[str]) -> None:
    """`xvlm train RECIPE [name=value ...] [--out DIR] [--resume] [--minutes M] [--FIELD VALUE ...]`."""
    from xvlm.train.start import read_run, say
    from xvlm.train.start import train as train_run

    words, rest = list(arguments), []
    recipe = words.pop(0) if words and not words[0].startswith("-") else ""
    given: dict[str, str] = {}
    while words and "=" in words[0] and not words[0].startswith("-"):
        name, _, value = words.pop(0).partition("=")
        given[name] = value
    options: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "--resume":
            options["resume"] = "yes"
        elif word in ("--out", "--minutes", "--from") and words:
            options[word[2:]] = words.pop(0)
        else:
            rest.append(word)
    if not recipe and "from" not in options:
        raise ValueError(f"xvlm train needs a recipe ({', '.join(names('recipes'))}) or --from run.json")
    run: Any = read_run(Path(options["from"])) if "from" in options else call_recipe(recipe, given)
    run = tyro.cli(type(run), default=run, args=rest, prog=f"xvlm train {recipe}", description=train.__doc__)
    out = Path(options.get("out", f"runs/{run.recipe or run.task}"))
    minutes = float(options["minutes"]) if "minutes" in options else None
    train_run(run, out, resume="resume" in options, minutes=minutes)
    say(f"model: {out / 'model'}")


def call_recipe(name: str, given: dict[str, str]) -> Any:
    """The recipe's run; `given` are its function's arguments as text."""
    function = find("recipes", name).recipe
    parameters = inspect.signature(function, eval_str=True).parameters
    for word in given:
        if word not in parameters:
            raise ValueError(
                f"recipe {name} has no argument {word}; it has {', '.join(parameters) or 'none'}"
            )
    return function(**{word: parameters[word].annotation(value) for word, value in given.items()})


def show(value: dict[str, Any], as_json: bool) -> None:
    """JSON on one line, or a name and value a line."""
    if as_json:
        print(json.dumps(value))
        return
    for name, item in value.items():
        print(f"{name:10} {item:.4f}" if isinstance(item, float) else f"{name:10} {item}")


COMMANDS: dict[str, Any] = {
    "demo": demo,
    "ground": ground,
    "match": match,
    "eval": eval_,
    "photos": photos,
    "ablate": ablate,
    "recipes": recipes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; bad input ends it with one sentence and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from xvlm.train.loop import Interrupted

    try:
        if arguments[:1] == ["train"]:
            train(arguments[1:])
        else:
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="xvlm",
                description="Multi-grained vision-language pre-training.  Also: xvlm train RECIPE.",
                args=arguments,
            )
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except (BadRecord, ValueError, LookupError, OSError) as error:
        print(f"xvlm: {error}", file=sys.stderr)
        return 2
    return 0
