"""The runs of all recipes of the version before this one (commit bfa77dd) are read, and are today's runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xvlm.common.json_file import write_json
from xvlm.common.renames import RECIPES
from xvlm.registry import find
from xvlm.training.run_folder import read_run

RUNS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "recipes.json").read_text())
"""Content of the `run.json` of each recipe, by its old name."""


CHANGED = {
    "demo": {"model", "data", "losses", "optim"},
    "photos": {"model", "init", "losses", "data"},
    "photos_align": {"model", "init", "losses", "optim"},
}
"""Fields of recipes that are trained differently since: another encoder, phrases, detection, fewer steps."""


@pytest.mark.parametrize("old", RUNS)
def test_a_run_of_an_old_recipe_is_read(old: str, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", RUNS[old])
    run = read_run(tmp_path / "run.json")
    assert run.recipe == RECIPES.get(old, old)
    today = find("recipes", run.recipe).recipe()
    changed = {name for name in vars(run) if getattr(run, name) != getattr(today, name)}
    assert changed == CHANGED.get(old, set())
