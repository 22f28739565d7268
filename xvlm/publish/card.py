"""The card of a model: what it does, how it was trained and measured, its limits, and an example.

Everything in it comes from the model's configuration, its run's `run.json` and the results of `xvlm eval`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from xvlm.common.errors import InputError, MissingFileError
from xvlm.common.json_file import read_json
from xvlm.config import from_json
from xvlm.evaluation.common.results import EVALUATION_FILE
from xvlm.models.calibration import Calibration
from xvlm.models.checkpoints.folder import load_model_config, local_folder
from xvlm.models.xvlm import ModelConfig
from xvlm.publish.options import CardOptions
from xvlm.tasks.common.task import find_task

THUMBNAIL = "thumbnail.jpg"
_PIPELINE_TAGS = {
    "vqa_decoder": "visual-question-answering",
    "caption_decoder": "image-to-text",
    "detection": "zero-shot-object-detection",
    "box": "zero-shot-object-detection",
}
"""Tags of the hub, by the head that decides: the first one that a model has."""
_ABILITIES = {
    "contrastive": "vectors of images and texts, for search",
    "matching": "the probability that a text describes an image",
    "mlm": "masked words of a text",
    "box": "the box of a phrase",
    "detection": "whether and where something is in an image, any number of times",
    "vqa_decoder": "answers to questions",
    "caption_decoder": "captions",
    "classifier": "a label for an image and a text",
    "pair_classifier": "whether a statement about two images is true",
}
_EXAMPLES = {
    "box": "photo.ground({phrase})  # box and probability",
    "detection": "photo.find({phrase})  # every box, or none",
    "matching": 'photo.match([{phrase}, "something else"])',
    "vqa_decoder": 'photo.ask("what is in the picture?")',
    "caption_decoder": "photo.caption()",
}


def model_card(model: str | Path, repo: str, options: CardOptions) -> str:
    """Return the card of a model as Markdown.

    Args:
        model: model folder, or a run's folder, whose `run.json` then says how it was trained.
        repo: name of the repository in the example.
        options: with an image, `thumbnail.jpg` must lie beside the card.
    Raises:
        MissingFileError: there is no such model, or a folder has no results.
    """
    config = load_model_config(model)
    title = options.title or Path(repo).name
    results = [_read_results(folder) for folder in options.results]
    data = ModelCardData(
        library_name="xvlm",
        license=options.licence or None,
        pipeline_tag=next((tag for head, tag in _PIPELINE_TAGS.items() if head in config.heads), None),
        tags=["x-vlm", "vision-language", *(["visual-grounding"] if "box" in config.heads else [])],
        model_name=title,
        eval_results=[one for result in results for one in _eval_results(result)] or None,
        thumbnail=THUMBNAIL if options.image else None,
    )
    sections = [
        f"# {title}",
        *([f"![{options.phrase}]({THUMBNAIL})"] if options.image else []),
        _what_it_is(config),
        _example(config, repo, options.phrase),
        *_training(model),
        *_measured(results),
        _limits(model, config, options),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")
    return str(card)


def _what_it_is(config: ModelConfig) -> str:
    can = [text for head, text in _ABILITIES.items() if head in config.heads]
    height, width = config.vision.image_hw
    return (
        "A multi-grained vision-language model (X-VLM, [Zeng et al., ICML 2022]"
        "(https://arxiv.org/abs/2111.08276)) for [xvlm](https://pypi.org/project/xvlm): an image encoder "
        f"`{config.vision.name}` at {height} x {width} pixels, {config.text.text_layers} layers for text and "
        f"{config.text.cross_layers} for both, {config.text.width} wide. It gives\n\n"
        + "\n".join(f"- {text}" for text in can)
    )


def _example(config: ModelConfig, repo: str, phrase: str) -> str:
    calls = [
        text.format(phrase=json.dumps(phrase, ensure_ascii=False))
        for head, text in _EXAMPLES.items()
        if head in config.heads
    ]
    code = ["import xvlm", "", f'model = xvlm.Predictor.from_pretrained("{repo}")']
    code += ['photo = model.image("photo.jpg")', *calls] if calls else []
    return "```bash\npip install xvlm\n```\n\n```python\n" + "\n".join(code) + "\n```"


def _training(model: str | Path) -> Iterator[str]:
    """Yield the section on training, if the folder is a run's."""
    path = Path(model) / "run.json"
    if not path.is_file():
        return
    run = read_json(path)
    optim = run.get("optim", {})
    rows = [
        ("recipe", run.get("recipe") or "none"),
        ("task", run.get("task")),
        ("steps", f"{optim.get('steps', 0):,}"),
        ("peak learning rate", f"{optim.get('lr', 0):g}"),
        ("precision", run.get("precision")),
        ("seed", run.get("seed")),
        *(("data", f"`{name}`") for name in dict.fromkeys(_data_names(run.get("data", {})))),
    ]
    yield "## Training\n\n" + _table(("", ""), rows)


def _data_names(value: Any) -> Iterator[str]:
    """Yield the last parts of the paths of all data, which tell nobody's folders."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if isinstance(path, str) and path:
            yield path.rstrip("/").rpartition("/")[2]
        value = list(value.values())
    for one in value if isinstance(value, list) else ():
        yield from _data_names(one)


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / EVALUATION_FILE
    if not path.is_file():
        raise MissingFileError(f"{folder} has no {EVALUATION_FILE}, which `xvlm eval` writes into --out")
    result: dict[str, Any] = read_json(path, allow_nan=True)
    if not {"task", "command", "metrics"} <= result.keys():
        raise InputError(f"{path} is not one that `xvlm eval` wrote")
    return result


def _headline(result: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Return label and value of the metrics that a report shows first, by their names."""
    measure = find_task(result["task"]).measure
    labels = {} if measure is None else measure.headline
    metrics = result["metrics"]
    return {name: (label, metrics[name]) for name, label in labels.items() if name in metrics}


def _eval_results(result: Mapping[str, Any]) -> Iterator[EvalResult]:
    words = shlex.split(result["command"])
    data = words[words.index("--data") + 1].rpartition("/")[2] if "--data" in words[:-1] else "data"
    for name, (label, value) in _headline(result).items():
        yield EvalResult(
            task_type=result["task"].replace("_", "-"),
            dataset_type=data,
            dataset_name=data,
            metric_type=name,
            metric_name=label,
            metric_value=round(value, 4),
        )


def _measured(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for result in results:
        rows = [(label, f"{value:.4g}") for label, value in _headline(result).values()]
        title = result["task"].replace("_", " ")
        yield f"## Measured: {title}\n\n`{result['command']}`\n\n" + _table(("metric", "value"), rows)


def _limits(model: str | Path, config: ModelConfig, options: CardOptions) -> str:
    saved = read_json(local_folder(model) / "config.json")
    height, width = config.vision.image_hw
    lines = [
        f"Texts are cut at {saved['max_tokens']} tokens ({saved['max_words']} words), images are resized "
        f"to {height} x {width} pixels, so that small things are lost.",
        "It knows the words and things of its training data, and judges others with confidence all the same.",
        "It was not tested for fairness, and must not decide about people.",
    ]
    if from_json(Calibration, saved.get("calibration", {})) == Calibration():
        lines.append("Its probabilities are not calibrated: `xvlm calibrate` does that on held-out data.")
    if not options.results:
        lines.append("No results are given here: `xvlm eval` measures it.")
    lines.append(f"Written by xvlm {metadata.version('xvlm')}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])
