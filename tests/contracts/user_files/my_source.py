"""A data source outside the package: images of one coloured square each."""

import numpy as np

from xvlm.records import Concept, Record

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


class Squares:
    """Images with a caption, a box and a rating."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.shards = name, [size]

    def __len__(self) -> int:
        return self.shards[0]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        colour = list(COLOURS)[index % len(COLOURS)]
        left = 4 * (index % 8)
        image = np.full((64, 64, 3), 255, dtype=np.uint8)
        image[8:40, left : left + 32] = COLOURS[colour]
        box_xyxy = (float(left), 8.0, left + 32.0, 40.0)
        concepts = (Concept((f"a {colour} square on white",)), Concept((f"the {colour} square",), box_xyxy))
        return Record(f"{self.name}[{index}]", image, concepts, {"rating": float(colour == "red")})


def open_source(rest, options, image_root):
    """Return a source of `size` images."""
    return Squares(rest, int(options.get("size", 8)))
