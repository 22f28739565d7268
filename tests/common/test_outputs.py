"""`--out` is checked before the work; files that xvlm did not write are never removed or replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_disk import fill, small_disk
from tests.tiny import photo, tiny_loaded, write_photos
from xvlm.cli import main
from xvlm.common.atomic import atomic_file
from xvlm.common.errors import OutputError
from xvlm.common.outputs import check_free_space, check_writable
from xvlm.evaluation.common.results import results_folder, write_results
from xvlm.models.checkpoints.convert import save_tensors
from xvlm.models.checkpoints.folder import load_model, save_model
from xvlm.reports.pictures import save_picture
from xvlm.tasks.common.task import measure_of

__all__ = ["small_disk"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two models, `a` and `b/model`."""
    folder = tmp_path_factory.mktemp("models")
    save_model(tiny_loaded(seed=0), folder / "a")
    save_model(tiny_loaded(seed=1), folder / "b" / "model")
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def home(work: Path) -> Path:
    (work / "home" / "sub").mkdir(parents=True)
    (work / "home" / "thesis.txt").write_text("years")
    (work / "home" / "sub" / "data.bin").write_bytes(b"\x00\x01")
    return work / "home"


def model_and_a_file(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "notes.txt").write_text("mine")
    return work / "c"


def model_and_a_folder(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "measured.json").mkdir()
    return work / "c"


def bert_model(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "config.json").write_text('{"architectures": ["BertModel"]}')
    return work / "c"


def symbolic_link(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "link").symlink_to(work / "c")
    return work / "link"


def file(work: Path) -> Path:
    (work / "file").write_text("mine")
    return work / "file"


FOREIGN: dict[str, Callable[[Path], Path]] = {
    "an input": lambda work: work / "a",
    "folder of the inputs": lambda work: work,
    "run of an input": lambda work: work / "b",
    "model of an input": lambda work: work / "b" / "model",
    "parent": lambda work: Path(".."),
    **{
        one.__name__: one
        for one in (home, model_and_a_file, model_and_a_folder, bert_model, symbolic_link, file)
    },
}
"""Folders that must not be replaced; each function creates one and returns it."""


