"""A folder for a Gradio Space of a hub: a page that finds a phrase in a photo with a model of the hub."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from xvlm.common.atomic import writing
from xvlm.common.errors import OutputError
from xvlm.common.json_file import write_text

FILES = ("README.md", "app.py", "requirements.txt")
GRADIO = "gradio>=5"
_README = """---
title: {title}
sdk: gradio
app_file: app.py
models: [{repo}]
license: apache-2.0
---

Finds a phrase in a photo with [{repo}](https://huggingface.co/{repo}), by xvlm.
"""
_APP = '''"""A page that finds a phrase in a photo."""

import gradio
import xvlm

model = xvlm.Predictor.from_pretrained("{repo}")


def find(image, phrase, threshold):
    """Return the photo with boxes, and what was found in words."""
    if image is None or not phrase.strip():
        return (image, []), "Choose a photo and type a phrase."
    photo = model.image(image)
    try:
        found = [(one.box_xyxy, one.score) for one in photo.find(phrase, threshold)]
    except xvlm.MissingHead:  # the model gives one box in any case
        found = [tuple(photo.ground(phrase))]
    boxes = [([round(side) for side in box], f"{{phrase}} {{score or 0:.2f}}") for box, score in found]
    return (image, boxes), f"{{len(boxes)}} found"


page = gradio.Interface(
    find,
    [
        gradio.Image(type="pil", label="photo"),
        gradio.Textbox(label="phrase"),
        gradio.Slider(0, 1, 0.5, label="smallest probability"),
    ],
    [gradio.AnnotatedImage(label="found"), gradio.Textbox(label="result")],
    title={title},
)

if __name__ == "__main__":
    page.launch()
'''


def write_space(repo: str, out: Path, title: str = "") -> Path:
    """Write the folder of a Space, to be pushed to a hub as it is, and return it.

    Args:
        repo: repository of the model, ORGANISATION/NAME or ORGANISATION/NAME@REVISION.
        title: title of the page; by default that of the model.
    Raises:
        OutputError: the folder holds other files.
    """
    others = sorted({one.name for one in out.iterdir()} - set(FILES)) if out.is_dir() else []
    if others:
        raise OutputError(f"{out} holds {others[0]}, which `xvlm space` did not write; name another folder")
    name = repo.partition("@")[0]
    values = {"repo": repo, "title": json.dumps(title or f"Where is it? {name.rpartition('/')[2]}")}
    with writing(out):
        write_text(out / "README.md", _README.format(**{**values, "repo": name}))
        write_text(out / "app.py", _APP.format(**values))
        write_text(out / "requirements.txt", f"xvlm=={metadata.version('xvlm')}\n{GRADIO}\n")
    return out
