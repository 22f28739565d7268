"""Phrases with several targets, one or none: an independent reader of scenes agrees."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.scenes.scene_reader import fits, gap, resolve
from xvlm.scenes import HELD_OUT, Scene, SceneDetectionRecords, Scenes
from xvlm.scenes.scene import COLOURS, SHAPES

SPLITS = [Scenes("train", 200), Scenes("test", 100), Scenes("heldout", 100)]


def describes_nothing(scene: Scene, text: str) -> bool:
    """Return whether no object fits, by the reader; a relation must clearly not hold."""
    text = re.sub(r"^(?:the (?:two |three )?|both )", "", text)
    text = re.sub(r"(?:furthest left|furthest right|highest|lowest|biggest|smallest)", "", text)
    if match := re.fullmatch(r"(.+) (left of|right of|above|below) the (.+)", text):
        head, relation, anchor = match.groups()
        pairs = [(a, b) for a in fits(scene, head) for b in fits(scene, anchor) if a != b]
        return all(gap(scene, a, relation, b) < 0.03 for a, b in pairs)
    return not fits(scene, text)


@pytest.mark.parametrize("scenes", SPLITS, ids=lambda scenes: scenes.split)
def test_absent_texts_describe_nothing(scenes: Scenes) -> None:
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        texts = scenes[index].absent_texts
        assert len(texts) == len(set(texts)) >= 4
        for text in texts:
            assert describes_nothing(scene, text), (index, text)


@pytest.mark.parametrize("scenes", SPLITS, ids=lambda scenes: scenes.split)
def test_combinations_of_absent_texts(scenes: Scenes) -> None:
    """A text of training names no combination of shape and colour that is held out."""
    named = set()
    for index in range(len(scenes)):
        for text in scenes[index].absent_texts:
            for part in re.split(r" (?:left of|right of|above|below) ", text):
                words = [re.sub(r"(?<=x|s)es$|(?<!s)s$", "", word) for word in part.split()]
                colour = next((word for word in words if word in COLOURS), None)
                shape = next((word for word in words if word in SHAPES), None)
                if colour and shape:
                    named.add((shape, colour))
    if scenes.split == "heldout":
        assert named & set(HELD_OUT)
    else:
        assert named and not named & set(HELD_OUT)


def test_targets_are_all_objects_that_fit() -> None:
    counts: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    for scenes in SPLITS[:2]:
        records = SceneDetectionRecords(scenes)
        for index in range(len(scenes)):
            record, scene = records[index], scenes.scene(index)
            for concept in record.concepts:
                (text,) = concept.texts
                objects, _ = resolve(scene, text)
                assert set(concept.targets_xyxy) == {scene.boxes_xyxy[one] for one in objects}
                counts[len(concept.targets_xyxy)] += 1
                for rival in record.extra["rivals_xyxy"].get(text, ()):
                    assert rival not in concept.targets_xyxy and rival in scene.boxes_xyxy
                if record.extra["phrase_kinds"][text] == "relation":
                    assert record.extra["rivals_xyxy"][text]
            for text in record.absent_texts:
                assert describes_nothing(scene, text)
                counts[0] += 1
            kinds.update(record.extra["phrase_kinds"].values())
    assert min(counts[number] for number in (0, 1, 2, 3)) > 20
    expected = {"attribute", "relation", "extreme", "group"}
    expected |= {f"absent {kind}" for kind in ("attribute", "noun", "relation", "anchor")}
    assert set(kinds) == expected and min(kinds.values()) > 30


def test_regions_of_groups_have_their_instances() -> None:
    groups = 0
    for index in range(60):
        scene = SPLITS[0].scene(index)
        for concept in SPLITS[0][index].concepts[1:]:
            objects, _ = resolve(scene, concept.texts[0])
            assert set(concept.targets_xyxy) == {scene.boxes_xyxy[one] for one in objects}
            groups += len(objects) > 1
    assert groups > 20
