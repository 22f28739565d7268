"""Boxes on images: the line is on the box, the label is readable, and any image mode is accepted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from xvlm import reports as report
from xvlm.reports.draw import overlay_heatmap, thumbnail

GREY = Image.new("RGB", (200, 100), (120, 120, 120))


def changed(image: Image.Image, annotated: Image.Image) -> np.ndarray:
    """Return (height, width) bool, True where the drawing changed a pixel."""
    return np.asarray((np.asarray(image.convert("RGB")) != np.asarray(annotated)).any(-1))


def test_the_line_is_on_the_box_and_nowhere_else() -> None:
    drawn = report.draw_boxes(GREY, [report.BoxAnnotation((50, 20, 150, 80), colour="#ff0000")])
    assert drawn.size == GREY.size and np.asarray(GREY).max() == 120, "the image itself is unchanged"
    rows, columns = np.nonzero(changed(GREY, drawn))
    assert abs(rows.min() - 20) <= 3 and abs(rows.max() - 80) <= 3
    assert abs(columns.min() - 50) <= 3 and abs(columns.max() - 150) <= 3
    assert not changed(GREY, drawn)[25:75, 55:145].any()
    assert all(drawn.getpixel(at) == (255, 0, 0) for at in [(50, 50), (150, 50), (100, 20), (100, 80)])


def test_dashes_leave_gaps_but_close_the_corners() -> None:
    solid, dashed = (
        report.draw_boxes(GREY, [report.BoxAnnotation((50, 20, 150, 80), colour="#00ff00", dashed=flag)])
        for flag in (False, True)
    )
    share = changed(GREY, dashed).sum() / changed(GREY, solid).sum()
    assert 0.4 < share < 0.8
    assert all(dashed.getpixel(at) == (0, 255, 0) for at in [(50, 20), (150, 20), (50, 80), (150, 80)])


def test_line_and_letters_scale_with_the_image() -> None:
    small, large = Image.new("RGB", (300, 300)), Image.new("RGB", (1200, 1200))
    areas = []
    for image, scale in ((small, 1), (large, 4)):
        box = report.BoxAnnotation((100 * scale, 100 * scale, 200 * scale, 200 * scale), "0.93", "#ffffff")
        areas.append(changed(image, report.draw_boxes(image, [box])).sum() / scale**2)
    assert areas[1] == pytest.approx(areas[0], rel=0.4)


side = st.integers(-30, 330)


@given(
    st.tuples(side, side), st.tuples(st.integers(0, 300), st.integers(0, 300)), st.text("abc 09", max_size=80)
)
def test_any_box_with_a_part_inside_is_drawn(
    corner: tuple[int, int], size: tuple[int, int], label: str
) -> None:
    image = Image.new("RGB", (160, 90), (120, 120, 120))
    box = (corner[0], corner[1], corner[0] + size[0], corner[1] + size[1])
    inside = box[0] < 160 and box[1] < 90 and box[2] > 0 and box[3] > 0
    if inside:
        assert changed(image, report.draw_boxes(image, [report.BoxAnnotation(box, label)])).any()
    else:
        with pytest.raises(ValueError, match="160 x 90 pixels"):
            report.draw_boxes(image, [report.BoxAnnotation(box, label)])


@pytest.mark.parametrize("box", [(50, 20, 40, 80), (math.nan, 0, 5, 5), (0, 50, 10, 40)])
def test_an_invalid_box_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="x0 <= x1"):
        report.draw_boxes(GREY, [report.BoxAnnotation(box)])


@pytest.mark.parametrize("box", [(0, 0, 199, 99), (150, 2, 198, 40), (2, 70, 60, 98), (90, 40, 110, 60)])
def test_the_label_lies_within_the_image(box: tuple[float, float, float, float]) -> None:
    """The plate has a margin of its own colour on all sides, so nothing was cut off."""
    colour = ImageColor.getrgb("#12ab34")
    drawn = report.draw_boxes(GREY, [report.BoxAnnotation(box, "0.93", "#12ab34")])
    bare = report.draw_boxes(GREY, [report.BoxAnnotation(box, "", "#12ab34")])
    plate = (np.asarray(drawn) != np.asarray(bare)).any(-1)
    rows, columns = np.nonzero(plate)
    assert rows.max() - rows.min() >= 8 and columns.max() - columns.min() >= 20
    inner = np.asarray(drawn)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    letters = (inner < 60).all(-1) | (inner > 220).all(-1)
    assert letters.any(), "the letters are visible"
    ring = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
    assert (ring == colour).all(-1).mean() > 0.8, "a margin of the plate's colour surrounds the letters"


def test_labels_do_not_overlap() -> None:
    image = Image.new("RGB", (400, 300))
    box = (100, 100, 300, 200)
    one = changed(image, report.draw_boxes(image, [report.BoxAnnotation(box, "0.93")])).sum()
    bare = changed(image, report.draw_boxes(image, [report.BoxAnnotation(box)])).sum()
    two = changed(
        image,
        report.draw_boxes(image, [report.BoxAnnotation(box, "0.93"), report.BoxAnnotation(box, "0.93")]),
    ).sum()
    assert two - bare > 1.5 * (one - bare)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_every_mode_are_accepted(mode: str) -> None:
    assert report.draw_boxes(GREY.convert(mode), [report.BoxAnnotation((10, 10, 50, 50), "x")]).mode == "RGB"


def test_thumbnail_scales_boxes_with_the_image() -> None:
    small = thumbnail(
        Image.new("RGB", (50, 25)), 400, [report.BoxAnnotation((10, 5, 40, 20), colour="#ff0000")]
    )
    assert small.size == (400, 200)
    assert small.getpixel((80, 100)) == small.getpixel((320, 100)) == (255, 0, 0)
    assert small.getpixel((200, 40)) == small.getpixel((200, 160)) == (255, 0, 0)
    clear = thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), 20)
    assert clear.getpixel((10, 10)) == (255, 255, 255), "transparent pixels are white"


def test_an_image_is_warm_where_its_map_is_high() -> None:
    """Rows start at the top; where the map is low, the image is darker but keeps its colour."""
    blue = Image.new("RGB", (80, 40), "#4060c0")
    shown = np.asarray(overlay_heatmap(blue, [[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]])).astype(int)
    corner, rest = shown[4, 75], shown[36, 4]
    assert shown.shape == (40, 80, 3)
    assert corner[0] > 0x40 + 50 and corner[0] > corner[2], "red at the top right"
    assert rest.sum() < 0x40 + 0x60 + 0xC0 and rest[2] > rest[0] + 20, "a darker blue"


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_map_is_overlaid(value: float) -> None:
    shown = np.asarray(overlay_heatmap(GREY, [[value, value]]))
    assert shown.shape == np.asarray(GREY).shape and len(np.unique(shown)) == 1