@pytest.fixture
def work(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(models, tmp_path / "work")
    (tmp_path / "work" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "here")
    return tmp_path / "work"


@pytest.mark.parametrize("name", FOREIGN)
def test_average_and_convert_delete_nothing(
    name: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = FOREIGN[name](work)
    torch.save({"model": {"weight": torch.zeros(1)}}, work / "base.th")
    before = read_all(work)
    assert main(["average", str(work / "a"), str(work / "b"), "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
    assert read_all(work) == before
    if out.name != "a" and "model" not in str(out):  # these are no inputs of a conversion
        assert main(["convert", str(work / "base.th"), str(out)]) == 2
        assert str(out) in capsys.readouterr().err
        assert read_all(work) == before


def test_a_model_of_xvlm_is_replaced_and_an_empty_folder_used(work: Path) -> None:
    save_model(tiny_loaded(seed=3), work / "old")
    (work / "empty").mkdir()
    for out in (work / "old", work / "empty", work / "deep" / "new"):
        assert main(["average", str(work / "a"), str(work / "b"), "--out", str(out)]) == 0
        one, two, mean = (
            load_model(path).model.contrastive.text.weight for path in (work / "a", work / "b", out)
        )
        torch.testing.assert_close(mean, (one + two) / 2)


def test_convert_back_replaces_only_a_checkpoint(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "thesis.th").write_text("years")
    before = read_all(work)
    for out in (work / "thesis.th", work / "a" / "model.safetensors", work / "here"):
        assert main(["convert", str(work / "a"), str(out), "--to-published"]) == 2
        assert str(out) in capsys.readouterr().err
    assert read_all(work) == before
    save_model(tiny_loaded("swin"), work / "swin")
    for _ in range(2):
        assert main(["convert", str(work / "swin"), str(work / "out.th"), "--to-published"]) == 0
    assert torch.load(work / "out.th", weights_only=True)["model"].keys()


@pytest.fixture
def measured(work: Path) -> list[str]:
    """Return the words of an evaluation."""
    return ["eval", "retrieval", "--model", str(work / "a"), "--data", str(write_photos(work / "photos", 3))]


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "checkpoints/step_00000001/state.json"])
def test_eval_does_not_overwrite_a_run(name: str, measured: list[str], work: Path) -> None:
    (work / "run" / name).parent.mkdir(parents=True)
    (work / "run" / name).write_text("{}")
    (work / "run" / "report.html").write_text("of the run")
    (work / "run" / "metrics.json").write_text("{}")
    before = read_all(work)
    assert main([*measured, "--out", str(work / "run")]) == 2
    assert read_all(work) == before


@pytest.mark.parametrize("name", ["report.html", "metrics.json", "predictions.json", "submission.json"])
def test_eval_does_not_overwrite_foreign_files(
    name: str, measured: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    measured[measured.index(str(work / "a"))] = str(work / "no-such-model")  # --out is checked first
    assert main([*measured, "--out", str(work / "out")]) == 2
    assert f"holds {name} that no evaluation of xvlm wrote" in capsys.readouterr().err
    assert read_all(work / "out") == {name: b"mine"}


def test_eval_replaces_its_own_files(measured: list[str], work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "notes.txt").write_text("mine")
    for _ in range(2):
        assert main([*measured, "--out", str(work / "out")]) == 0
    names = {path.name for path in (work / "out").iterdir()}
    assert names >= {"notes.txt", "report.html", "metrics.json", "predictions.json"}
    assert ".xvlm.lock" not in names
    assert json.loads((work / "out" / "metrics.json").read_text())["retrieval_images"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "retrieval", "--data", "x.json"],
        ["layers", "--data", "x.json"],
        ["average", "x"],
        ["demo"],
        ["photos", "x"],
        ["ablate"],
        ["train", "demo"],
    ],
)
def test_a_folder_that_cannot_be_created_is_an_error_first(
    words: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "file").write_text("mine")
    out = work / "file" / "out"
    model = ["--model", str(work / "none")] if words[0] in ("eval", "layers") else []
    model += [str(work / "a"), str(work / "b")] if words[0] == "average" else []
    words = [*words[:1], *model] if words[0] == "average" else [*words, *model]
    assert main([*words, "--out", str(out)]) == 2
    assert f"{work / 'file'}" in capsys.readouterr().err
    assert (work / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.json", "report.html", "unseen.jpg", "table.md", "tasks.json"])
def test_experiments_do_not_overwrite_foreign_files(name: str, work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    jobs = {"table.md": ["ablate"], "tasks.json": ["demo", "--tasks", "vqa"], "report.html": ["photos", "x"]}
    if name == "tasks.json":
        (work / "out" / "metrics.json").write_text("{}")
    before = read_all(work / "out")
    assert main([*jobs.get(name, ["demo"]), "--out", str(work / "out")]) == 2
    assert read_all(work / "out") == before


def test_a_picture_is_not_drawn_over_its_image(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = work / "in.png"
    photo(40, 30, 1).save(image)
    (work / "thesis.png").write_text("years")
    (work / "link.png").symlink_to(image)
    before = read_all(work)
    words = ["ground", str(image), "a dog", "--model", str(work / "none"), "--draw"]
    for draw in (image, work / "thesis.png", work / "link.png", work / "out.txt", work / "here"):
        assert main([*words, str(draw)]) == 2
        assert str(draw) in capsys.readouterr().err
    assert read_all(work) == before
    words[words.index(str(work / "none"))] = str(work / "a")
    for _ in range(2):
        assert main([*words, str(work / "new" / "out.webp")]) == 0
    with Image.open(work / "new" / "out.webp") as picture:
        assert picture.format == "WEBP" and np.asarray(picture).shape == (30, 40, 3)


def test_bench_replaces_only_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "thesis.txt").write_text("years")
    for name in ("--json", "--ratios"):
        assert main(["bench", "step", name, str(work / "thesis.txt")]) == 2
        assert "exists and is not a JSON object" in capsys.readouterr().err
    assert main(["bench", "growth", "--pictures", str(work / "thesis.txt")]) == 2
    assert (work / "thesis.txt").read_text() == "years"


def test_free_space_is_checked_first(
    small_disk: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = r"No space left for a model, which takes 9\.0 MB; 2\.1 MB are free"
    with pytest.raises(OutputError, match=message):
        check_free_space(small_disk / "deep", 9_000_000, "a model")
    fill(small_disk, 20_000)
    assert main(["average", str(work / "a"), str(work / "b"), "--out", str(small_disk / "out")]) == 2
    assert "No space left for the model" in capsys.readouterr().err
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_checkpoint_on_a_full_disk(small_disk: Path) -> None:
    """The disk was filled after the check of free space."""
    (small_disk / "out.th").write_text("old")
    fill(small_disk, 100_000)
    message = r"out\.th cannot be written.*"
    with pytest.raises(OutputError, match=message), atomic_file(small_disk / "out.th") as partial:
        save_tensors({"model": {"x": torch.zeros(100_000)}}, partial, small_disk / "out.th")
    assert read_all(small_disk)["out.th"] == b"old" and len(list(small_disk.iterdir())) == 2


def test_a_picture_on_a_full_disk(small_disk: Path) -> None:
    photo(40, 30, 1).save(small_disk / "out.png")
    before = (small_disk / "out.png").read_bytes()
    fill(small_disk)
    with pytest.raises(OutputError, match=r"out\.png cannot be written: No space left on device"):
        save_picture(photo(400, 300, 2), small_disk / "out.png")
    assert (small_disk / "out.png").read_bytes() == before and len(list(small_disk.iterdir())) == 2


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep" / "deeper"):
        with pytest.raises(OutputError, match="file is not a folder"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "deep")


def test_a_full_disk_leaves_the_old_results(small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "out"
    with results_folder(out):
        write_results(out, "vqa", measure_of("vqa"), {"vqa_questions": 1.0}, [], "xvlm eval vqa")
    before = read_all(out)
    for leave_bytes in (0, 8192, 16384):  # enough for none of the files, or for some
        fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match=r"out/.* cannot be written: No space left on device"):
            write_results(out, "vqa", measure_of("vqa"), {"vqa_questions": 2.0}, [], "xvlm eval vqa")
        assert read_all(out) == before
    assert {path.name for path in small_disk.iterdir()} == {"out", "ballast"}
