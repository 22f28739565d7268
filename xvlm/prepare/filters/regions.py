"""Leave out regions that are small, or described almost as another region of the image.

X-VLM's pre-training had no boxes below 1 % of the image and no two regions of an image whose texts overlap by
more than 75 % (appendix A.1): `regions:min_area=0.01,max_overlap=0.75`.  The paper does not define overlap;
here it is the number of common words divided by the number of all words of both texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xvlm.data.images.decode import ImageFile
from xvlm.prepare.filtering import Filter
from xvlm.records import BoxXYXY, Concept


def make(min_area: float = 0.0, max_overlap: float = 1.0) -> Filter:
    """Return the filter.

    Args:
        min_area: smallest area of a box, as a part of the image.
        max_overlap: largest overlap of the words of two regions, of which the first one stays.
    """

    def regions(concepts: Sequence[Concept], image: ImageFile) -> Iterator[str | None]:
        before: list[frozenset[str]] = []
        for one in concepts:
            words = frozenset(" ".join(one.texts).lower().split())
            if max(map(_area, one.targets_xyxy)) < min_area * image.width * image.height:
                yield "region is small"
            elif any(len(words & other) > max_overlap * len(words | other) for other in before):
                yield "region is described as another one"
            else:
                before.append(words)
                yield None

    return Filter(regions=regions)


def _area(box_xyxy: BoxXYXY) -> float:
    x0, y0, x1, y1 = box_xyxy
    return (x1 - x0) * (y1 - y0)
