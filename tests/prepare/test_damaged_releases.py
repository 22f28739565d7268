"""A release or annotations with damage are read as far as they can be, or refused in a sentence."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.fuzz.mutate import damaged, dumped, encoded, mutated
from tests.prepare.own import FORMS
from tests.prepare.releases import RELEASES
from xvlm.common.errors import XVLMError
from xvlm.data.images.decode import read_encoded
from xvlm.prepare.clean import clean
from xvlm.prepare.importing import recognise
from xvlm.prepare.prepare import prepare
from xvlm.prepare.release import Release
from xvlm.prepare.sample import Sample
from xvlm.prepare.settings import Settings
from xvlm.prepare.shard import find_dataset
from xvlm.prepare.work import plan, samples_of
from xvlm.records import BadRecord

CASES = 12
ANNOTATIONS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".tar")
ROOMS = {"prepare.datasets": RELEASES, "prepare.forms": FORMS}
ALL = [(room, name) for room, writers in ROOMS.items() for name in writers]


def damage(path: Path, rng: random.Random) -> None:
    """Change a value of a JSON file or of one of its lines, or some bytes of another file."""
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    number = rng.randrange(len(lines))
    try:
        lines[number] = encoded(dumped(rng, mutated(rng, json.loads(lines[number]))))
    except ValueError:
        lines[number] = damaged(rng, lines[number])
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(("room", "name"), ALL)
def test_only_errors_with_a_sentence(room: str, name: str, tmp_path: Path) -> None:
    given = Path(ROOMS[room][name](tmp_path / "given") or tmp_path / "given")
    files = [one for one in sorted((tmp_path / "given").rglob("*")) if one.suffix in ANNOTATIONS]
    dataset = find_dataset(room, name)
    for case in range(CASES):
        rng = random.Random(f"{name} {case}")
        copy = tmp_path / f"case{case}"
        shutil.copytree(tmp_path / "given", copy)
        damage(copy / rng.choice(files).relative_to(tmp_path / "given"), rng)
        root, split = str(copy / given.relative_to(tmp_path / "given")), rng.choice(list(dataset.splits))
        try:
            if room == "prepare.forms":
                recognise(root)
            for work in plan(dataset, Release(root, split), 100):
                work.digest()
                for one in samples_of(work, dataset, split):
                    if isinstance(one, Sample):
                        clean_or_bad(one)
        except XVLMError as error:
            assert len(str(error)) < 1000 and "\n" not in str(error)
        shutil.rmtree(copy)


def clean_or_bad(sample: Sample) -> None:
    """What a shard is made of, if the sample can be used."""
    try:
        image = sample.image
        data = image if isinstance(image, bytes) else read_encoded(image, sample.key, True)
        clean(sample, data, Settings(), ())
    except BadRecord:
        return


def test_one_damaged_line_does_not_stop_the_others(tmp_path: Path) -> None:
    RELEASES["nlvr2"](tmp_path / "release")
    path = tmp_path / "release/train.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], '{"identifier": 5}', *lines[1:]]))
    done = prepare("nlvr2", str(tmp_path / "release"), str(tmp_path / "out"), workers=1)
    left_out = done.tally("left_out").counts
    assert done.total("samples") == 2 and left_out["line is not JSON"] == 1
    assert left_out["entry is not as released"] == 1
