"""`xvlm app`: everything that the page needs, made from nothing: a model, pictures, their index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xvlm.common.atomic import atomic_file
from xvlm.common.progress import progress_bar
from xvlm.data.images.decode import open_image
from xvlm.experiments.calibrated import calibrate, calibration_scenes
from xvlm.experiments.calibrated_search import calibrate_search, judged_scenes
from xvlm.recipes import demo as demo_recipe
from xvlm.scenes import Scenes
from xvlm.training.train import log_on_main, train

NUM_SCENES, SCENE_SIZE = 1000, 256
"""Pictures of the index, and their pixels a side."""
STEPS = 600
"""Steps of a training for the page alone, a third of the demo's: about five minutes on two cores."""


def prepare_app(out: Path, demo: Path) -> Path:
    """Make what is missing, and return the folder of the index.

    Args:
        out: folder for pictures, index and, unless there is a demo, a model.
        demo: folder of a finished `xvlm demo`, whose model is used if it is there.
    """
    model = demo if (demo / "metrics.json").exists() else short_demo(out / "model")
    pictures = write_scenes(out / "pictures")
    # Imported after the training, whose workers are forks: LanceDB warns of these, and may deadlock in them.
    from xvlm.search.index import Index

    index = Index.create(out / "index", model)
    log_on_main(index.update([str(pictures)]).summary())
    return out / "index"


def short_demo(folder: Path) -> Path:
    """Train the demo's model for the page, unless that was done, and return the folder of its run."""
    run = demo_recipe.recipe()
    run = replace(run, optim=replace(run.optim, steps=STEPS))
    bundle, _ = train(run, folder, resume=True)
    size = run.model.vision.image_hw[0]
    bundle, _ = calibrate(bundle, folder, calibration_scenes(size))
    calibrate_search(bundle, folder, judged_scenes(size))
    return folder


def write_scenes(folder: Path) -> Path:
    """Write scenes that no model was trained on as PNG files, unless they are there; return the folder."""
    scenes = Scenes("test", NUM_SCENES, image_size=SCENE_SIZE)
    for number in progress_bar(range(NUM_SCENES), "drawing scenes", NUM_SCENES):
        path = folder / f"{number:04}.png"
        if not path.exists():
            with atomic_file(path) as partial:
                open_image(scenes[number].image, key=path.name).image.save(partial, "PNG")
    return folder
