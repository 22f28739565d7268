"""Draws boxes and attention maps on images, for reports and `xvlm ground --draw`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from xvlm.common.errors import InputError
from xvlm.records import BoxXYXY

TRUE_COLOUR, PREDICTED_COLOUR = "#2fbf71", "#ff8c1a"
CANDIDATE_COLOUR, WARM_COLOUR = "#c9d3e0", "#ff5a1f"
_RIM = (24, 24, 24)
_SMALLEST_FONT = 8
Plate = tuple[float, float, float, float]
"""(x0, y0, x1, y1) of the filled rectangle under a label."""


@dataclass(frozen=True)
class BoxAnnotation:
    """A box to draw on an image.

    Attributes:
        xyxy: corners in pixels; parts outside the image are cut off.
        label: short text on a filled plate at the box; empty for none.
        colour: a name or #rrggbb that Pillow accepts.
        dashed: draw a dashed line, so that two kinds of box differ by more than colour.
    """

    xyxy: BoxXYXY
    label: str = ""
    colour: str = PREDICTED_COLOUR
    dashed: bool = False


def draw_boxes(image: Image.Image, boxes: Sequence[BoxAnnotation]) -> Image.Image:
    """Return an RGB copy of the image with boxes; line width and font size scale with the image.

    Raises:
        InputError: a box has swapped corners, or lies outside the image.
    """
    annotated = image.convert("RGB")
    draw = ImageDraw.Draw(annotated)
    width = max(2, round(min(annotated.size) / 110))
    boxes = [_clip(box, annotated.size, width // 2 + 1) for box in boxes]
    for box in boxes:
        _outline(draw, box, width)
    plates: list[Plate] = []
    for box in boxes:
        if box.label:
            plates.append(_label(draw, box, annotated.size, width, plates))
    return annotated


def overlay_heatmap(image: Image.Image, map_hw: Sequence[Sequence[float]]) -> Image.Image:
    """Overlay a map over patches, rows from the top: low values are pale and dim, high values are warm."""
    values = np.asarray(map_hw, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    values = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    grid = Image.fromarray((255 * values).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colour = image.convert("RGB")
    pale = Image.blend(colour.convert("L").convert("RGB"), colour, 0.45)
    dim = Image.blend(pale, Image.new("RGB", image.size, "black"), 0.3)
    warm = Image.blend(colour, Image.new("RGB", image.size, WARM_COLOUR), 0.45)
    return Image.composite(warm, dim, grid)


def _clip(box: BoxAnnotation, size: tuple[int, int], margin: int) -> BoxAnnotation:
    """Clip a box to `margin` pixels within the image, so that its whole line is visible."""
    x0, y0, x1, y1 = box.xyxy
    if not (x0 <= x1 and y0 <= y1 and x0 < size[0] and y0 < size[1] and x1 > 0 and y1 > 0):
        raise InputError(
            f"box {tuple(box.xyxy)} cannot be drawn on an image of {size[0]} x {size[1]} pixels; "
            "it needs x0 <= x1, y0 <= y1 and a part inside"
        )
    far_x, far_y = max(size[0] - 1 - margin, margin), max(size[1] - 1 - margin, margin)
    xs = [min(max(x, margin), far_x) for x in (x0, x1)]
    ys = [min(max(y, margin), far_y) for y in (y0, y1)]
    return replace(box, xyxy=(xs[0], ys[0], xs[1], ys[1]))


def _outline(draw: ImageDraw.ImageDraw, box: BoxAnnotation, width: int) -> None:
    """Draw the four sides of a box over a thin dark rim, which keeps them visible on any background."""
    dash = width * 5 if box.dashed else 0
    for rim, colour in ((1, _RIM), (0, ImageColor.getrgb(box.colour)[:3])):
        for stroke in _strokes(box.xyxy, dash):
            draw.rectangle(_grow(stroke, width / 2 + rim - 0.5), fill=colour)


def _strokes(box: BoxXYXY, dash: int) -> Iterator[BoxXYXY]:
    """Yield the sides as boxes of zero width, cut into dashes of about `dash` pixels if it is not 0."""
    x0, y0, x1, y1 = box
    for side in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x0, y1, x1, y1), (x0, y0, x0, y1)):
        length = side[2] - side[0] + side[3] - side[1]
        # An odd number of equal pieces with the first and last drawn, so that corners are closed.
        pieces = max(3, round(length / dash) // 2 * 2 + 1) if dash else 1
        step_x, step_y = (side[2] - side[0]) / pieces, (side[3] - side[1]) / pieces
        for piece in range(0, pieces, 2):
            x, y = side[0] + step_x * piece, side[1] + step_y * piece
            yield (x, y, x + step_x, y + step_y)


def _grow(box: BoxXYXY, margin: float) -> BoxXYXY:
    return (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)


def _label(
    draw: ImageDraw.ImageDraw, box: BoxAnnotation, size: tuple[int, int], width: int, others: Sequence[Plate]
) -> Plate:
    """Write the label on a plate within the image that overlaps no other plate, if possible."""
    margin = width + 1
    label, font = _fit_label(draw, box.label, size, margin)
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    plate_w, plate_h = right - left + 2 * margin, bottom - top + 2 * margin
    x0, y0, x1, y1 = box.xyxy
    half = width / 2
    # left: above, below, inside at the top, inside at the bottom; right: above, below
    corners = (
        (x0 - half, y0 - plate_h),
        (x0 - half, y1),
        (x0 - half, y0),
        (x0 - half, y1 - plate_h),
        (x1 - plate_w + half, y0 - plate_h),
        (x1 - plate_w + half, y1),
    )
    max_x, max_y = max(size[0] - plate_w, 0), max(size[1] - plate_h, 0)
    inside = [(min(max(x, 0), max_x), y) for x, y in corners if 0 <= y <= size[1] - plate_h]
    inside = inside or [(min(max(x0, 0), max_x), min(max(y0, 0), max_y))]
    plates = [(x, y, x + plate_w, y + plate_h) for x, y in inside]
    plate = next((p for p in plates if not any(_overlap(p, other) for other in others)), plates[0])
    colour = ImageColor.getrgb(box.colour)[:3]
    draw.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=colour)
    draw.text(
        (plate[0] + margin - left, plate[1] + margin - top), label, fill=_readable_on(colour), font=font
    )
    return plate


def _overlap(a: Plate, b: Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _fit_label(
    draw: ImageDraw.ImageDraw, label: str, size: tuple[int, int], margin: int
) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return the label and a font with which it fits the image: a smaller font, then a shorter label."""
    font_size = max(12, round(max(size) / 26))
    while True:
        font = ImageFont.load_default(font_size)
        if draw.textlength(label, font=font) + 2 * margin <= size[0]:
            return label, font
        if font_size > _SMALLEST_FONT:
            font_size -= 1
        elif len(label) > 1:
            label = label.removesuffix("…")[:-1] + "…" if len(label) > 2 else label[:1]
        else:
            return label, font


def _readable_on(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Return black or white, whichever is readable on a colour (relative luminance of ITU-R BT.709)."""
    red, green, blue = colour[:3]
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 128 else (255, 255, 255)


def thumbnail(image: Image.Image, longest: int, boxes: Sequence[BoxAnnotation] = ()) -> Image.Image:
    """Resize an image (RGB) to `longest` pixels on its longer side, then draw the boxes.

    Small images are enlarged, so that lines and letters stay fine.
    """
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    ratio_x, ratio_y = size[0] / image.width, size[1] / image.height
    scaled = []
    for box in boxes:
        x0, y0, x1, y1 = box.xyxy
        scaled.append(replace(box, xyxy=(x0 * ratio_x, y0 * ratio_y, x1 * ratio_x, y1 * ratio_y)))
    return draw_boxes(small, scaled)


def data_uri(image: Image.Image) -> str:
    """Encode an image as a `data:` URI of a JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
