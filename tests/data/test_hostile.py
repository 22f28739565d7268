"""Faults of the data are found and named; they neither stop the run nor are repaired by guesses."""

from __future__ import annotations

import base64
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data import make
from xvlm.data.images.decode import ImageFile, open_image
from xvlm.data.samples.concept_checks import clip_box, hint_at_xyxy, usable_concepts
from xvlm.data.samples.transforms import PairTransform, RegionTransform, eval_pixels
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.tar import TarSource
from xvlm.records import BadRecord, BoxXYXY, Concept, Note, Record

JPEG = make.encoded(make.photo(200, 100))


def _reason(function, *args, **kwargs) -> str:
    error = make.bad_record(function, *args, **kwargs)
    assert error.key == "k"
    return error.reason


def _opened(width: int = 200, height: int = 100) -> ImageFile:
    return open_image(np.zeros((height, width, 3), np.uint8), key="k")


def _record(*concepts: Concept, **extra) -> Record:
    return Record("k", b"", concepts, extra)


def _bad_line(tmp_path: Path, line: str) -> BadRecord:
    path = tmp_path / "a.jsonl"
    good = '{"caption": "good", "image": "a.jpg"}'
    path.write_text(f"{good}\n{line}\n{good}\n")
    source = JsonSource(str(path))
    assert source[0].concepts and source[2].concepts, "the other lines are read"
    error = make.bad_record(source.__getitem__, 1)
    assert error.key == f"{path}:2"
    return error


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_image(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8))
    data = make.encoded(noise, format)

    def decode(share: float) -> Image.Image:
        return open_image(data[: int(len(data) * share)], key="k").image

    assert _reason(decode, 0.5) == _reason(decode, 0.9) == "image does not decode"


def test_truncated_jpeg_in_every_transform() -> None:
    opened = open_image(JPEG[: len(JPEG) // 2], key="k")
    rng = np.random.default_rng(0)
    assert _reason(PairTransform((64, 64)), opened, ["a"], rng) == "image does not decode"
    assert _reason(RegionTransform((64, 64)), opened, [], rng) == "image does not decode"
    assert _reason(eval_pixels, opened, (64, 64)) == "image does not decode"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.data())
def test_flipped_bytes_give_an_image_or_a_bad_record(format: str, data: st.DataObject) -> None:
    damaged = bytearray(make.encoded(make.photo(24, 16), format, orientation=6))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        opened = open_image(bytes(damaged), key="k", max_pixels=10_000)
        assert opened.image.size == (opened.width, opened.height)
    except BadRecord as error:
        assert error.reason in ("image does not decode", "image too large")


@pytest.mark.parametrize("data", [b"", b"GIF", b"<svg></svg>", b"\xff\xd8\xff", bytes(1000)])
def test_not_an_image(data: bytes) -> None:
    assert _reason(open_image, data, key="k") == "image does not decode"


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_array_of_another_shape(array: np.ndarray) -> None:
    assert _reason(open_image, array, key="k") == "image does not decode"


def test_huge_header_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (Image.MAX_IMAGE_PIXELS, None):  # also if a program has disabled Pillow's own limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        tracemalloc.start()
        assert _reason(open_image, make.png_header(60_000, 60_000), key="k") == "image too large"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_pixel_limit_is_an_option() -> None:
    assert open_image(JPEG, key="k", max_pixels=20_000).width == 200
    assert _reason(open_image, JPEG, key="k", max_pixels=19_999) == "image too large"
    pixels = np.zeros((100, 200, 3), np.uint8)
    assert _reason(open_image, pixels, key="k", max_pixels=19_999) == "image too large"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert _reason(open_image, str(tmp_path / "none.jpg"), key="k") == "image file missing"
    assert _reason(open_image, str(tmp_path), key="k") == "image file unreadable"
    assert _reason(open_image, "null\0byte", key="k") == "image file unreadable"
    assert _reason(open_image, "nosuch://a/b.jpg", key="k") == "image file unreadable"


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((300, 10, 350, 50), "box outside the image"),
        ((151, 10, 251, 50), "box outside the image"),
        ((150, 60, 250, 140), "box outside the image"),
        ((-1e308, -1e308, 1e308, 1e308), "box outside the image"),
        ((-60, 10, -10, 50), "box outside the image"),
        ((-1.5, 99.5, 10, 101), "box outside the image"),
        ((10, 10, 10, 50), "box is empty"),
        ((50, 10, 10, 50), "box is empty"),
        ((10, 10, 10.5, 50), "box is empty"),
        ((math.nan, 10, 20, 50), "box is not finite"),
        ((10, 10, math.inf, 50), "box is not finite"),
    ],
)
def test_unusable_box(box: BoxXYXY, reason: str) -> None:
    assert _reason(clip_box, box, 200, 100, "k") == reason


