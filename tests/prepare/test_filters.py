"""Texts and images that are left out, each counted under its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.prepare.many import run
from tests.tiny import photo, tiny_loaded
from xvlm.common.errors import InputError
from xvlm.data.images.decode import open_image
from xvlm.data.sources.open import open_source
from xvlm.models.checkpoints.folder import save_model
from xvlm.predict import Predictor
from xvlm.prepare.filtering import make_filters, why_not_image, why_not_text
from xvlm.prepare.importing import import_annotations
from xvlm.prepare.look import write_look
from xvlm.prepare.score import caption_score
from xvlm.prepare.settings import Settings
from xvlm.registry import UnknownNameError, names

ENGLISH = "A large brown dog is lying on the green grass in front of a house."
GERMAN = "Ein großer brauner Hund liegt auf der grünen Wiese vor einem Haus und schläft."


def test_every_filter_is_tested() -> None:
    assert names("prepare.filters") == ["blocked", "language", "length", "regions", "score", "size"]


@pytest.mark.parametrize(
    ("spec", "kept", "left_out", "reason"),
    [
        ("length:min_words=2,max_words=4", "a red dog", "dog", "text has few words"),
        ("length:max_words=4", "a red dog", "one two three four five", "text is long"),
        ("length:max_characters=9", "a red dog", "a red dog!", "text is long"),
        ("language", ENGLISH, GERMAN, "text in another language"),
        ("language:languages=de+fr", GERMAN, ENGLISH, "text in another language"),
        ("language", "Hund", "", None),
    ],
)
def test_texts(spec: str, kept: str, left_out: str, reason: str | None) -> None:
    filters = make_filters([spec])
    assert why_not_text(filters, kept) is None
    if reason:
        assert why_not_text(filters, left_out) == reason


def test_blocked_words_are_whole_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Stock Photo\nc++\n\n")
    filters = make_filters([f"blocked:file={tmp_path / 'words.txt'}"])
    assert why_not_text(filters, "a STOCK PHOTO of a dog") == "text has a blocked word"
    assert why_not_text(filters, "a book on C++.") == "text has a blocked word"
    assert why_not_text(filters, "stock photography") is None
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=r"empty.txt has no word"):
        make_filters([f"blocked:file={tmp_path / 'empty.txt'}"])


def test_images(tmp_path: Path) -> None:
    photo(90, 30, 0).save(tmp_path / "a.png")
    opened = open_image(str(tmp_path / "a.png"), key="a")
    assert why_not_image(make_filters(["size:min_side=30,max_ratio=3"]), opened) is None
    assert why_not_image(make_filters(["size:min_side=31"]), opened) == "image is small"
    assert why_not_image(make_filters(["size:max_ratio=2.9"]), opened) == "image is very long"


def test_regions_as_the_paper_left_them_out(tmp_path: Path) -> None:
    """Below 1 % of the image, and with three quarters of the words of another one."""
    photo(100, 100, 0).save(tmp_path / "a.png")
    texts = ["a dog on green grass", "A green dog on grass", "a dog on the grass", "a cat", "a red ball"]
    boxes = [[0, 0, 50, 50], [5, 5, 50, 50], [0, 0, 9.9, 10], [0, 0, 10, 10], [0, 0, 60, 60]]
    elems = [{"caption": text, "bb": box} for text, box in zip(texts, boxes, strict=True)]
    line = {"image": "a.png", "caption": "a cat", "elems": elems}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    settings = Settings(filters=("regions:min_area=0.01,max_overlap=0.75",))
    done = import_annotations(
        str(tmp_path / "in.jsonl"), str(tmp_path / "out"), settings=settings, workers=1, sheet=False
    )
    assert done.tally("parts_left_out").counts == {
        "region is small": 1,
        "region is described as another one": 1,
    }
    record = open_source(str(tmp_path / "out"))[0]
    assert [one.texts[0] for one in record.concepts] == ["a cat", texts[0], texts[3], texts[4]]


def test_improbable_captions_by_a_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    save_model(tiny_loaded(), model)
    photo(100, 100, 0).save(tmp_path / "a.png")
    captions = ["a red dog", "a blue car", "two men"]
    line = {"image": "a.png", "caption": captions}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    probabilities = Predictor.load(model).image(str(tmp_path / "a.png")).match(captions)
    limit = sum(sorted(probabilities)[:2]) / 2
    settings = Settings(filters=(f"score:model={model},min_probability={limit}",))
    done = import_annotations(
        str(tmp_path / "in.jsonl"), str(tmp_path / "out"), settings=settings, workers=1, sheet=False
    )
    assert done.tally("parts_left_out").counts == {"caption is improbable": 1}
    (concept,) = open_source(str(tmp_path / "out"))[0].concepts
    assert concept.texts == tuple(
        text for text, one in zip(captions, probabilities, strict=True) if one >= limit
    )
    page = write_look(
        tmp_path / "look.html", open_source(str(tmp_path / "in.jsonl")), score=caption_score(str(model))
    )
    assert "How probable a model finds 3 captions" in page.read_text()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("length:words=2", "'words=2' is no option of the filter length; it has min_words, max_words"),
        ("length:min_words=two", "min_words is 'two'; it must be int"),
        ("blocked", "needs the option file"),
        ("language:languages=xx", "languages has xx; known are "),
    ],
)
def test_wrong_options(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        make_filters([spec])


def test_an_unknown_filter() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'length'"):
        make_filters(["lenght"])


def test_a_users_own_filter_and_counts(tmp_path: Path) -> None:
    """A caption that is left out loses itself, a sample with nothing left is left out."""
    code = "from xvlm.prepare.filtering import Filter\ndef make(letter: str = 'x') -> Filter:\n"
    code += "    return Filter(lambda text: 'has the letter' if letter in text else None)\n"
    (tmp_path / "mine.py").write_text(code)
    rows = []
    for number, captions in enumerate(
        (["a dog", "a fox"], ["a fox"], ["the same"], ["the  Same"], ["the same"])
    ):
        photo(40, 40, number).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": captions})
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(path, tmp_path / "out", Settings(filters=(f"{tmp_path / 'mine.py'}:letter=x",), max_repeats=2))
    assert done.tally("left_out").counts == {"has the letter": 1, "text occurs too often": 3}
    assert done.tally("parts_left_out").counts == {"has the letter": 1}
    assert open_source(str(tmp_path / "out"))[0].concepts[0].texts == ("a dog",)
