"""An independent interpretation of the texts about scenes, by regular expressions and boxes."""

from __future__ import annotations

import re

import numpy as np

from xvlm.scenes import Scene

NUMBER = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
SIDES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
ENDS = {"furthest left": (0, 1), "furthest right": (0, -1), "highest": (1, 1), "lowest": (1, -1)}


def fits(scene: Scene, description: str) -> list[int]:
    """Return the objects that have all the words ("small red rings" reads as "small red ring")."""
    singular = {"boxes": "box", "crosses": "cross"}
    words = [
        singular.get(w, w if w in ("cross", "box") else w.removesuffix("s")) for w in description.split()
    ]
    words = [word for word in words if word != "thing"]
    looks = [item.appearance for item in scene.objects]
    attributes = [{look.shape, look.colour, look.size, look.texture} for look in looks]
    return [index for index, values in enumerate(attributes) if set(words) <= values]


def centre(scene: Scene, index: int, axis: int) -> float:
    box = scene.boxes_xyxy[index]
    return (box[axis] + box[axis + 2]) / 2 / scene.image_size


def gap(scene: Scene, a: int, relation: str, b: int) -> float:
    """Return the distance from b to a in the direction of the relation, in image sides."""
    axis, sign = (SIDES | ENDS)[relation]
    return sign * (centre(scene, b, axis) - centre(scene, a, axis))


def resolve(scene: Scene, phrase: str) -> tuple[set[int], bool]:
    """Return the referents of a region phrase, and whether it needs a relation or an extreme."""
    text = phrase.removeprefix("the ")
    if match := re.fullmatch(r"(.+) (left of|right of|above|below) the (.+)", text):
        head, relation, anchor = match.groups()
        (anchor_index,) = fits(scene, anchor)
        heads = fits(scene, head)
        assert len(heads) > 1, f"{phrase!r}: the relation is not needed"
        assert anchor_index not in heads
        gaps = {a: gap(scene, a, relation, anchor_index) for a in heads}
        assert all(distance > 0.1 or distance < 0.03 for distance in gaps.values())
        return {a for a, distance in gaps.items() if distance > 0.1}, True
    if match := re.search(r"furthest left|furthest right|highest|lowest|biggest|smallest", text):
        heads = fits(scene, text.replace(match[0], ""))
        assert len(heads) > 1, f"{phrase!r}: the extreme is not needed"
        if match[0] in ENDS:
            first, second = sorted(heads, key=lambda a: -gap(scene, a, match[0], heads[0]))[:2]
            assert gap(scene, first, match[0], second) > 0.1
        else:
            sign = -1 if match[0] == "biggest" else 1
            first, second = sorted(heads, key=lambda a: sign * scene.objects[a].radius)[:2]
            ratio = scene.objects[first].radius / scene.objects[second].radius
            assert max(ratio, 1 / ratio) > 1.3
        return {first}, True
    if match := re.fullmatch(r"(both|two|three|four|five) (.+)", text):
        objects = fits(scene, match[2])
        assert len(objects) == {"both": 2, **NUMBER}[match[1]]
        return set(objects), False
    return set(fits(scene, text)), False


def union(scene: Scene, objects: set[int]) -> tuple[float, float, float, float]:
    boxes = np.array([scene.boxes_xyxy[index] for index in objects])
    return (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))


def answer(scene: Scene, question: str) -> tuple[str, str]:
    """Return the form of a question, and its correct answer."""
    if match := re.fullmatch(r"what (colour|shape) is the (.+)\?", question):
        (index,) = fits(scene, match[2])
        value = getattr(scene.objects[index].appearance, match[1])
        assert value not in question
        return f"what {match[1]}", value
    if match := re.fullmatch(r"is the (.+) plain, striped or dotted\?", question):
        (index,) = fits(scene, match[1])
        return "plain", scene.objects[index].appearance.texture
    if match := re.fullmatch(r"how many (.+) are there\?", question):
        return "how many", list(NUMBER)[len(fits(scene, match[1]))]
    if match := re.fullmatch(r"is there an? (.+)\?", question):
        return "is there", "yes" if fits(scene, match[1]) else "no"
    match = re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)\?", question)
    assert match, question
    (a,), (b,) = fits(scene, match[1]), fits(scene, match[3])
    distance = gap(scene, a, match[2], b)
    assert abs(distance) > 0.1
    return "is the", "yes" if distance > 0 else "no"


def judge(left: Scene, right: Scene, statement: str) -> tuple[str, bool]:
    """Return the kind of a statement, and whether it is true."""
    pictures = {"left": left, "right": right}
    if match := re.fullmatch(r"both pictures show an? (.+)", statement):
        return "both", bool(fits(left, match[1]) and fits(right, match[1]))
    if match := re.fullmatch(r"only the (left|right) picture shows an? (.+)", statement):
        showing = [name for name, scene in pictures.items() if fits(scene, match[2])]
        return "only", showing == [match[1]]
    if match := re.fullmatch(r"the (left|right) picture has more (.+) than the (left|right)", statement):
        return "more", len(fits(pictures[match[1]], match[2])) > len(fits(pictures[match[3]], match[2]))
    if match := re.fullmatch(r"there are (\w+) (.+) in the two pictures", statement):
        return "total", len(fits(left, match[2])) + len(fits(right, match[2])) == NUMBER[match[1]]
    match = re.fullmatch(
        r"the (left|right) picture shows an? (.+) (left of|right of|above|below) an? (.+)", statement
    )
    assert match, statement
    scene = pictures[match[1]]
    (a,), (b,) = fits(scene, match[2]), fits(scene, match[4])
    return "related", gap(scene, a, match[3], b) > 0.1
