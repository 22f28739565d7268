"""RefCOCO as released: every sentence a record, whoever pickled it; and nothing in a pickle is run."""

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
from tests.refcoco_data import BOXES, IMAGES, SAID, python2_pickle, refs, write_refcoco
from xvlm.data.plain_pickle import read_plain_pickle
from xvlm.data.refcoco import boxes_of_image, read_detections, read_refs
from xvlm.data.sources import open_source
from xvlm.errors import InputError
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
    assert len(source) == sum(source.shards) == sum(len(texts) for _, _, texts in SAID.values())
    assert len({record.key for record in records}) == len(records)
    said: dict[int, list[str]] = {}
    for record in records:
        (concept,) = record.concepts
        ref_id = record.extra["ref_id"]
        ann_id, split, _ = SAID[ref_id]
        x, y, w, h = BOXES[ann_id]
        assert concept.box_xyxy == (x, y, x + w, y + h)
        assert record.image == os.path.join("pictures", IMAGES[ann_id // 10])
        assert record.extra["split"] == split and record.extra["image_id"] == ann_id // 10
        assert (record.extra["width"], record.extra["height"]) == refcoco_data.SIZE
        said.setdefault(ref_id, []).extend(concept.texts)
    assert said == {ref: texts for ref, (_, _, texts) in SAID.items()}
    images = [record.image for record in records]
    assert images == sorted(images, key=images.index), "records of one image stand together"


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("train", {10, 12}),
        ("val", {11}),
        ("testA", {13}),
        ("testB", {14}),
        ("test", {13, 14}),
        ("", set(SAID)),
    ],
)
def test_splits(split: str, found: set[int], folder: Path) -> None:
    source = open_source(f"refcoco:{folder}:unc" + f":{split}" * bool(split))
    assert {source[i].extra["ref_id"] for i in range(len(source))} == found
    assert source[0].image == str(folder / IMAGES[source[0].extra["image_id"]]), "beside the files by default"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("{}:unc:testC", r"split is 'testC'; .*refs\(unc\)\.p has testA, testB, train, val$"),
        ("{}:google", r"refs\(google\)\.p"),
        ("{}", r"expected refcoco:FOLDER:SPLIT_BY:SPLIT"),
        ("{}:unc:val?seed=1", r"takes no options, found seed"),
    ],
)
def test_what_is_not_there_is_named(place: str, sentence: str, folder: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        open_source("refcoco:" + place.format(folder))


def test_folders_with_colons_are_read(folder: Path) -> None:
    strange = folder.rename(folder.parent / "a:b-c")
    assert len(open_source(f"refcoco:{strange}:unc:val")) == 1


def test_what_instances_lack_is_a_bad_record(folder: Path) -> None:
    known = refcoco_data.instances()
    known["annotations"] = [one for one in known["annotations"] if one["id"] != 581]
    known["images"] = [one for one in known["images"] if one["id"] != 72]
    (folder / "instances.json").write_text(json.dumps(known))
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


class Runs:
    """Unpickled as usual, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def hostile(marker: Path) -> dict[str, bytes]:
    command = str(marker).encode()
    found = {f"protocol {p}": pickle.dumps([Runs(marker)], protocol=p) for p in range(6)}
    return found | {
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
def test_nothing_in_a_pickle_is_run(kind: str, folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    data = hostile(marker)[kind]
    (folder / "refs(unc).p").write_bytes(data)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p is no pickle of plain values: ") as caught:
        open_source(f"refcoco:{folder}:unc:val")
    assert "\n" not in str(caught.value) and not marker.exists()
    if kind.startswith("protocol"):
        pickle.loads(data)
        assert marker.exists(), "it would have run"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_are_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed, taken out or put in; what still reads is checked, or is a list of refs."""
    whole = bytearray(PICKLES[data.draw(st.sampled_from(sorted(PICKLES)))])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "refs(unc).p"
    path.write_bytes(whole)
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
    with pytest.raises(ValueError, match=r"instances\.json is (no JSON|not of COCO's form)"):
        open_source(f"refcoco:{folder}:unc:val")


def test_plain_values_come_back(tmp_path: Path) -> None:
    value = [1, 2**70, -1.5, None, True, "ä", ("a", {"b": []})]
    for protocol in range(6):
        (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(str(tmp_path / "a.p")) == value


def doubled(times: int) -> bytes:
    """Tuples that hold one tuple twice, and so on: of 2 ** times parts, in a few bytes for each."""
    return b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(times))


BOMBS = {
    "a tuple that doubles": b"\x80\x02K\x01q\x00" + doubled(80) + b".",
    "as a key": b"\x80\x02}K\x01q\x00" + doubled(80) + b"K\x01s.",
    "by DUP": b"\x80\x02}K\x01" + b"2\x86" * 80 + b"K\x01s.",
    "the memo's place": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a long text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00a.",
    "no end": b"\x80\x02]q\x00",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_small_pickles_that_would_become_large_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(BOMBS[kind])
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(InputError, match=r"a\.p is no pickle of plain values") as caught:
        read_plain_pickle(str(tmp_path / "a.p"))
    assert time.monotonic() - began < 1 and tracemalloc.get_traced_memory()[1] < 1_000_000
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    tracemalloc.stop()


def test_lists_that_double_are_named_in_a_sentence(tmp_path: Path) -> None:
    value: Any = []
    for _ in range(60):
        value = [value, value]
    (tmp_path / "a.p").write_bytes(pickle.dumps([{**refs()[0], "ann_id": value}], protocol=2))
    with pytest.raises(InputError, match=r"ann_id of ref 0 is \[.*, expected int"):
        read_refs(str(tmp_path / "a.p"))


# detections -------------------------------------------------------------------------------------------


def test_both_forms_of_detections(tmp_path: Path) -> None:
    published = {"58": [[1, 2, 30, 40, 0.9], [5, 5, 10, 10]], "72": []}
    (tmp_path / "dets.json").write_text(json.dumps(published))
    assert read_detections(tmp_path / "dets.json") == {"58": [(1, 2, 31, 42), (5, 5, 15, 15)], "72": []}
    mattnet = [
        {"det_id": n, "image_id": 58, "box": box[:4], "category_id": 1}
        for n, box in enumerate(published["58"])
    ]
    (tmp_path / "dets.json").write_text(json.dumps(mattnet))
    assert read_detections(tmp_path / "dets.json") == {"58": [(1, 2, 31, 42), (5, 5, 15, 15)]}


def test_coco_results_and_ids_of_every_spelling(tmp_path: Path) -> None:
    boxes = [[1, 2, 30, 40], [5, 5, 10, 10]]
    results = [{"image_id": 58, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    wanted = {"58": [(1, 2, 31, 42), (5, 5, 15, 15)]}
    padded = [{**one, "image_id": spelled} for one, spelled in zip(results, ("000058", 58.0), strict=True)]
    for found in (results, padded, {"annotations": results}, {"000000000058": boxes}):
        (tmp_path / "dets.json").write_text(json.dumps(found))
        known = read_detections(tmp_path / "dets.json")
        assert known == wanted
        for spelled in (58, "58", "00058", 58.0):
            assert boxes_of_image(known, spelled) == wanted["58"]
        for other in (None, 59, "x", [58]):
            assert boxes_of_image(known, other) == ()
    (tmp_path / "dets.json").write_text(json.dumps({"street_001": boxes[:1]}))
    assert boxes_of_image(read_detections(tmp_path / "dets.json"), "street_001") == [(1, 2, 31, 42)]


@pytest.mark.parametrize(
    "text",
    ["3", "{", '{"1": [[1, 2, 3]]}', '{"1": 5}', '[{"image_id": 3}]', '{"1": [[1, 2, NaN, 4]]}', '[[1, 2]]',
     '{"1": [[1, 2, -3, 4]]}', '{"1": [["a", 2, 3, 4]]}'],
)  # fmt: skip
def test_detections_of_another_form(text: str, tmp_path: Path) -> None:
    (tmp_path / "dets.json").write_text(text)
    with pytest.raises(ValueError, match=r"dets\.json is no (file of detections|JSON)"):
        read_detections(tmp_path / "dets.json")
