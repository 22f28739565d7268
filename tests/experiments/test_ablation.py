"""The ablation trains every variant for equal time and for equal images, with several seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_run
from xvlm.common.errors import InputError
from xvlm.common.json_file import read_json
from xvlm.data.sources.json import JsonSource
from xvlm.experiments import ablation
from xvlm.experiments.ablation import MULTI_GRAINED, Experiment, folder_name, run_ablation
from xvlm.scenes import SceneGroundingRecords, Scenes
from xvlm.training.run_folder import read_run

VARIANTS = ["coarse", "fine", MULTI_GRAINED, "no box loss"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the table of an ablation of a tiny model, in which one kind of texts takes half the time."""
    steps = {"coarse": 4, "fine": 4, "no-box-loss": 2, MULTI_GRAINED: 2}
    for name, count in steps.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "steps.json").write_text(json.dumps({"steps": count, "seconds_a_step": 1.0}))
    unseen = Scenes("test", 6, image_size=64)
    parts = Experiment(tiny_run(), SceneGroundingRecords(unseen), unseen, None, {"texts_per_image": 1})
    monkeypatch.setattr(ablation, "experiment", lambda on, root, out: parts)
    return run_ablation("scenes", tmp_path, tmp_path, 1.0, seeds=2)


def test_every_variant_has_both_budgets_and_all_seeds(table: Any, tmp_path: Path) -> None:
    equal = [f"{name}, equal images" for name in ("coarse", "fine")]  # no box loss has as many anyway
    same = ["coarse, same captions", "fine, same phrases"]
    assert list(table) == [*VARIANTS, *equal, *same]
    images = {name: metrics["train_images"].values for name, metrics in table.items()}
    assert images[MULTI_GRAINED] == (16.0, 16.0) and images["coarse"] == (32.0, 32.0)
    assert all(images[name] == images[MULTI_GRAINED] for name in equal)
    assert sum(images[name][0] for name in same) == images[MULTI_GRAINED][0]
    alone = {name: read_run(tmp_path / folder_name(name) / "seed0" / "run.json") for name in same}
    assert [run.batch_sizes() for run in alone.values()] == [{"pairs": 4}, {"regions": 4}]
    optims = [read_run(path).optim for path in tmp_path.glob("*/seed0/run.json")]
    assert len(optims) == len(table)
    assert all(one.warmup_steps <= one.steps // 4 for one in optims), "the peak would never be reached"
    written = read_json(tmp_path / "table.json")
    for name, metrics in table.items():
        folder = tmp_path / name.replace(",", "").replace(" ", "-")
        runs = [read_json(folder / f"seed{seed}" / "metrics.json") for seed in range(2)]
        assert table[name]["i2t_r1"].values == tuple(run["i2t_r1"] for run in runs)
        assert written[name]["i2t_r1"]["mean"] == metrics["i2t_r1"].mean
        seeds = [json.loads((folder / f"seed{seed}" / "run.json").read_text())["seed"] for seed in range(2)]
        assert seeds == [0, 1]
    rows = (tmp_path / "table.md").read_text().splitlines()[4:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(table)
    assert "±" in rows[0] and (tmp_path / "ablation.svg").read_text().count("v-whisker") > 2

    # A finished variant is not trained again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed*/log.jsonl")}
    assert len(before) == 16
    again = run_ablation("scenes", tmp_path, tmp_path, 1.0, seeds=2)
    assert again["fine"]["t2i_r1"] == table["fine"]["t2i_r1"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed*/log.jsonl")}


def test_on_photographs_nothing_that_chooses_is_trained_or_evaluated_on(tmp_path: Path) -> None:
    for split, count in (("train", 302), ("dev", 3)):
        row = '{{"image": "{}{}.jpg", "caption": "a dog", "elems": []}}\n'
        lines = "".join(row.format(split, index) for index in range(count))
        (tmp_path / f"{split}.jsonl").write_text(lines)
    phrase = {"image": "dev0.jpg", "text": "a dog", "bbox": [0, 0, 2, 2]}
    (tmp_path / "dev_grounding.json").write_text(json.dumps([phrase]))
    parts = ablation.experiment("photos", tmp_path, tmp_path / "out")
    trained = JsonSource(parts.run.data.pairs[0].path, parts.run.data.pairs[0].image_root)
    assert parts.run.data.regions == parts.run.data.pairs and parts.choose is not None
    images = [{str(one[i].image) for i in range(len(one))} for one in (trained, parts.choose, parts.captions)]
    assert [len(one) for one in images] == [2, 300, 3] and len(set.union(*images)) == 305
    with pytest.raises(InputError, match="'scenes' or 'photos'"):
        ablation.experiment("videos", tmp_path, tmp_path)
