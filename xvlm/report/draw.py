"""Boxes drawn on pictures, for reports, search results and `xvlm ground --draw`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from xvlm.errors import InputError
from xvlm.records import BoxXYXY

TRUE_COLOUR, PREDICTED_COLOUR = "#2fbf71", "#ff8c1a"
CANDIDATE_COLOUR, WARM_COLOUR = "#c9d3e0", "#ff5a1f"
_RIM = (24, 24, 24)
_SMALLEST_FONT = 8
Plate = tuple[float, float, float, float]


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw.

    Attributes:
        xyxy: pixels of the picture; what lies outside the picture is not drawn.
        label: a few words on a filled plate at the box; empty for none.
        colour: any name or #rrggbb that Pillow knows.
        dashed: a broken line, so that two kinds of box differ by more than colour.
    """

    xyxy: BoxXYXY
    label: str = ""
    colour: str = PREDICTED_COLOUR
    dashed: bool = False


def draw_box(image: Image.Image, boxes: Sequence[DrawnBox]) -> Image.Image:
    """A copy of the picture (RGB) with the boxes on it; line and letters scale with the picture.

    Raises:
        InputError: a box whose corners are the wrong way round, or wholly outside the picture.
    """
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    width = max(2, round(min(drawn.size) / 110))
    inside = [_inside(box, drawn.size, width // 2 + 1) for box in boxes]
    for box in inside:
        _outline(draw, box, width)
    taken: list[Plate] = []
    for box in inside:
        if box.label:
            taken.append(_label(draw, box, drawn.size, width, taken))
    return drawn


def heated(image: Image.Image, map_hw: Sequence[Sequence[float]]) -> Image.Image:
    """A map of patches, rows from the top, over the whole picture: it is pale and dim where nothing is looked
    at, though its colours can still be told, and warm where most is."""
    rows = np.asarray(map_hw, dtype=np.float32)
    low, high = float(rows.min()), float(rows.max())
    share = np.clip((rows - low) / ((high - low) or 1.0), 0, 1)
    grid = Image.fromarray((255 * share).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colour = image.convert("RGB")
    pale = Image.blend(colour.convert("L").convert("RGB"), colour, 0.45)
    dim = Image.blend(pale, Image.new("RGB", image.size, "black"), 0.3)
    warm = Image.blend(colour, Image.new("RGB", image.size, WARM_COLOUR), 0.45)
    return Image.composite(warm, dim, grid)


def _inside(box: DrawnBox, size: tuple[int, int], margin: int) -> DrawnBox:
    """The box cut to the picture, `margin` pixels within its edges so that the whole line is seen."""
    x0, y0, x1, y1 = box.xyxy
    if not (x0 <= x1 and y0 <= y1 and x0 < size[0] and y0 < size[1] and x1 > 0 and y1 > 0):
        raise InputError(
            f"box {tuple(box.xyxy)} cannot be drawn on a picture of {size[0]} x {size[1]} pixels; "
            "it needs x0 <= x1, y0 <= y1 and some part inside"
        )
    far_x, far_y = max(size[0] - 1 - margin, margin), max(size[1] - 1 - margin, margin)
    xs = [min(max(x, margin), far_x) for x in (x0, x1)]
    ys = [min(max(y, margin), far_y) for y in (y0, y1)]
    return replace(box, xyxy=(xs[0], ys[0], xs[1], ys[1]))


def _outline(draw: ImageDraw.ImageDraw, box: DrawnBox, width: int) -> None:
    """The box's four sides over a thin dark rim, which keeps them visible on any ground."""
    dash = width * 5 if box.dashed else 0
    for rim, colour in ((1, _RIM), (0, ImageColor.getrgb(box.colour)[:3])):
        for stroke in _strokes(box.xyxy, dash):
            draw.rectangle(_grow(stroke, width / 2 + rim - 0.5), fill=colour)


def _strokes(box: BoxXYXY, dash: int) -> Iterator[BoxXYXY]:
    """The sides as boxes without thickness, cut into dashes of about that length where it is not 0."""
    x0, y0, x1, y1 = box
    for side in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x0, y1, x1, y1), (x0, y0, x0, y1)):
        length = side[2] - side[0] + side[3] - side[1]
        # an odd number of equal pieces, the first and last drawn: corners are always closed
        pieces = max(3, round(length / dash) // 2 * 2 + 1) if dash else 1
        step_x, step_y = (side[2] - side[0]) / pieces, (side[3] - side[1]) / pieces
        for piece in range(0, pieces, 2):
            x, y = side[0] + step_x * piece, side[1] + step_y * piece
            yield (x, y, x + step_x, y + step_y)


def _grow(box: BoxXYXY, by: float) -> BoxXYXY:
    return (box[0] - by, box[1] - by, box[2] + by, box[3] + by)


def _label(
    draw: ImageDraw.ImageDraw, box: DrawnBox, size: tuple[int, int], width: int, taken: Sequence[Plate]
) -> Plate:
    """Write the label on a plate that lies in the picture and, where it can, on no other plate."""
    margin = width + 1
    label, font = _fitting(draw, box.label, size, margin)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    plate_w, plate_h = right - left + 2 * margin, bottom - top + 2 * margin
    x0, y0, x1, y1 = box.xyxy
    half = width / 2
    places = (
        (x0 - half, y0 - plate_h),  # above, below, inside at the top, inside at the bottom, at the right
        (x0 - half, y1),
        (x0 - half, y0),
        (x0 - half, y1 - plate_h),
        (x1 - plate_w + half, y0 - plate_h),
        (x1 - plate_w + half, y1),
    )
    in_picture = [
        (min(max(x, 0), max(size[0] - plate_w, 0)), y) for x, y in places if 0 <= y <= size[1] - plate_h
    ] or [(min(max(x0, 0), max(size[0] - plate_w, 0)), min(max(y0, 0), max(size[1] - plate_h, 0)))]
    plates = [(x, y, x + plate_w, y + plate_h) for x, y in in_picture]
    plate = next((p for p in plates if not any(_overlap(p, other) for other in taken)), plates[0])
    colour = ImageColor.getrgb(box.colour)[:3]
    draw.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=colour)
    draw.text(
        (plate[0] + margin - left, plate[1] + margin - top), label, fill=_readable_on(colour), font=font
    )
    return plate


def _overlap(a: Plate, b: Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fitting(
    draw: ImageDraw.ImageDraw, label: str, size: tuple[int, int], margin: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """The label and a font in which it fits the picture: smaller letters first, then fewer of them."""
    letters = max(12, round(max(size) / 26))
    while True:
        font = ImageFont.load_default(letters)
        if draw.textlength(label, font=font) + 2 * margin <= size[0]:
            return label, font
        if letters > _SMALLEST_FONT:
            letters -= 1
        elif len(label) > 1:
            label = label.removesuffix("…")[:-1] + "…" if len(label) > 2 else label[:1]
        else:
            return label, font


def _readable_on(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Black or white, whichever stands out (relative luminance of ITU-R BT.709)."""
    red, green, blue = colour[:3]
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 128 else (255, 255, 255)


def thumbnail(image: Image.Image, longest: int, boxes: Sequence[DrawnBox] = ()) -> Image.Image:
    """The picture (RGB) at `longest` pixels on its longer side, the boxes drawn after the change of size.

    Small pictures are enlarged too, so that lines and letters stay fine.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    ratio_x, ratio_y = size[0] / image.width, size[1] / image.height
    scaled = [
        replace(
            box,
            xyxy=(
                box.xyxy[0] * ratio_x,
                box.xyxy[1] * ratio_y,
                box.xyxy[2] * ratio_x,
                box.xyxy[3] * ratio_y,
            ),
        )
        for box in boxes
    ]
    return draw_box(small, scaled)


def data_uri(image: Image.Image, quality: int = 82) -> str:
    """The picture as a `data:` address of a JPEG, for a page that needs no other file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
