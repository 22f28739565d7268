"""`--out` is looked at before the work, and nothing of anybody else's is removed or replaced."""

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
from xvlm.convert import save_tensors
from xvlm.errors import OutputError
from xvlm.gallery._results import results_folder, write_results
from xvlm.gallery._show import save_picture
from xvlm.model.folder import load_model, save_model
from xvlm.outputs import check_room, check_writable
from xvlm.whole import whole_file

__all__ = ["small_disk"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, `a` and `b/model`."""
    folder = tmp_path_factory.mktemp("models")
    save_model(tiny_loaded(seed=0), folder / "a")
    save_model(tiny_loaded(seed=1), folder / "b" / "model")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def somebodys(folder: Path) -> None:
    """Files of a person."""
    (folder / "sub").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years")
    (folder / "sub" / "data.bin").write_bytes(b"\x00\x01")


def home(work: Path) -> Path:
    somebodys(work / "home")
    return work / "home"


def inputs_themselves(work: Path) -> Path:
    return work / "a"


def folder_of_inputs(work: Path) -> Path:
    return work


def run_of_an_input(work: Path) -> Path:
    return work / "b"


def model_of_an_input(work: Path) -> Path:
    return work / "b" / "model"


def parent(work: Path) -> Path:
    return Path("..")


def model_and_more(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "notes.txt").write_text("mine")
    return work / "c"


def model_with_a_folder(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "measured.json").mkdir()
    return work / "c"


def somebody_elses_model(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "c" / "config.json").write_text('{"architectures": ["BertModel"]}')
    return work / "c"


def link_to_elsewhere(work: Path) -> Path:
    shutil.copytree(work / "a", work / "c")
    (work / "link").symlink_to(work / "c")
    return work / "link"


def a_file(work: Path) -> Path:
    (work / "file").write_text("mine")
    return work / "file"


OTHERS = [
    home, inputs_themselves, folder_of_inputs, run_of_an_input, model_of_an_input, parent, model_and_more,
    model_with_a_folder, somebody_elses_model, link_to_elsewhere, a_file,
]  # fmt: skip


@pytest.fixture
def work(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(models, tmp_path / "work")
    (tmp_path / "work" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "here")
    return tmp_path / "work"


@pytest.mark.parametrize("other", OTHERS)
def test_average_and_convert_delete_nothing(
    other: Callable[[Path], Path], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = other(work)
    torch.save({"model": {"weight": torch.zeros(1)}}, work / "base.th")
    before = everything(work)
    assert main(["average", str(work / "a"), str(work / "b"), "--out", str(out)]) == 2
    assert str(out) in capsys.readouterr().err
    assert everything(work) == before
    if out.name != "a" and "model" not in str(out):  # these are no inputs of a conversion
        assert (
            main(
                [
                    "convert",
                    str(work / "base.th"),
                    str(out),
                ]
            )
            == 2
        )
        assert str(out) in capsys.readouterr().err
        assert everything(work) == before


def test_a_model_of_ours_is_replaced_and_an_empty_folder_used(work: Path) -> None:
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
    before = everything(work)
    for out in (work / "thesis.th", work / "a" / "model.safetensors", work / "here"):
        assert main(["convert", str(work / "a"), str(out), "--to-published"]) == 2
        assert str(out) in capsys.readouterr().err
    assert everything(work) == before
    save_model(tiny_loaded("swin"), work / "swin")
    for _ in range(2):
        assert main(["convert", str(work / "swin"), str(work / "out.th"), "--to-published"]) == 0
    assert torch.load(work / "out.th", weights_only=True)["model"].keys()


@pytest.fixture
def measured(work: Path) -> list[str]:
    """Words of an evaluation that takes a while to begin with."""
    return ["eval", "retrieval", "--model", str(work / "a"), "--data", str(write_photos(work / "photos", 3))]


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "checkpoints/step_00000001/state.json"])
def test_eval_does_not_overwrite_a_run(name: str, measured: list[str], work: Path) -> None:
    (work / "run" / name).parent.mkdir(parents=True)
    (work / "run" / name).write_text("{}")
    (work / "run" / "report.html").write_text("of the run")
    (work / "run" / "metrics.json").write_text("{}")
    before = everything(work)
    assert main([*measured, "--out", str(work / "run")]) == 2
    assert everything(work) == before


@pytest.mark.parametrize("name", ["report.html", "metrics.json", "predictions.json", "submission.json"])
def test_eval_does_not_overwrite_somebodys_files(
    name: str, measured: list[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    measured[measured.index(str(work / "a"))] = str(work / "no-such-model")  # out is looked at first
    assert main([*measured, "--out", str(work / "out")]) == 2
    assert f"holds {name} that no evaluation of xvlm wrote" in capsys.readouterr().err
    assert everything(work / "out") == {name: b"mine"}


def test_eval_replaces_its_own(measured: list[str], work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "notes.txt").write_text("mine")
    for _ in range(2):
        assert main([*measured, "--out", str(work / "out")]) == 0
    names = {path.name for path in (work / "out").iterdir()}
    assert (
        names >= {"notes.txt", "report.html", "metrics.json", "predictions.json"}
        and ".xvlm.lock" not in names
    )
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
def test_what_cannot_be_made_is_said_first(
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
def test_whole_jobs_do_not_overwrite_somebodys_files(name: str, work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / name).write_text("mine")
    jobs = {"table.md": ["ablate"], "tasks.json": ["demo", "--tasks", "vqa"], "report.html": ["photos", "x"]}
    if name == "tasks.json":
        (work / "out" / "metrics.json").write_text("{}")
    before = everything(work / "out")
    assert main([*jobs.get(name, ["demo"]), "--out", str(work / "out")]) == 2
    assert everything(work / "out") == before


def test_a_picture_is_not_drawn_over_its_image(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = work / "in.png"
    photo(40, 30, 1).save(image)
    (work / "thesis.png").write_text("years")
    (work / "link.png").symlink_to(image)
    before = everything(work)
    words = ["ground", str(image), "a dog", "--model", str(work / "none"), "--draw"]
    for draw in (image, work / "thesis.png", work / "link.png", work / "out.txt", work / "here"):
        assert main([*words, str(draw)]) == 2
        assert str(draw) in capsys.readouterr().err
    assert everything(work) == before
    words[words.index(str(work / "none"))] = str(work / "a")
    for _ in range(2):
        assert main([*words, str(work / "new" / "out.webp")]) == 0
    with Image.open(work / "new" / "out.webp") as drawn:
        assert drawn.format == "WEBP" and np.asarray(drawn).shape == (30, 40, 3)


def test_bench_replaces_only_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "thesis.txt").write_text("years")
    for name in ("--json", "--ratios"):
        assert main(["bench", "step", name, str(work / "thesis.txt")]) == 2
        assert "is there already and is no JSON object" in capsys.readouterr().err
    assert main(["bench", "growth", "--pictures", str(work / "thesis.txt")]) == 2
    assert (work / "thesis.txt").read_text() == "years"


def test_room_is_looked_at_first(small_disk: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        OutputError, match=r"No space left for a model, which takes 9\.0 MB; 2\.1 MB are free"
    ):
        check_room(small_disk / "deep", 9_000_000, "a model")
    fill(small_disk, 20_000)
    assert main(["average", str(work / "a"), str(work / "b"), "--out", str(small_disk / "out")]) == 2
    assert "No space left for the model" in capsys.readouterr().err
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_checkpoint_on_a_full_disk(small_disk: Path) -> None:
    """Where others filled it meanwhile."""
    (small_disk / "out.th").write_text("old")
    fill(small_disk, 100_000)
    said = r"out\.th cannot be written.*"
    with pytest.raises(OutputError, match=said), whole_file(small_disk / "out.th") as partial:
        save_tensors({"model": {"x": torch.zeros(100_000)}}, partial, small_disk / "out.th")
    assert everything(small_disk)["out.th"] == b"old" and len(list(small_disk.iterdir())) == 2


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
        with pytest.raises(OutputError, match="file is no folder"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "deep")


def test_results_on_a_full_disk_keep_those_before(small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "out"
    with results_folder(out):
        write_results(out, "vqa", {"vqa_questions": 1.0}, [], "xvlm eval vqa")
    before = everything(out)
    for leave_bytes in (0, 8192, 16384):  # for none of the files, for some
        fill(small_disk, leave_bytes)
        with pytest.raises(OutputError, match=r"out/.* cannot be written: No space left on device"):
            write_results(out, "vqa", {"vqa_questions": 2.0}, [], "xvlm eval vqa")
        assert everything(out) == before
    assert {path.name for path in small_disk.iterdir()} == {"out", "ballast"}
