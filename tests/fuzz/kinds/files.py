"""Whole files of records: encodings, lists, other people's forms, names, RefCOCO's folders."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
from dataclasses import replace
from typing import Any

from tests.fuzz import mutate, payload
from tests.fuzz.case import Box, Call, Command, Reading
from tests.fuzz.kinds.lines import evaluated, read
from tests.fuzz.kit import MEASURES, records
from tests.refcoco_data import write_refcoco

CODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-7")
NAMES = (
    "data.json", "data.jsonl", "data", "DATA.JSON", "data.JSONL.txt", "a[1].json", "a*.json", "a?.json",
    "-.json", f"a{mutate.ESCAPES}.json", "a\nb.json", "a b.json", "ü.json", "data.json.gz", "a:b.json",
    "scenes:.json", "refcoco:x.json", ".json", "a#b.json", "a%20b.json", "a::b.json",
)  # fmt: skip


def generate(rng: random.Random, box: Box) -> Call:
    """A file or a folder of files, and what reads it."""
    made = rng.choice([written, written, written, foreign, special, refcoco, specification, detections])
    return made(rng, box)


def called(rng: random.Random, box: Box, measure: str, path: object) -> Call:
    """Its records are read, or evaluated."""
    if rng.random() < 0.35:
        return evaluated(rng, box, measure, path)
    return Reading(f"open_source({str(path)!r})", lambda: read(str(path)))


def content(rng: random.Random, box: Box) -> tuple[str, Any]:
    """(measure, records) of which some may be changed."""
    measure = rng.choice(list(MEASURES))
    found: Any = records(box.kit, measure)
    return measure, mutate.mutated(rng, found) if rng.random() < 0.5 else found


def written(rng: random.Random, box: Box) -> Call:
    """A list or lines, in any coding, cut or damaged."""
    measure, found = content(rng, box)
    how = rng.randrange(4)
    if how == 0 and isinstance(found, list):
        end = rng.choice(["\n", "\r\n", "\r", "\n\n\n", "\u2028"])
        text = end.join(mutate.dumped(rng, one) for one in found) + end
    elif how == 1 and isinstance(found, list):
        text = "\n".join(json.dumps(one, indent=1) for one in found)
    else:
        text = json.dumps(found, indent=rng.choice([None, 2]))
    text = rng.choice(["", "", "", "\ufeff", "  \n", "// a comment\n", "\0"]) + text
    coding = rng.choice(CODINGS) if rng.random() < 0.5 else "utf-8"
    data = text.encode(coding, "surrogatepass" if "utf" in coding and coding != "utf-7" else "replace")
    if rng.random() < 0.4:
        data = mutate.damaged(rng, data)
    if rng.random() < 0.05:
        data = gzip.compress(data)
    path = box.folder / rng.choice(NAMES)
    path.write_bytes(data)
    return called(rng, box, measure, path)


def foreign(rng: random.Random, box: Box) -> Call:
    """Forms of other projects, and what is no form at all."""
    photos = [record["image"] for record in records(box.kit, "captioning")]
    images = [
        {"id": number, "file_name": path, "width": 60, "height": 50} for number, path in enumerate(photos)
    ]
    notes = [
        {"id": n, "image_id": n, "caption": "a dog", "bbox": [1, 1, 9, 9], "category_id": 1, "iscrowd": 0}
        for n in range(len(photos))
    ]
    coco: Any = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dog"}], "info": {}}
    text = rng.choice(
        [
            json.dumps(mutate.mutated(rng, coco)),
            json.dumps(coco, indent=2),
            json.dumps({"data": [], "version": 1}),
            json.dumps(mutate.nested(rng.choice([3, 500]))),
            "[" * 200_000,
            '{"a":' * 200_000,
            "[" + "9" * 6000 + "]",
            '{"image": "a.jpg", "caption": "' + "x" * 10_000_000 + '"}',
            "image,caption\na.jpg,a dog\n",
            "",
            "\n\n",
            "null",
            "[]",
            "[null]",
            '"text"',
            "NaN",
            "<html>404</html>",
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        ]
    )
    path = box.folder / rng.choice(NAMES)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return called(rng, box, rng.choice(list(MEASURES)), path)


def special(rng: random.Random, box: Box) -> Call:
    """What is no regular file, or a folder with surprises in it."""
    path = box.folder / "data.json"
    kind = rng.randrange(8)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.mkdir()
        for name in ("a.json", "b.tar", "c.idx", ".hidden", "_SUCCESS", "d.csv"):
            (path / name).write_text(rng.choice(["[]", "{}", "", '{"image": "a.jpg", "caption": "a"}\n']))
    elif kind == 4:
        with path.open("wb") as file:
            file.write(rng.choice([b"[", b"{", b""]))
            file.truncate(2**40)
    elif kind == 5:
        path.mkdir()
        (path / "a.json").symlink_to(path)
    elif kind == 6:
        path.write_bytes(payload.pickled(box))
    else:
        path = box.folder / "**" / "*.json"
    return called(rng, box, rng.choice(list(MEASURES)), path)


def refcoco(rng: random.Random, box: Box) -> Call:
    """RefCOCO's pickle and its instances, damaged or hostile."""
    folder = box.folder / "refcoco+"
    write_refcoco(folder, box.folder / "images")
    refs = folder / "refs(unc).p"
    how = rng.randrange(6)
    if how == 0:
        refs.write_bytes(mutate.damaged(rng, refs.read_bytes()))
    elif how == 1:
        refs.write_bytes(payload.pickled(box, rng.choice([0, 2, 4])))
    elif how == 2:
        refs.write_bytes(pickle.dumps(mutate.mutated(rng, pickle.loads(refs.read_bytes())), protocol=2))
    elif how == 3:
        tree = json.loads((folder / "instances.json").read_text())
        (folder / "instances.json").write_text(json.dumps(mutate.mutated(rng, tree)))
    elif how == 4:
        data = (folder / "instances.json").read_bytes()
        (folder / "instances.json").write_bytes(mutate.damaged(rng, data))
    else:
        refs.write_bytes(growing())
    split = rng.choice(["val", "testA", "test", "nothing", "", "x" * 400])
    spec = f"refcoco:{folder}:unc" + (f":{split}" if split else "")
    root = str(box.folder / "images")
    if rng.random() < 0.3:
        command = evaluated(rng, box, "grounding", spec)
        return Command.of(*command.words, "--image-root", root)
    return Reading(f"open_source({spec!r})", lambda: read(spec, root))


