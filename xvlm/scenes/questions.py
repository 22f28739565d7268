"""Questions about one scene, each with its one correct answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from xvlm.scenes.phrases import (
    NUMBERS,
    ObjectDescriptions,
    all_descriptions,
    describe_objects,
    plural_phrase,
    sample_descriptions,
    singular_phrase,
    with_article,
)
from xvlm.scenes.scene import COLOURS, HELD_OUT, SHAPES, SIZES, TEXTURES, Description, Scene

QUESTION_KINDS = ("colour", "shape", "texture", "count", "presence", "relation")
QUESTIONS_PER_KIND = 4
"""Number of questions of a kind that are sampled for a scene, before duplicates are removed."""
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
VALUES = (SIZES, TEXTURES, COLOURS, SHAPES)
TEMPLATES = {
    "colour": "what colour is the {}?",
    "shape": "what shape is the {}?",
    "texture": "is the {} plain, striped or dotted?",
}


@dataclass(frozen=True)
class SceneQuestion:
    """A question and its one correct answer, a single word."""

    text: str
    answer: str


def sample_questions(
    rng: random.Random, scene: Scene, name_held_out: bool, kinds: tuple[str, ...] = QUESTION_KINDS
) -> list[SceneQuestion]:
    """Sample different questions; "yes" and "no" are equally likely.

    Args:
        name_held_out: whether questions about absent objects may name held-out combinations.
        kinds: kinds of questions; a kind that the scene does not allow is left out.  All kinds have
            `QUESTIONS_PER_KIND` questions each; fewer kinds share the same total.
    """
    described = describe_objects(scene)
    questions: dict[str, SceneQuestion] = {}
    question: SceneQuestion | None
    for kind in kinds * (QUESTIONS_PER_KIND * len(QUESTION_KINDS) // len(kinds)):
        match kind:
            case "count":
                question = _count_question(rng, scene, name_held_out)
            case "presence":
                question = _presence_question(rng, scene, name_held_out)
            case "relation":
                question = _relation_question(rng, scene, described)
            case _:
                question = _attribute_question(rng, scene, described, kind)
        if question:
            questions[question.text] = question
    return list(questions.values())


def _attribute_question(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions], attribute: str
) -> SceneQuestion | None:
    """Ask "what colour is the small ring?": the description matches one object and omits the answer."""
    answers: dict[Description, str] = {}
    for item, descriptions in zip(scene.objects, described, strict=True):
        answer = getattr(item.appearance, attribute)
        answers |= {words: answer for words in descriptions.unique if answer not in words}
    if not answers:
        return None
    words = sample_descriptions(rng, sorted(answers), 1)[0]
    return SceneQuestion(TEMPLATES[attribute].format(singular_phrase(words)), answers[words])


def _count_question(rng: random.Random, scene: Scene, name_held_out: bool) -> SceneQuestion:
    words = short_description(rng, scene)
    if rng.random() < 0.2:
        words = _absent(rng, scene, words, name_held_out) or words
    return SceneQuestion(f"how many {plural_phrase(words)} are there?", NUMBERS[len(scene.matches(words))])


def _presence_question(rng: random.Random, scene: Scene, name_held_out: bool) -> SceneQuestion | None:
    present = sample_descriptions(rng, long_descriptions(rng, scene), 1)[0]
    answer = rng.choice(("yes", "no"))
    words = present if answer == "yes" else _absent(rng, scene, present, name_held_out)
    return SceneQuestion(f"is there {with_article(words)}?", answer) if words else None


def _relation_question(
    rng: random.Random, scene: Scene, described: list[ObjectDescriptions]
) -> SceneQuestion | None:
    pairs = scene.related_pairs([index for index, one in enumerate(described) if one.unique])
    if not pairs:
        return None
    first, relation, second = rng.choice(pairs)
    answer = rng.choice(("yes", "no"))
    relation = relation if answer == "yes" else OPPOSITES[relation]
    a, b = (
        singular_phrase(sample_descriptions(rng, described[index].unique, 1)[0]) for index in (first, second)
    )
    return SceneQuestion(f"is the {a} {relation} the {b}?", answer)


def long_descriptions(rng: random.Random, scene: Scene) -> list[Description]:
    """Return the descriptions of a sampled object with at least one adjective."""
    return [words for words in all_descriptions(rng.choice(scene.objects).appearance) if len(words) > 1]


def short_description(rng: random.Random, scene: Scene) -> Description:
    """Sample a description with at most one adjective; it often matches several objects."""
    look = rng.choice(scene.objects).appearance
    return rng.choice([words for words in all_descriptions(look) if len(words) <= 2])


def _absent(rng: random.Random, scene: Scene, words: Description, name_held_out: bool) -> Description | None:
    """Change one word so that the description matches no object; return None if there is no such change."""
    options = []
    for position, word in enumerate(words):
        values = next((values for values in VALUES if word in values), ())
        for value in values:
            changed = (*words[:position], value, *words[position + 1 :])
            if not scene.matches(changed) and (name_held_out or not _names_held_out(changed)):
                options.append(changed)
    return rng.choice(options) if options else None


def _names_held_out(words: Description) -> bool:
    return any(shape in words and colour in words for shape, colour in HELD_OUT)