def test_box_partly_outside_is_clipped_and_noted() -> None:
    """Half of the box must lie inside; rounding, up to 1 pixel or 1 %, makes no note."""
    notes: list[Note] = []
    assert clip_box((-1, -0.5, 202, 101), 200, 100, "k", notes) == (0, 0, 200, 100)
    assert notes == []
    assert clip_box((150, 10, 250, 50), 200, 100, "k", notes) == (150, 10, 200, 50)
    assert clip_box((-6, 20, 40, 60), 200, 100, "k", notes) == (0, 20, 40, 60)
    assert [(note.reason, note.key) for note in notes] == [("box clipped", "k")] * 2
    assert notes[1].detail == "box (-6, 20, 40, 60) in an image of 200 x 100"


@given(st.tuples(*[st.floats(-50, 250) for _ in range(4)]))
def test_checked_boxes_lie_inside(box: BoxXYXY) -> None:
    try:
        x0, y0, x1, y1 = clip_box(box, 200, 100, "k")
    except BadRecord:
        return
    assert 0 <= x0 < x1 <= 200 and 0 <= y0 < y1 <= 100
    assert (x1 - x0) * (y1 - y0) >= 0.4999 * (box[2] - box[0]) * (box[3] - box[1])


def _bad_boxes(corners: bool) -> list[BadRecord]:
    """Return the errors of 40 boxes in an image of 200 x 100, written as corners or with wrong sizes."""
    errors = []
    for number in range(40):
        x, y, w, h = 5 * number % 150, 3 * number % 60, 50, 40
        last = (x + w, y + h) if corners else (900, 900)  # in place of width and height
        try:
            clip_box((x, y, x + last[0], y + last[1]), 200, 100, "k")
        except BadRecord as error:
            errors.append(error)
    return errors


def test_a_hint_names_corners_in_place_of_sizes() -> None:
    bad = _bad_boxes(corners=True)
    assert len(bad) > 10
    other = BadRecord("no text left", "k", "texts ()")
    assert hint_at_xyxy([*bad, other]) == (
        f"{len(bad)} of these {len(bad)} boxes would lie in their images if they were two corners "
        "x0, y0, x1, y1; boxes are read as x, y, width, height"
    )
    copies = [
        BadRecord(error.reason, error.key, f"nothing left; first of 2: {error.detail}") for error in bad
    ]
    assert hint_at_xyxy(copies) == hint_at_xyxy(bad)
    assert hint_at_xyxy(_bad_boxes(corners=False)) == hint_at_xyxy([other]) == hint_at_xyxy([]) == ""


def test_bad_concepts_do_not_lose_the_others() -> None:
    good, blank = Concept(("a",), (1, 1, 9, 9)), Concept((" ", ""))
    outside = Concept(("b",), (300, 0, 310, 9))
    usable, bad = usable_concepts(_record(outside, good, blank), _opened())
    assert usable == [good]
    assert [error.reason for error in bad] == ["box outside the image", "no text left"]
    assert all(error.key == "k" for error in bad)


def test_nothing_left_is_a_bad_record() -> None:
    assert _reason(usable_concepts, _record(Concept(("",))), _opened()) == "no text left"
    assert _reason(usable_concepts, _record(Concept(("a",), (0, 0, 0, 0))), _opened()) == "box is empty"
    assert usable_concepts(_record(question="what?"), _opened()) == ([], [])


def test_empty_caption_beside_a_good_one() -> None:
    usable, bad = usable_concepts(_record(Concept(("", "a", "  "))), _opened())
    assert usable == [Concept(("a",))] and bad == []


