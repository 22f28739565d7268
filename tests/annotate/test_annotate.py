"""Photos are annotated once, in every form, and what was annotated opens in the tools' own readers."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import photo, tiny_loaded
from xvlm import registry
from xvlm.annotate import annotate as annotate_module
from xvlm.annotate.annotate import annotate
from xvlm.annotate.photos import AnnotatedPhoto
from xvlm.annotate.supervision import to_supervision
from xvlm.cli import main
from xvlm.common.errors import InputError, OutputError
from xvlm.data.sources.open import open_source
from xvlm.models.checkpoints.folder import save_model
from xvlm.models.xvlm import PRETRAINING
from xvlm.predict import Predictor
from xvlm.prepare.importing import import_annotations, recognise
from xvlm.registry import names

PHRASES = ("a red dog", "the small car")
FORMS = ("coco", "cvat", "fiftyone", "labelme")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, one of them rotated by EXIF, one in a folder below; and a damaged one."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    photo(90, 60, 1).save(folder / "a.jpg")
    rotated = photo(80, 50, 2)
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(folder / "b.jpg", exif=exif)
    photo(70, 70, 3).save(folder / "below/c.png")
    (folder / "d.jpg").write_bytes(b"damaged")
    return folder


@pytest.fixture(params=["detection", "grounding"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    heads = (*PRETRAINING, "detection") if request.param == "detection" else PRETRAINING
    return save_model(tiny_loaded(heads=heads), tmp_path / "model")


def run(photos: Path, model: Path, out: Path, forms: tuple[str, ...] = FORMS) -> Any:
    return annotate([str(photos)], PHRASES, Predictor.load(model), str(model), out, forms, 0.0)


def test_every_form_is_named() -> None:
    assert tuple(names("annotate.forms")) == FORMS


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_again(form: str, photos: Path, model: Path, tmp_path: Path) -> None:
    """By our own readers, with the same boxes."""
    done = run(photos, model, tmp_path / "out", (form,))
    assert [one.name for one in done.photos] == ["a.jpg", "b.jpg", "below/c.png"]
    assert (done.photos[1].width, done.photos[1].height) == (50, 80), "as it is seen, not as it is stored"
    assert len(done.bad) == 1 and "d.jpg" in str(done.bad[0])
    file = {"coco": "annotations.json", "cvat": "annotations.xml", "fiftyone": "labels.json"}.get(
        form, "labelme"
    )
    path = tmp_path / "out" / file
    assert recognise(str(path)) == form
    if form == "fiftyone":
        return  # it looks for the photos in its own folder
    import_annotations(str(path), str(tmp_path / "shards"), images=str(photos), workers=1, sheet=False)
    source = open_source(str(tmp_path / "shards"))
    assert len(source) == 3
    for number, expected in enumerate(done.photos):
        boxes = sorted(
            tuple(round(side, 1) for side in box)
            for one in source[number].concepts
            for box in one.targets_xyxy
        )
        wanted = sorted(tuple(round(side, 1) for side in box.box_xyxy) for box in expected.boxes)
        assert np.allclose(boxes, wanted, atol=0.11)


def test_the_readers_of_the_tools(photos: Path, model: Path, tmp_path: Path) -> None:
    done = run(photos, model, tmp_path / "out")
    coco = pytest.importorskip("pycocotools.coco").COCO(str(tmp_path / "out/annotations.json"))
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(PHRASES)
    assert len(coco.getImgIds()) == 3
    boxes = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert len(boxes) == len(done.photos[0].boxes) > 0
    assert boxes[0]["bbox"] == done.photos[0].boxes[0].box_xywh


def test_labelmes_own_reader(photos: Path, model: Path, tmp_path: Path) -> None:
    labelme = pytest.importorskip("labelme")
    done = run(photos, model, tmp_path / "out", ("labelme",))
    for one in done.photos:
        path = (tmp_path / "out/labelme" / one.name).with_suffix(".json")
        file = labelme.LabelFile(str(path))
        assert file.imageData, "the photo is found from the file"
        assert len(file.shapes) == len(one.boxes)
        assert {shape["label"] for shape in file.shapes} <= set(PHRASES)


@pytest.mark.parametrize("given", ["list", "folders", "twice", "tar"])
def test_names_lead_into_the_folder_of_the_annotations(
    given: str, photos: Path, model: Path, tmp_path: Path
) -> None:
    """Files of labelme once were written beside the photos of a list, and over labels that lay there."""
    (photos / "a.json").write_text("mine")
    photo(60, 60, 4).save(photos / "a.png")  # a.jpg has the same name without its extension
    words = [str(photos)]
    names = ["a.jpg", "a.png", "b.jpg", "below/c.png"]
    if given == "list":
        (tmp_path / "list.txt").write_text("\n".join(str(photos / name) for name in names))
        words = [str(tmp_path / "list.txt")]
    elif given == "folders":
        words, names = [str(photos / "below"), str(photos / "a.jpg")], ["below/c.png", "a.jpg"]
    elif given == "twice":
        words.append(str(photos / "a.jpg"))
    else:
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            for name in ("a.jpg", "b.jpg"):
                tar.add(photos / name, f"../../{name}")
        words, names = [str(tmp_path / "photos.tar")], ["a.jpg", "b.jpg"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    done = annotate(words, PHRASES, Predictor.load(model), "m", out, ("coco", "cvat", "labelme"), 0.0)
    assert [one.safe_name for one in done.photos] == names
    assert given == "tar" or [one.name for one in done.photos] == names
    assert {path: path.read_bytes() for path in before} == before
    added = {path for path in tmp_path.rglob("*") if path.is_file()} - before.keys()
    assert all(path.is_relative_to(out) or path.name.startswith("photos.tar.") for path in added), added
    assert len(list((out / "labelme").rglob("*.json"))) == len(names)
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert [one["file_name"] for one in images] == [one.name for one in done.photos]
    if given == "list":
        with pytest.raises(InputError, match=r"two photos are a\.\*"):
            annotate(words, PHRASES, Predictor.load(model), "m", out, ("fiftyone",), 0.0)


def test_a_list_that_grows_names_all_photos_anew(photos: Path, model: Path, tmp_path: Path) -> None:
    given, predictor = tmp_path / "list.txt", Predictor.load(model)
    for line, expected in (("photos/below/c.png", ["c.png"]), ("photos/a.jpg", ["below/c.png", "a.jpg"])):
        with given.open("a") as file:
            file.write(f"{line}\n")
        done = annotate([str(given)], PHRASES, predictor, "m", tmp_path / "out", ("coco",), 0.0)
        assert [one.name for one in done.photos] == expected
    assert done.summary(PHRASES).startswith(f"2 photos below {photos}, ")


def test_every_photo_has_its_own_file_of_labelme(tmp_path: Path) -> None:
    names = ["a.png.jpg", "a.jpg", "a.png", "../a.png", "http://x/a", "http://x/../a", "http/x/a.json"]
    photos = [AnnotatedPhoto(name, (0, 0), name, 1, 1, ()) for name in names]
    registry.find("annotate.forms", "labelme").write(tmp_path / "out", photos, PHRASES)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(names) and all(one.is_relative_to(tmp_path / "out/labelme") for one in files)


def test_what_a_person_corrected_stays(photos: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, model, out, ("labelme",))
    (out / "labelme/a.json").write_text("mine")
    photo(50, 40, 9).save(photos / "e.jpg")
    run(photos, model, out, ("labelme", "coco"))
    assert (out / "labelme/a.json").read_text() == "mine" and (out / "labelme/e.json").is_file()


def test_another_model_or_another_photo_of_the_same_name(photos: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(photos, model, out, ("coco",))
    photo(90, 60, 8).save(photos / "a.jpg")
    again = run(Path(f"{photos}/"), model, out, ("coco",))
    assert [one.path for one in again.photos] == [one.path for one in first.photos]
    assert [a.boxes == b.boxes for a, b in zip(again.photos, first.photos, strict=True)] == [
        False,
        True,
        True,
    ]
    save_model(tiny_loaded(heads=Predictor.load(model).model.config.heads, seed=1), model)
    with pytest.raises(OutputError, match="was annotated with other weights"):
        run(photos, model, out, ("coco",))


def test_a_phrase_that_is_unknown_is_said_at_once(photos: Path, model: Path, tmp_path: Path) -> None:
    for phrase in ("", "\u72ac"):
        with pytest.raises(InputError, match="of which the model knows no token"):
            annotate([str(photos)], ["a dog", phrase], Predictor.load(model), "m", tmp_path / "o", FORMS, 0.0)
    assert not (tmp_path / "o").exists()


def test_an_interrupted_command_goes_on(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    expected = run(photos, model, tmp_path / "whole", ("coco",))
    original, count = annotate_module._annotate, 0

    def interrupted(*given: Any) -> AnnotatedPhoto:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(annotate_module, "_annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(photos, model, out, ("coco",))
    with (out / "found.jsonl").open("a") as file:
        file.write('{"path": "half a li')
    run(photos, model, out, ("coco",))
    assert count == 2 + 3, "the first photo was done before, and the damaged one is tried again"
    assert json.loads((out / "annotations.json").read_text()) == json.loads(
        (tmp_path / "whole/annotations.json").read_text()
    )
    assert len(expected.photos) == 3
    run(photos, model, out, FORMS)
    assert count == 5 + 1 and (out / "annotations.xml").exists(), "another form costs nothing"


def test_wrong_folders_and_phrases(photos: Path, model: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(model)

    def run_with(phrases: tuple[str, ...], out: Path, root: Path = photos) -> None:
        annotate([str(root)], phrases, predictor, "model", out, ("coco",), 0.0)

    with pytest.raises(InputError, match="each must be named once"):
        run_with(("a dog", "a dog"), tmp_path / "out")
    run_with(("a dog",), tmp_path / "out")
    with pytest.raises(OutputError, match="was annotated with other phrases"):
        run_with(("a cat",), tmp_path / "out")
    with pytest.raises(OutputError, match=r"holds a.jpg, which `xvlm annotate` did not write"):
        run_with(("a cat",), photos)
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no photo of .* can be used; first problem: "):
        run_with(("a cat",), tmp_path / "out2", tmp_path / "none")


def test_the_command(photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["annotate", str(photos), "--phrases", *PHRASES, "--model", str(model), "--min-probability", "0"]
    assert main([*words, "--out", str(tmp_path / "out"), "--formats", "coco", "labelme"]) == 0
    assert f"3 photos below {photos}, " in capsys.readouterr().out
    assert (tmp_path / "out/labelme/below/c.json").exists()


def test_supervisions_detections(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    folder = save_model(tiny_loaded(heads=(*PRETRAINING, "detection")), tmp_path / "model")
    found = Predictor.load(folder).image(photos / "a.jpg").find_many(PHRASES, 0.0)
    detections = to_supervision(found, PHRASES)
    assert len(detections) == sum(map(len, found))
    assert set(detections.data["class_name"]) <= set(PHRASES)
    assert detections.confidence.max() == pytest.approx(max(one.score for own in found for one in own))
    assert len(to_supervision([[], []], PHRASES)) == 0
