"""A predictor answers alike for every form of an image, in pixels of the image, or raises a clear error."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.tiny import KINDS, photo, tiny_loaded, tiny_loaded_for
from xvlm import distributed
from xvlm.batch import Images
from xvlm.common.errors import InputError
from xvlm.data.images.decode import ImageFile
from xvlm.data.images.user_images import open_user_image
from xvlm.models.checkpoints.folder import save_model
from xvlm.predict import Predictor
from xvlm.records import BadRecord

PHRASES = ["the red dog", "a tree", "small round car beside the tree"]


@pytest.fixture(scope="module", params=KINDS)
def predictor(request: pytest.FixtureRequest) -> Predictor:
    return Predictor(tiny_loaded(request.param))


@pytest.fixture(scope="module")
def cnn() -> Predictor:
    return Predictor(tiny_loaded("cnn"))


def test_boxes_lie_in_the_image_and_scores_in_0_1(predictor: Predictor) -> None:
    seen = predictor.image(photo(120, 50, 1))
    for box, score in seen.ground_many(PHRASES):
        x0, y0, x1, y1 = box
        assert 0 <= x0 <= x1 <= 120 and 0 <= y0 <= y1 <= 50
        assert 0 <= score <= 1
    assert all(0 <= score <= 1 for score in seen.match(PHRASES))


@settings(max_examples=12)
@given(st.integers(1, 400), st.integers(1, 400))
def test_images_of_any_size(cnn: Predictor, width: int, height: int) -> None:
    box, score = cnn.image(np.full((height, width, 3), 90, np.uint8)).ground("a tree")
    assert 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height and 0 <= score <= 1


def test_several_phrases_are_answered_as_one_by_one(predictor: Predictor) -> None:
    seen = predictor.image(photo(90, 60, 2))
    together = seen.ground_many(PHRASES)
    for phrase, answer in zip(PHRASES, together, strict=True):
        alone = seen.ground(phrase)
        assert answer.box_xyxy == pytest.approx(alone.box_xyxy, abs=1e-3)
        assert answer.score == pytest.approx(alone.score, abs=1e-5)
    assert seen.match(PHRASES) == pytest.approx([seen.match([p])[0] for p in PHRASES], abs=1e-5)


def test_the_same_answer_for_every_form_of_an_image(cnn: Predictor, tmp_path: Path) -> None:
    """Forms are path, string, bytes, Pillow image and array; some images are transparent or rotated."""
    plain = photo(80, 40, 3)
    clear = plain.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, image, options in (
        ("a.png", plain, {}),
        ("b.png", clear, {}),
        ("c.jpg", plain, {"exif": exif}),
    ):
        path = tmp_path / name
        image.save(path, **options)
        with Image.open(path) as opened:
            forms = [path, str(path), path.read_bytes(), opened]
            if name == "a.png":
                forms.append(np.asarray(plain))
            answers = [cnn.image(form).ground("the red dog") for form in forms]  # type: ignore[arg-type]
        assert all(answer == answers[0] for answer in answers), name
        assert answers[0].box_xyxy[3] <= (80 if name == "c.jpg" else 40)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_answers_as_it_did(kind: str, tmp_path: Path) -> None:
    loaded = tiny_loaded(kind)
    folder = save_model(loaded, tmp_path / "run" / "model")
    image = photo(64, 64, 4)
    before = Predictor(loaded).image(image)
    for path in (folder, folder.parent):  # the model folder or the run folder
        after = Predictor.load(path, "cpu").image(image)
        assert after.ground_many(PHRASES) == before.ground_many(PHRASES)
        assert after.match(PHRASES) == before.match(PHRASES)


def test_a_saved_model_can_be_moved(tmp_path: Path) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    shutil.move(folder, tmp_path / "elsewhere")
    assert Predictor.load(tmp_path / "elsewhere").image(photo(40, 40, 5)).match(["a dog"])


def test_without_a_device_the_model_stays_where_it_is() -> None:
    """A model in training must stay on the device of its optimiser."""
    loaded = tiny_loaded()
    loaded.model.to("meta")
    assert Predictor(loaded).device == torch.device("meta")
    assert Predictor(tiny_loaded(), "cpu").device == torch.device("cpu")


def test_a_loaded_model_takes_the_gpu_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tiny_loaded(), tmp_path / "model")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.device() == torch.device("cuda", 0)
    monkeypatch.setattr("xvlm.distributed.device", lambda: torch.device("meta"))
    assert Predictor.load(folder).device == torch.device("meta")
    assert next(Predictor.load(folder).model.parameters()).is_meta
    assert Predictor.load(folder, "cpu").device == torch.device("cpu")


def test_answers_of_the_same_tokens_share_no_probability(cnn: Predictor) -> None:
    predictor = Predictor(tiny_loaded_for("vqa_decoder"))
    seen = predictor.image(photo(40, 40, 6))
    once = seen.ask_all("a dog?", ["red", "blue", "a tree"])
    again = seen.ask_all("a dog?", ["red", "blue", "red", "Blue ", "a  tree", "a tree", "red"])
    assert [" ".join(one.text.lower().split()) for one in again] == [one.text for one in once]
    assert [one.score for one in again] == pytest.approx([one.score for one in once])


@pytest.mark.parametrize("texts", [[], "a dog", b"a dog", {"a dog", "a cat"}, {"a dog": 1}, 3, None])
def test_texts_must_be_a_list(cnn: Predictor, texts: Any) -> None:
    seen = cnn.image(photo(40, 40, 6))
    for method in (seen.match, seen.ground_many, cnn.text_vectors):
        with pytest.raises(InputError, match="must be a list of"):
            method(texts)


@pytest.mark.parametrize("text", [3, None, ["a dog"], b"a dog"])
def test_a_text_must_be_a_string(text: Any) -> None:
    predictor = Predictor(tiny_loaded_for("vqa_decoder"))
    seen = predictor.image(photo(40, 40, 6))
    for call in (
        lambda: seen.ask(text),
        lambda: seen.ask("a dog?", ["red", text]),
        lambda: predictor.tokens(["a dog", text]),
    ):
        with pytest.raises(InputError, match="a text must be a string"):
            call()


def test_texts_may_come_one_by_one(cnn: Predictor) -> None:
    seen = cnn.image(photo(40, 40, 6))
    assert seen.ground_many(one for one in PHRASES) == seen.ground_many(PHRASES)
    assert seen.match(np.array(PHRASES)) == seen.match(PHRASES)


def test_vectors_are_those_that_training_compares(predictor: Predictor) -> None:
    seen, model = predictor.image(photo(60, 40, 6)), predictor.model
    with torch.no_grad():
        _, cls_BD = model.encode_whole(model.encode_images(Images(predictor.pixels(seen_file())[None])))
        expected = model.contrastive.embed_concepts(cls_BD)[0].numpy()
    assert np.allclose(seen.vector, expected, atol=1e-6)
    vectors_NE = predictor.text_vectors(PHRASES)
    assert np.allclose(np.linalg.norm([*vectors_NE, seen.vector], axis=1), 1, atol=1e-5)
    assert np.allclose(predictor.text_vectors(PHRASES[1:2]), vectors_NE[1:2], atol=1e-5)


def seen_file() -> ImageFile:
    return open_user_image(photo(60, 40, 6))


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels / 255,
        lambda pixels: pixels[:, :-8],
        lambda pixels: pixels.permute(1, 2, 0),
        lambda pixels: pixels[None],
    ],
)
def test_pixels_of_another_form_are_refused(cnn: Predictor, change: Callable[[Tensor], Tensor]) -> None:
    pixels = cnn.pixels(seen_file())
    with pytest.raises(InputError, match=r"this model reads torch\.uint8 \(3, "):
        cnn.encode_images([pixels, change(pixels)])
    with pytest.raises(InputError, match="at least one image"):
        cnn.encode_images([])


@pytest.mark.parametrize("text", ["", "?!", "   "])
def test_an_empty_text_is_an_error(cnn: Predictor, text: str) -> None:
    with pytest.raises(BadRecord, match=r"^text: no text left after cleaning"):
        cnn.image(photo(40, 40, 6)).ground(text)


def test_long_texts_are_truncated(cnn: Predictor) -> None:
    lengths = cnn.tokens(["dog " * 100, "dog"]).lengths_N
    assert lengths.tolist() == [20, 2]  # max_tokens of the model


def half_a_jpeg() -> bytes:
    file = io.BytesIO()
    photo(64, 64, 7).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no/such/file.jpg", "no/such/file.jpg: image file missing"),
        (b"no image at all", "image: image does not decode"),
        (half_a_jpeg(), "image does not decode"),
        (Image.new("F", (8, 8), 300.0), "only 0 to 1.0 has a known meaning"),
    ],
)
def test_bad_images_are_named(cnn: Predictor, image: object, message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        cnn.image(image)  # type: ignore[arg-type]


def test_neither_folder_nor_repository(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a hub repository"):
        Predictor.load(tmp_path / "nothing" / "here")