def test_long_text_and_many_boxes() -> None:
    words = "word " * 10_000
    concepts = [Concept((words,), (i % 100, i % 50, i % 100 + 20, i % 50 + 20)) for i in range(500)]
    usable, bad = usable_concepts(_record(Concept((words,)), *concepts), _opened())
    assert len(usable) == 501 and bad == []
    pixels, kept = RegionTransform((32, 32), random_crop=False)(_opened(), usable, np.random.default_rng(1))
    assert pixels.shape == (3, 32, 32) and len(kept) == 501
    _, texts = PairTransform((32, 32))(_opened(), [words], np.random.default_rng(0))
    assert texts == (words,)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("convention", ["upright", "stored"])
def test_boxes_of_exif_rotated_photos_cover_their_pixels(orientation: int, convention: str) -> None:
    """Boxes refer to the upright image, or, if the declared size says so, to the stored image."""
    box = (20, 30, 60, 90)
    stored = make.painted(160, 120, box)
    opened = open_image(make.encoded(stored, "PNG", orientation), key="k")
    red = np.asarray(opened.image)[:, :, 0] == 255
    rows, columns = np.nonzero(red.any(1))[0], np.nonzero(red.any(0))[0]
    upright = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    if convention == "upright":
        record = _record(Concept(("red",), upright), width=opened.width, height=opened.height)
    elif orientation >= 5:
        record = _record(Concept(("red",), box), width=160, height=120)
    else:
        return  # the size is the same in both conventions; upright is assumed
    for extra in (record.extra, {}) if convention == "upright" else (record.extra,):
        usable, _ = usable_concepts(Record("k", b"", record.concepts, extra), opened)
        assert usable[0].box_xyxy == upright


def test_declared_size_of_another_image() -> None:
    boxed = _record(Concept(("a",), (1, 1, 9, 9)), width=400, height=200)
    assert _reason(usable_concepts, boxed, _opened()) == "declared size is not the image's"
    caption_only = _record(Concept(("a",)), width=400, height=200)
    assert usable_concepts(caption_only, _opened())[1] == []


@pytest.mark.parametrize("line", ['{"caption": "a', "nonsense", '{"caption": "a"}}', "\x00", "[" * 100_000])
def test_corrupt_json_line(tmp_path: Path, line: str) -> None:
    assert _bad_line(tmp_path, line).reason == "line is not JSON"


def test_invalid_utf8_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"caption": "\xff\xfe", "image": "a"}\n')
    source = JsonSource(str(tmp_path / "a.jsonl"))
    assert make.bad_record(source.__getitem__, 0).reason == "line is not JSON"


@pytest.mark.parametrize(
    "fields",
    [
        {"caption": 3, "image": "a"},
        {"caption": [5, None], "image": "a"},
        {"caption": "a", "image": 7},
        {"caption": "a", "images": []},
        {"elems": "x", "image": "a"},
        {"elems": [3], "image": "a"},
        {"elems": [{"caption": "a", "bb": "1,2,3,4"}], "image": "a"},
        {"elems": [{"caption": "a", "bb": [1, 2, 3]}], "image": "a"},
        {"elems": [{"caption": "a", "bb": [1, 2, "3", 4]}], "image": "a"},
        {"elems": [{"caption": "a", "bb": [1, 2, True, 4]}], "image": "a"},
        {"elems": [{"caption": "a", "bb": [1, 2, 10**400, 4]}], "image": "a"},
        {"elems": [{"caption": "a", "bb": [1, 2, 3, 4], "attributes": 5}], "image": "a"},
        {"text": "a", "bbox": [None] * 4, "image": "a"},
    ],
)
def test_wrong_types(tmp_path: Path, fields: dict) -> None:
    error = _bad_line(tmp_path, json.dumps(fields))
    assert error.reason == "wrong type" and error.detail


@pytest.mark.parametrize("line", ["3", "null", '"text"', "[]"])
def test_line_that_is_not_an_object(tmp_path: Path, line: str) -> None:
    assert _bad_line(tmp_path, line).reason == "not a JSON object"


