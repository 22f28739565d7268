"""One record of each task, changed: as a line among good ones, read, shown to a training view, evaluated."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from tests.fuzz import mutate
from tests.fuzz.case import Box, Call, Command, Reading
from tests.fuzz.kit import MEASURES, records

SHAPES = [*MEASURES, "regions"]


def generate(rng: random.Random, box: Box) -> Call:
    """A file with a damaged line in it."""
    shape = rng.choice(SHAPES)
    good = records(box.kit, shape)
    lines = [mutate.dumped(rng, record) for record in good]
    for _ in range(rng.choice([1, 5, 20, 20])):
        changed = mutate.mutated(rng, rng.choice(good))
        line = mutate.dumped(rng, changed)
        if rng.random() < 0.1:
            line = mutate.encoded(line).decode("utf-8", "replace")[: rng.randrange(1, len(line) + 1)]
        lines.insert(rng.randint(0, len(lines)), line.replace("\n", " "))
    path = box.folder / f"{shape}.jsonl"
    path.write_bytes(mutate.encoded("\n".join(lines) + rng.choice(["\n", "", "\n\n"])))
    if shape != "regions" and rng.random() < 0.3:
        return evaluated(rng, box, shape, path)
    return Reading(f"{shape}: views of {path}", lambda: read(str(path)))


def evaluated(rng: random.Random, box: Box, measure: str, path: object) -> Command:
    """`xvlm eval` of a file of records."""
    words = [
        "eval",
        measure,
        "--model",
        box.kit / MEASURES[measure],
        "--data",
        path,
        "--out",
        box.folder / "out",
    ]
    if measure == "captioning":
        words += ["--no-java", "--beams", 1, "--max-tokens", 8]
    return Command.of(*words)


def read(spec: str, image_root: str | None = None) -> None:
    """Every record of a source by everything that reads one; bad ones are BadRecords."""
    from xvlm.data.sources.open import open_source
    from xvlm.records import BadRecord

    source = open_source(spec, image_root)
    assert sum(source.shards) == len(source)
    shown = views()
    for index in range(min(len(source), 30)):
        try:
            record = source[index]
        except BadRecord as error:
            assert str(error)
            continue
        for view in shown:
            try:
                view(record, np.random.default_rng(index))
            except BadRecord as error:
                assert str(error)


def views() -> list[Callable[..., object]]:
    """Everything that makes something of a record."""
    from tests.fuzz.kit import LABELS
    from tests.tiny import tiny_tokenizer
    from xvlm.data.images.decode import open_image
    from xvlm.data.samples.builders import PairSampleBuilder, RegionSampleBuilder
    from xvlm.data.samples.concept_checks import usable_concepts
    from xvlm.data.samples.text_rows import TextRowBuilder
    from xvlm.data.samples.transforms import PairTransform, RegionTransform
    from xvlm.data.sources.task_fields import image_pair_of, labelled_texts_of, questions_of, statements_of
    from xvlm.tasks.captioning import CaptionSampleBuilder
    from xvlm.tasks.common.sources import texts_of
    from xvlm.tasks.entailment import EntailmentSampleBuilder
    from xvlm.tasks.nlvr2 import NLVR2SampleBuilder
    from xvlm.tasks.vqa import VQASampleBuilder

    tokenizer, pairs = tiny_tokenizer(), PairTransform((32, 32))
    text = TextRowBuilder(tokenizer, 30, 30)
    return [
        VQASampleBuilder(pairs, tokenizer),
        CaptionSampleBuilder(pairs, tokenizer),
        EntailmentSampleBuilder(pairs, tokenizer, LABELS),
        NLVR2SampleBuilder(pairs, tokenizer),
        PairSampleBuilder(pairs, text, boxes_as_captions=True),
        RegionSampleBuilder(RegionTransform((32, 32)), text, texts_per_region=2, absent_texts=2),
        lambda record, rng: usable_concepts(record, open_image(record.image, key=record.key)),
        lambda record, rng: questions_of(record),
        lambda record, rng: statements_of(record),
        lambda record, rng: labelled_texts_of(record, LABELS),
        lambda record, rng: image_pair_of(record),
        lambda record, rng: texts_of(record),
    ]