def growing() -> bytes:
    """A small pickle of a list that holds itself twice, thirty times over: its text would fill the memory."""
    return (
        b"\x80\x02]q\x00"
        + b"".join(b"]q" + bytes([n + 1]) + b"h" + bytes([n]) + b"ah" + bytes([n]) + b"a" for n in range(30))
        + b"."
    )


def specification(rng: random.Random, box: Box) -> Call:
    """What stands after `--data`."""
    spec = rng.choice(
        [
            "scenes:train:4", "scenes:train:-1", "scenes:nothing:4", "scenes:", "scenes:train:",
            "scenes:train:nan",
            "scenes:train:2?image_size=0", "scenes:train:2?image_size=100000", "scenes:train:2?seed=x",
            "scenes:train:2?seed=99999999999999999999", "scenes:train:2?nothing=1", "scene-cases:train:2",
            "scene-questions:train:2?about=", "scene-questions:train:2?about=nothing", "scene-pairs:train:2",
            "refcoco:", "refcoco:::", "refcoco:a:b:c:d", "refcoco:..:unc", "nothing:x", "", " ", ".", "..",
            "~", "/dev/null", "/proc/self/environ", "a\0b", "*", "[", "file://x.json", "http://127.0.0.1:9/x.json",
            "simplecache::file:///etc/passwd", f"reference://x::file://{payload.template(box)}", "memory://x.json",
            f"{mutate.ESCAPES}.json", "x" * 5000,
        ]
    )  # fmt: skip
    call = called(rng, box, rng.choice(list(MEASURES)), spec)
    return replace(call, network="://127.0.0.1" in spec)


def detections(rng: random.Random, box: Box) -> Call:
    """Candidate boxes and answer lists beside a good file."""
    measure = rng.choice(["weak_grounding", "vqa"])
    data, beside = box.folder / "data.json", box.folder / "beside.json"
    data.write_text(json.dumps(records(box.kit, measure)))
    good: Any = {str(n): [[1, 2, 9, 9], [4, 4, 20, 9]] for n in range(4)}
    if measure == "vqa":
        good = ["a dog", "a cat", "2"]
    elif rng.random() < 0.5:
        good = [{"image_id": n, "category_id": 1, "bbox": [1, 2, 9, 9], "score": 0.5} for n in range(4)]
    text = json.dumps(mutate.mutated(rng, good))
    beside.write_bytes(mutate.damaged(rng, text.encode()) if rng.random() < 0.3 else text.encode())
    command = evaluated(rng, box, measure, data)
    return Command.of(*command.words, "--answers" if measure == "vqa" else "--detections", beside)
