"""RefCOCO as released: every sentence is a record, and no code in a pickle is run; detections."""

from __future__ import annotations

import collections
import json
import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import refcoco_data
from tests.refcoco_data import BOXES, IMAGES, SENTENCES, python2_pickle, refs, write_refcoco
from xvlm.common.errors import InputError
from xvlm.data.files.plain_pickle import read_plain_pickle
from xvlm.data.sources.open import open_source
from xvlm.data.sources.refcoco import boxes_of_image, read_detections, read_refs
from xvlm.records import BadRecord


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_refcoco(tmp_path / "refcoco+", tmp_path / "refcoco+")
    return tmp_path / "refcoco+"


PICKLES = {
    "python 2, protocol 2": python2_pickle(refs(), 2),
    "python 2, protocol 0": python2_pickle(refs(), 0),
    "protocol 2": pickle.dumps(refs(), protocol=2),
    "protocol 0": pickle.dumps(refs(), protocol=0),
    "newest": pickle.dumps(refs()),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_every_sentence_is_a_record(kind: str, folder: Path) -> None:
    (folder / "refs(unc).p").write_bytes(PICKLES[kind])
    source = open_source(f"refcoco:{folder}:unc", "pictures")
    records = [source[i] for i in range(len(source))]
    assert len(source) == sum(source.shards) == sum(len(texts) for _, _, texts in SENTENCES.values())
    assert len({record.key for record in records}) == len(records)
    sentences: dict[int, list[str]] = {}
    for record in records:
        (concept,) = record.concepts
        ref_id = record.extra["ref_id"]
        ann_id, split, _ = SENTENCES[ref_id]
        x, y, w, h = BOXES[ann_id]
        assert concept.box_xyxy == (x, y, x + w, y + h)
        assert record.image == os.path.join("pictures", IMAGES[ann_id // 10])
        assert record.extra["split"] == split and record.extra["image_id"] == ann_id // 10
        assert (record.extra["width"], record.extra["height"]) == refcoco_data.SIZE
        sentences.setdefault(ref_id, []).extend(concept.texts)
    assert sentences == {ref: texts for ref, (_, _, texts) in SENTENCES.items()}
    images = [record.image for record in records]
    assert images == sorted(images, key=images.index), "records of one image are consecutive"


@pytest.mark.parametrize(
    ("split", "refs_of_split"),
    [
        ("train", {10, 12}),
        ("val", {11}),
        ("testA", {13}),
        ("testB", {14}),
        ("test", {13, 14}),
        ("", set(SENTENCES)),
    ],
)
def test_splits(split: str, refs_of_split: set[int], folder: Path) -> None:
    source = open_source(f"refcoco:{folder}:unc" + f":{split}" * bool(split))
    assert {source[i].extra["ref_id"] for i in range(len(source))} == refs_of_split
    assert source[0].image == str(folder / IMAGES[source[0].extra["image_id"]]), "the default folder"


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("{}:unc:testC", r"split is 'testC'; .*refs\(unc\)\.p has testA, testB, train, val$"),
        ("{}:google", r"refs\(google\)\.p"),
        ("{}", r"expected refcoco:FOLDER:SPLIT_BY:SPLIT"),
        ("{}:unc:val?seed=1", r"takes no options, found seed"),
    ],
)
def test_wrong_specifications_are_named(rest: str, sentence: str, folder: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        open_source("refcoco:" + rest.format(folder))


def test_folders_with_colons_are_read(folder: Path) -> None:
    strange = folder.rename(folder.parent / "a:b-c")
    assert len(open_source(f"refcoco:{strange}:unc:val")) == 1


def test_missing_instances_are_bad_records(folder: Path) -> None:
    instances = refcoco_data.instances()
    instances["annotations"] = [item for item in instances["annotations"] if item["id"] != 581]
    instances["images"] = [image for image in instances["images"] if image["id"] != 72]
    (folder / "instances.json").write_text(json.dumps(instances))
    source = open_source(f"refcoco:{folder}:unc")
    reasons = collections.Counter()
    for index in range(len(source)):
        try:
            assert source[index].extra["ref_id"] == 12
        except BadRecord as error:
            assert error.reason == "not in instances.json" and "ref 1" in error.key
            reasons[error.detail] += 1
    assert reasons == {"annotation 581": 3, "image 72": 3}


# hostile and broken files -----------------------------------------------------------------------------


class MakesFolder:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def hostile(marker: Path) -> dict[str, bytes]:
    command = str(marker).encode()
    dumped = {f"protocol {p}": pickle.dumps([MakesFolder(marker)], protocol=p) for p in range(6)}
    return dumped | {
        "instance": b"(S'" + command + b"'\nios\nmkdir\n.",
        "object": b"(cos\nmkdir\nS'" + command + b"'\no.",
        "builtin": b'c__builtin__\neval\n(S\'__import__("os").mkdir("' + command + b"\")'\ntR.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"Pwhatever\n.",
        "huge": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\x00\x00.",
        "class": pickle.dumps(collections.OrderedDict(a=1)),
        "set": pickle.dumps({1}, protocol=2),
        "cut": PICKLES["protocol 2"][:300],
        "empty": b"",
        "text": b"hello",
    }


@pytest.mark.parametrize("kind", hostile(Path("x")))
def test_no_code_in_a_pickle_is_run(kind: str, folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    data = hostile(marker)[kind]
    (folder / "refs(unc).p").write_bytes(data)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is not a pickle of plain values: ") as caught:
        open_source(f"refcoco:{folder}:unc:val")
    assert "\n" not in str(caught.value) and not marker.exists()
    if kind.startswith("protocol"):
        pickle.loads(data)
        assert marker.exists(), "it would have run"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """After changes of bytes, a pickle is either refused or read as a checked list of refs."""
    damaged = bytearray(PICKLES[data.draw(st.sampled_from(sorted(PICKLES)))])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        damaged[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "refs(unc).p"
    path.write_bytes(damaged)
    try:
        assert isinstance(read_refs(str(path)), list)
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"refs": []}, "holds a dict, expected a list of refs"),
        (["ref"], "ref 0 is a str, expected a dict"),
        ([{**refs()[0], "ann_id": "x"}], "ann_id of ref 0 is 'x', expected int"),
        ([refs()[0], {"ref_id": 1}], "ann_id of ref 1 is missing"),
        ([{**refs()[0], "sentences": [{"raw": "a dog"}]}], "a sentence of ref 0 has no text under 'sent'"),
        ([], "split is 'val'; .* has no ref at all"),
    ],
)
def test_refs_of_another_form(value: Any, sentence: str, folder: Path) -> None:
    (folder / "refs(unc).p").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(ValueError, match=sentence):
        open_source(f"refcoco:{folder}:unc:val")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"images": [], "annotations": [{"id": 1}]}', '{"images": [{"id": 1}]}']
)
def test_instances_of_another_form(text: str, folder: Path) -> None:
    (folder / "instances.json").write_text(text)
    with pytest.raises(ValueError, match=r"instances\.json is not (JSON|in COCO's form)"):
        open_source(f"refcoco:{folder}:unc:val")


