"""Records are read correctly from every kind of storage."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data import make
from xvlm.data.images.decode import open_image
from xvlm.data.sources.huggingface import HuggingFaceSource
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.data.sources.record_fields import FieldNames, record_from_fields
from xvlm.data.sources.tar import TarSource
from xvlm.data.sources.tar_index import build_tar_index, load_tar_index
from xvlm.records import BadRecord, Concept

JPEG = make.encoded(make.photo(32, 24))


def _base64(data: bytes = JPEG) -> str:
    return base64.b64encode(data).decode()


def test_image_text_lines(tmp_path: Path) -> None:
    path = make.write_lines(
        tmp_path / "a.jsonl",
        [{"caption": "one", "image_rpath": "x/1.jpg"}, {"caption": ["two", "zwei"], "binary": _base64()}],
    )
    source = JsonSource(path)
    assert len(source) == 2 and source.shards == [2] and source.name == path
    assert source[0].image == str(tmp_path / "x/1.jpg")
    assert source[0].concepts == (Concept(("one",)),)
    assert source[0].key == f"{path}:1"
    assert source[1].image == JPEG
    assert source[1].concepts == (Concept(("two", "zwei")),)
    assert source[1].extra == {}


def test_field_names_are_options(tmp_path: Path) -> None:
    path = make.write_lines(tmp_path / "a.json", [{"title": "one", "pixels": _base64(), "image_id": 3}])
    record = JsonSource(path, field_names=FieldNames("pixels", False, "title"))[0]
    assert (record.image, record.concepts, record.extra) == (JPEG, (Concept(("one",)),), {"image_id": 3})
    assert open_source(path, image_key="pixels", is_image_rpath=False, caption_key="title")[0] == record


def test_region_lines(tmp_path: Path) -> None:
    line = {
        "elems": [
            {"caption": "lady at a table", "bb": [155, 0, 205, 131]},
            {"caption": ["window", "pane"], "attributes": "closed", "bb": [20, 130, 335.5, 185]},
            {"caption": "door", "attributes": ["red", "open"], "bb": [1, 2, 3, 4]},
        ],
        "caption": "a room",
        "image_rpath": "1.jpg",
    }
    record = JsonSource(make.write_lines(tmp_path / "r", [line]), image_root="/photos")[0]
    assert record.image == "/photos/1.jpg"
    assert record.concepts == (
        Concept(("a room",)),
        Concept(("lady at a table",), (155, 0, 360, 131)),
        Concept(("window", "pane"), (20, 130, 355.5, 315), ("closed",)),
        Concept(("door",), (1, 2, 4, 6), ("red", "open")),
    )


def test_lists(tmp_path: Path) -> None:
    retrieval = [{"image": "1.jpg", "caption": ["a", "b"], "image_id": "x1"}]
    size = {"width": 50, "height": 40}
    grounding = [{"ref_id": 7, "image": "2.jpg", "text": "the cup", "bbox": [1, 2, 3, 4], **size}]
    vqa = [{"image": "3.jpg", "question": "what?", "answer": ["a", "b"], "question_id": 1, "dataset": "vqa"}]
    nlvr = [{"images": ["4a.png", "4b.png"], "sentence": "both", "label": "True"}]
    for name, items in (("1", retrieval), ("2", grounding), ("3", vqa), ("4", nlvr)):
        (tmp_path / f"{name}.json").write_text("\n " + json.dumps(items))
    source = JsonSource(str(tmp_path / "*.json"))
    assert source.shards == [1, 1, 1, 1]
    records = [source[i] for i in range(4)]
    names = [os.path.basename(str(record.image)) for record in records]
    assert names == ["1.jpg", "2.jpg", "3.jpg", "4a.png"]
    assert records[0].concepts == (Concept(("a", "b")),) and records[0].extra == {"image_id": "x1"}
    assert records[1].concepts == (Concept(("the cup",), (1, 2, 4, 6)),)
    assert records[1].extra == {"ref_id": 7, **size}
    assert records[2].concepts == () and records[2].extra["answer"] == ["a", "b"]
    assert records[3].extra == {**nlvr[0], "right": str(tmp_path / "4b.png")}
    assert len({record.key for record in records}) == 4


def test_folder_of_parts_keeps_order_and_skips_blank_lines(tmp_path: Path) -> None:
    make.write_lines(tmp_path / "part-1", [{"caption": str(i), "image": "a"} for i in range(3)])
    (tmp_path / "part-0").write_text('\n{"caption": "ü", "image": "a"}\n\n{"caption": "x", "image": "a"}')
    (tmp_path / "_SUCCESS").touch()
    source = open_source(str(tmp_path))
    assert source.shards == [2, 3]
    assert [source[i].concepts[0].texts[0] for i in range(5)] == ["ü", "x", "0", "1", "2"]
    assert source[1].key.endswith("part-0:4")
    for outside in (5, -1):
        with pytest.raises(IndexError, match="source that has 5"):
            source[outside]


def test_remote_files_and_pickling() -> None:
    with fsspec.open("memory://lines/a.jsonl", "wb") as file:
        file.write(b'{"caption": "a", "image": "a.jpg"}\n{"caption": "b", "image": "b.jpg"}\n')
    source = pickle.loads(pickle.dumps(JsonSource("memory://lines/*.jsonl")))
    assert source[1].concepts == (Concept(("b",)),)
    assert source[1].image in ("memory://lines/b.jpg", "memory:///lines/b.jpg")


def _samples(count: int = 3) -> list[tuple[str, bytes]]:
    members = []
    for i in range(count):
        members.append((f"v1.0/{i:03}.jpg", make.encoded(make.photo(32, 24, i))))
        members.append((f"v1.0/{i:03}.json", json.dumps({"caption": f"photo {i}", "width": 32}).encode()))
    return members


def test_tar_samples(tmp_path: Path) -> None:
    first = make.write_tar(tmp_path / "0.tar", _samples(3))
    long = "long/" * 40
    other = [(f"{long}a.PNG", JPEG), ("b.txt", b"a text\n"), (f"{long}a.txt", b"up"), ("b.webp", JPEG)]
    make.write_tar(tmp_path / "1.tar", other)
    source = open_source(str(tmp_path / "*.tar"))
    assert isinstance(source, TarSource) and source.shards == [3, 2] and len(source) == 5
    assert source[1].key == f"{first}:v1.0/001"
    assert source[1].image == _samples()[2][1]
    assert source[1].concepts == (Concept(("photo 1",)),) and source[1].extra == {"width": 32}
    assert [source[i].concepts[0].texts for i in (3, 4)] == [("up",), ("a text",)]
    assert pickle.loads(pickle.dumps(source))[4] == source[4]


def test_tar_with_regions_and_image_outside(tmp_path: Path) -> None:
    regions = {"elems": [{"caption": "cup", "bb": [1, 1, 5, 5]}], "binary": "ignored"}
    outside = {"caption": "a", "image": "x.jpg"}
    fields = [
        (f"{stem}.json", json.dumps(value).encode()) for stem, value in (("a", regions), ("b", outside))
    ]
    source = TarSource(make.write_tar(tmp_path / "a.tar", [("a.jpg", JPEG), *fields]))
    assert source[0].image == JPEG and source[0].concepts == (Concept(("cup",), (1, 1, 6, 6)),)
    assert source[0].extra == {}
    assert source[1].image == str(tmp_path / "x.jpg")


def test_tar_index_is_written_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make.write_tar(tmp_path / "a.tar", _samples())
    built = build_tar_index(path)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.idx"]
    build = "xvlm.data.sources.tar_index.build_tar_index"
    monkeypatch.setattr(build, lambda path: pytest.fail("index not used"))
    loaded = load_tar_index(path)
    for field in ("first", "names", "offsets", "sizes"):
        assert np.array_equal(getattr(loaded, field), getattr(built, field))


def test_stale_index_is_rebuilt(tmp_path: Path) -> None:
    path = make.write_tar(tmp_path / "a.tar", _samples(3))
    assert len(TarSource(path)) == 3
    make.write_tar(tmp_path / "a.tar", _samples(5))
    source = TarSource(path)
    assert len(source) == 5 and source[4].concepts[0].texts == ("photo 4",)


def test_index_of_another_tar_of_the_same_size_is_rebuilt(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("b.jpg", JPEG), ("b.txt", b"b"), ("a.txt", b"a")]
    path = make.write_tar(tmp_path / "a.tar", members)
    TarSource(path)
    before = os.path.getsize(path)
    make.write_tar(tmp_path / "a.tar", members[2:] + members[:2])
    os.utime(path, ns=(1, 1))
    assert os.path.getsize(path) == before
    assert TarSource(path)[0].image == JPEG


def test_damaged_index_is_rebuilt(tmp_path: Path) -> None:
    path = make.write_tar(tmp_path / "a.tar", _samples())
    for damage in (b"", b"not an index", b"PK\x03\x04 half"):
        (tmp_path / "a.tar.idx").write_bytes(damage)
        assert len(TarSource(path)) == 3


def test_index_stays_in_memory_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make.write_tar(tmp_path / "a.tar", _samples())

    def refuse(source: str, target: str) -> None:
        raise PermissionError(13, "read-only", target)

    monkeypatch.setattr(os, "replace", refuse)
    assert TarSource(path)[2].concepts[0].texts == ("photo 2",)
    assert os.listdir(tmp_path) == ["a.tar"]


def test_remote_tar(tmp_path: Path) -> None:
    make.write_tar(tmp_path / "a.tar", _samples())
    with fsspec.open("memory://shards/a.tar", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    source = TarSource("memory://shards/*.tar")
    assert source[1].image == _samples()[2][1]
    build_tar_index(str(tmp_path / "a.tar"))
    fsspec.filesystem("memory").pipe("/shards/a.tar.idx", (tmp_path / "a.tar.idx").read_bytes())
    assert TarSource("memory://shards")[2].concepts[0].texts == ("photo 2",)


def test_hugging_face_rows() -> None:
    pil = make.photo(16, 12)
    rows = [
        {"image": pil, "text": "the cup", "bbox": [1, 2, 3, 4]},
        {"image": {"bytes": JPEG, "path": "a.jpg"}, "caption": ["a", "b"], "id": 5},
        {"image": {"bytes": None, "path": "/a.jpg"}, "caption": "c"},
        {"image": None, "caption": "c"},
    ]
    source = HuggingFaceSource(rows, name="rows")
    assert len(source) == 4 and source.shards == [4]
    assert np.array_equal(source[0].image, np.asarray(pil))
    assert source[0].concepts == (Concept(("the cup",), (1, 2, 4, 6)),)
    assert source[1].image == JPEG and source[1].extra == {"id": 5} and source[1].key == "rows[1]"
    assert source[2].image == "/a.jpg"
    assert "NoneType, expected" in make.bad_record(source.__getitem__, 3).detail
    renamed = [{"picture": make.encoded(pil, "PNG", orientation=6), "alt": "x"}]
    record = HuggingFaceSource(renamed, "picture", "alt")[0]
    assert record.concepts == (Concept(("x",)),)
    assert open_image(record.image, key="k").width == 12


def test_hugging_face_pil_images_are_turned_upright() -> None:
    for image in (make.photo(16, 12), make.photo(16, 12).convert("RGBA")):
        stored = Image.open(io.BytesIO(make.encoded(image, "PNG", orientation=6)))
        record = HuggingFaceSource([{"image": stored, "caption": "a"}])[0]
        assert record.image.shape == (16, 12, 3)


@pytest.mark.parametrize("decode", [False, True])
def test_a_real_hugging_face_dataset(decode: bool) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"image": [{"bytes": JPEG, "path": None}], "caption": [["a", "b"]]}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=decode))
    record = HuggingFaceSource(rows)[0]
    assert record.concepts == (Concept(("a", "b")),)
    image = open_image(record.image, key="k").image
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(JPEG))))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["elems", "caption", "bb", "image", "binary", "text", "bbox", "attributes"]),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_record_or_a_bad_record(fields: object) -> None:
    try:
        record = record_from_fields(fields, key="k")
    except BadRecord as error:
        assert error.key == "k" and error.detail
    else:
        assert all(isinstance(text, str) for concept in record.concepts for text in concept.texts)
