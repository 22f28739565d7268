"""An independent reading of what is said of scenes: regular expressions and boxes."""

from __future__ import annotations

import re

import numpy as np

from xvlm.data.scenes import Scene

NUMBER = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
SIDES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
ENDS = {"furthest left": (0, 1), "furthest right": (0, -1), "highest": (1, 1), "lowest": (1, -1)}


def fits(scene: Scene, description: str) -> list[int]:
    """The things that have all the words ("small red rings" reads as "small red ring")."""
    singular = {"boxes": "box", "crosses": "cross"}
    words = [
        singular.get(w, w if w in ("cross", "box") else w.removesuffix("s")) for w in description.split()
    ]
    words = [word for word in words if word != "thing"]
    looks = [(t.look.shape, t.look.colour, t.look.size, t.look.texture) for t in scene.things]
    return [index for index, look in enumerate(looks) if set(words) <= set(look)]


def centre(scene: Scene, index: int, axis: int) -> float:
    box = scene.boxes_xyxy[index]
    return (box[axis] + box[axis + 2]) / 2 / scene.image_size


def gap(scene: Scene, a: int, relation: str, b: int) -> float:
    """How far a lies in the relation's direction from b, in image sides."""
    axis, sign = (SIDES | ENDS)[relation]
    return sign * (centre(scene, b, axis) - centre(scene, a, axis))


def resolve(scene: Scene, phrase: str) -> tuple[set[int], bool]:
    """What a region phrase means, and whether a relation or an extreme had to be resolved for it."""
    text = phrase.removeprefix("the ")
    if found := re.fullmatch(r"(.+) (left of|right of|above|below) the (.+)", text):
        head, relation, anchor = found.groups()
        (where,) = fits(scene, anchor)
        heads = fits(scene, head)
        assert len(heads) > 1, f"{phrase!r}: the relation is not needed"
        assert where not in heads
        assert all(
            gap(scene, a, relation, where) > 0.1 or gap(scene, a, relation, where) < 0.03 for a in heads
        )
        return {a for a in heads if gap(scene, a, relation, where) > 0.1}, True
    if found := re.search(r"furthest left|furthest right|highest|lowest|biggest|smallest", text):
        heads = fits(scene, text.replace(found[0], ""))
        assert len(heads) > 1, f"{phrase!r}: the extreme is not needed"
        if found[0] in ENDS:
            first, second = sorted(heads, key=lambda a: -gap(scene, a, found[0], heads[0]))[:2]
            assert gap(scene, first, found[0], second) > 0.1
        else:
            sign = -1 if found[0] == "biggest" else 1
            first, second = sorted(heads, key=lambda a: sign * scene.things[a].radius)[:2]
            ratio = scene.things[first].radius / scene.things[second].radius
            assert max(ratio, 1 / ratio) > 1.3
        return {first}, True
    if found := re.fullmatch(r"(both|two|three|four|five) (.+)", text):
        things = fits(scene, found[2])
        assert len(things) == {"both": 2, **NUMBER}[found[1]]
        return set(things), False
    return set(fits(scene, text)), False


def union(scene: Scene, things: set[int]) -> tuple[float, float, float, float]:
    boxes = np.array([scene.boxes_xyxy[index] for index in things])
    return (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))


def answer(scene: Scene, question: str) -> tuple[str, str]:
    if found := re.fullmatch(r"what (colour|shape) is the (.+)\?", question):
        (thing,) = fits(scene, found[2])
        value = getattr(scene.things[thing].look, found[1])
        assert value not in question
        return f"what {found[1]}", value
    if found := re.fullmatch(r"is the (.+) plain, striped or dotted\?", question):
        (thing,) = fits(scene, found[1])
        return "plain", scene.things[thing].look.texture
    if found := re.fullmatch(r"how many (.+) are there\?", question):
        return "how many", {v: k for k, v in NUMBER.items()}[len(fits(scene, found[1]))]
    if found := re.fullmatch(r"is there an? (.+)\?", question):
        return "is there", "yes" if fits(scene, found[1]) else "no"
    found = re.fullmatch(r"is the (.+) (left of|right of|above|below) the (.+)\?", question)
    assert found, question
    (a,), (b,) = fits(scene, found[1]), fits(scene, found[3])
    distance = gap(scene, a, found[2], b)
    assert abs(distance) > 0.1
    return "is the", "yes" if distance > 0 else "no"


def judge(left: Scene, right: Scene, statement: str) -> tuple[str, bool]:
    pictures = {"left": left, "right": right}
    if found := re.fullmatch(r"both pictures show an? (.+)", statement):
        return "both", bool(fits(left, found[1]) and fits(right, found[1]))
    if found := re.fullmatch(r"only the (left|right) picture shows an? (.+)", statement):
        showing = [name for name, scene in pictures.items() if fits(scene, found[2])]
        return "only", showing == [found[1]]
    if found := re.fullmatch(r"the (left|right) picture has more (.+) than the (left|right)", statement):
        return "more", len(fits(pictures[found[1]], found[2])) > len(fits(pictures[found[3]], found[2]))
    if found := re.fullmatch(r"there are (\w+) (.+) in the two pictures", statement):
        return "total", len(fits(left, found[2])) + len(fits(right, found[2])) == NUMBER[found[1]]
    found = re.fullmatch(
        r"the (left|right) picture shows an? (.+) (left of|right of|above|below) an? (.+)", statement
    )
    assert found, statement
    scene = pictures[found[1]]
    (a,), (b,) = fits(scene, found[2]), fits(scene, found[4])
    return "related", gap(scene, a, found[3], b) > 0.1
