"""What a fresh installation must do: help, a few steps of training, a prediction, an evaluation."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(*words: str, folder: Path) -> float:
    """Run a command line, and return its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "xvlm", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run all commands in a folder of their own."""
    import xvlm

    assert "site-packages" in xvlm.__file__, f"this tests an installed package, not {xvlm.__file__}"
    assert (Path(xvlm.__file__).parent / "py.typed").exists()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times = {"help": run("--help", folder=folder)}
        small = ["scenes=16", "--optim.steps", "2", "--optim.warmup-steps", "1", "--workers", "0"]
        times["train"] = run("train", "demo", *small, "--out", "run", folder=folder)
        data = ["--data", "scenes:test:4?image_size=128"]
        times["eval"] = run("eval", "grounding", "--model", "run", *data, "--out", "eval", folder=folder)
        code = "from PIL import Image; Image.new('RGB', (90, 60)).save('a.png')"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        times["ground"] = run("ground", "a.png", "a red ring", "--model", "run", folder=folder)
    print(f"xvlm {xvlm.__version__}: " + ", ".join(f"{name} {one:.1f} s" for name, one in times.items()))


if __name__ == "__main__":
    main()