def test_plain_values_are_read(tmp_path: Path) -> None:
    value = [1, 2**70, -1.5, None, True, "ä", ("a", {"b": []})]
    for protocol in range(6):
        (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(str(tmp_path / "a.p")) == value


def doubled(times: int) -> bytes:
    """Return opcodes of nested tuples that each hold the previous one twice: 2 ** times leaves."""
    return b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(times))


BOMBS = {
    "a tuple that doubles": b"\x80\x02K\x01q\x00" + doubled(80) + b".",
    "as a key": b"\x80\x02}K\x01q\x00" + doubled(80) + b"K\x01s.",
    "by DUP": b"\x80\x02}K\x01" + b"2\x86" * 80 + b"K\x01s.",
    "a large memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a long text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00a.",
    "no end": b"\x80\x02]q\x00",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_pickle_bombs_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(BOMBS[kind])
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(InputError, match=r"a\.p is not a pickle of plain values") as caught:
        read_plain_pickle(str(tmp_path / "a.p"))
    assert time.monotonic() - start < 1 and tracemalloc.get_traced_memory()[1] < 1_000_000
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    tracemalloc.stop()


def test_doubling_lists_are_shown_in_one_sentence(tmp_path: Path) -> None:
    value: Any = []
    for _ in range(60):
        value = [value, value]
    (tmp_path / "a.p").write_bytes(pickle.dumps([{**refs()[0], "ann_id": value}], protocol=2))
    with pytest.raises(InputError, match=r"ann_id of ref 0 is \[.*, expected int"):
        read_refs(str(tmp_path / "a.p"))


# detections -------------------------------------------------------------------------------------------


def test_two_forms_of_detections(tmp_path: Path) -> None:
    published = {"58": [[1, 2, 30, 40, 0.9], [5, 5, 10, 10]], "72": []}
    (tmp_path / "dets.json").write_text(json.dumps(published))
    assert read_detections(tmp_path / "dets.json") == {"58": [(1, 2, 31, 42), (5, 5, 15, 15)], "72": []}
    mattnet = [
        {"det_id": n, "image_id": 58, "box": box[:4], "category_id": 1}
        for n, box in enumerate(published["58"])
    ]
    (tmp_path / "dets.json").write_text(json.dumps(mattnet))
    assert read_detections(tmp_path / "dets.json") == {"58": [(1, 2, 31, 42), (5, 5, 15, 15)]}


def test_coco_results_and_every_spelling_of_ids(tmp_path: Path) -> None:
    boxes = [[1, 2, 30, 40], [5, 5, 10, 10]]
    results = [{"image_id": 58, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    expected = {"58": [(1, 2, 31, 42), (5, 5, 15, 15)]}
    padded = [{**results[0], "image_id": "000058"}, {**results[1], "image_id": 58.0}]
    for value in (results, padded, {"annotations": results}, {"000000000058": boxes}):
        (tmp_path / "dets.json").write_text(json.dumps(value))
        detections = read_detections(tmp_path / "dets.json")
        assert detections == expected
        for image_id in (58, "58", "00058", 58.0):
            assert boxes_of_image(detections, image_id) == expected["58"]
        for image_id in (None, 59, "x", [58]):
            assert boxes_of_image(detections, image_id) == ()
    (tmp_path / "dets.json").write_text(json.dumps({"street_001": boxes[:1]}))
    assert boxes_of_image(read_detections(tmp_path / "dets.json"), "street_001") == [(1, 2, 31, 42)]


@pytest.mark.parametrize(
    "text",
    ["3", "{", '{"1": [[1, 2, 3]]}', '{"1": 5}', '[{"image_id": 3}]', '{"1": [[1, 2, NaN, 4]]}', '[[1, 2]]',
     '{"1": [[1, 2, -3, 4]]}', '{"1": [["a", 2, 3, 4]]}'],
)  # fmt: skip
def test_detections_of_another_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "dets.json").write_text(text)
    with pytest.raises(ValueError, match=r"dets\.json is not (a file of detections|JSON)"):
        read_detections(tmp_path / "dets.json")