def test_unknown_fields_are_named_with_the_allowed_ones(tmp_path: Path) -> None:
    error = _bad_line(tmp_path, '{"title": "a", "image": "a.jpg"}')
    assert error.reason == "unknown fields"
    assert "'title'" in error.detail and "'caption'" in error.detail
    assert "'image_rpath'" in _bad_line(tmp_path, '{"caption": "a", "picture": "a.jpg"}').detail
    assert "needs caption and bb" in _bad_line(tmp_path, '{"elems": [{"caption": "a"}], "image": "a"}').detail


@pytest.mark.parametrize("text", ["%%%", "abc", "aGVsbG8*", "päckchen"])
def test_invalid_base64(tmp_path: Path, text: str) -> None:
    assert _bad_line(tmp_path, json.dumps({"caption": "a", "binary": text})).reason == "image is not base64"


def test_base64_of_something_else(tmp_path: Path) -> None:
    line = {"caption": "a", "binary": base64.b64encode(b"hello").decode()}
    record = JsonSource(make.write_lines(tmp_path / "a.jsonl", [line]))[0]
    assert make.bad_record(open_image, record.image, key=record.key).reason == "image does not decode"


def test_box_that_is_not_finite_loses_only_its_concept() -> None:
    boxes = Concept(("a",), (math.nan, 1, 5, 5)), Concept(("b",), (1, 1, 5, 5))
    usable, bad = usable_concepts(_record(*boxes), _opened())
    assert [concept.texts for concept in usable] == [("b",)]
    assert [error.reason for error in bad] == ["box is not finite"]


def test_truncated_json_list(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"caption": "a", "image": "a"},')
    with pytest.raises(ValueError, match=r"a\.json begins as a JSON list but does not parse"):
        JsonSource(str(tmp_path / "a.json"))


def _tar(tmp_path: Path) -> tuple[Path, bytes]:
    members = [(f"{i}.{suffix}", data) for i in range(3) for suffix, data in (("txt", b"a"), ("jpg", JPEG))]
    path = tmp_path / "a.tar"
    make.write_tar(path, members)
    return path, path.read_bytes()


def test_truncated_tar_member(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, data = _tar(tmp_path)
    start = data.rindex(b"\xff\xd8\xff")
    path.write_bytes(data[: start + 100])
    source = TarSource(str(path))
    assert len(source) == 3 and source[1].image == JPEG
    error = make.bad_record(source.__getitem__, 2)
    assert error.reason == "tar member is truncated" and error.key == f"{path}:2"
    assert "truncated" in caplog.text


def test_tar_truncated_in_a_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, data = _tar(tmp_path)
    path.write_bytes(data[: data.rindex(b"2.txt") + 200])
    assert len(TarSource(str(path))) == 2
    assert "truncated" in caplog.text


def test_tar_damaged_between_members(tmp_path: Path) -> None:
    path, data = _tar(tmp_path)
    position = data.index(b"1.txt")
    path.write_bytes(data[:position] + bytes(range(200)) + data[position + 200 :])
    with pytest.raises(ValueError, match=f"damaged at byte {position}"):
        TarSource(str(path))


@pytest.mark.parametrize("data", [b"", b"x" * 3000, b"\x1f\x8b" + bytes(3000)])
def test_not_a_tar(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(ValueError, match="not an uncompressed tar"):
        TarSource(str(tmp_path / "a.tar"))


def test_tar_sample_that_is_incomplete_or_corrupt(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("b.txt", b"text"), ("c.jpg", JPEG), ("c.json", b"{"), ("d.json", b"[]")]
    source = TarSource(make.write_tar(tmp_path / "a.tar", members))
    reasons = [make.bad_record(source.__getitem__, index).reason for index in range(4)]
    assert reasons == ["unknown fields", "unknown fields", "member is not JSON", "not a JSON object"]


def test_index_is_never_unpickled(tmp_path: Path) -> None:
    path, _ = _tar(tmp_path)
    TarSource(str(path))
    with open(f"{path}.idx", "wb") as file:
        np.savez(file, state=np.array([{"object": 1}], dtype=object))
    assert len(TarSource(str(path))) == 3


def test_orientation_outside_1_to_8_is_upright() -> None:
    data = make.encoded(make.photo(20, 10), "JPEG", 9)
    assert open_image(data, key="k").orientation == 1
