"""JSON files are read in every form and encoding; a record that is not strict JSON is bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import make
from xvlm.common.errors import InputError
from xvlm.common.short_repr import short_repr
from xvlm.data.files.json_parser import parse_value
from xvlm.data.images.decode import open_image
from xvlm.data.samples.concept_checks import usable_concepts
from xvlm.data.sources.huggingface import HuggingFaceSource
from xvlm.data.sources.json import JsonSource
from xvlm.data.sources.open import open_source
from xvlm.data.sources.record_fields import FieldNames, record_from_fields
from xvlm.data.sources.task_fields import labelled_texts_of, questions_of, statements_of
from xvlm.records import BadRecord, Concept, Record

ITEMS = [{"image": f"{n}.jpg", "caption": text} for n, text in enumerate(("ein Ährenfeld", "two", "三"))]
LINES = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS)
FORMS = {
    "list": json.dumps(ITEMS, ensure_ascii=False),
    "pretty list": "\n\n" + json.dumps(ITEMS, ensure_ascii=False, indent=1),
    "list with one record per line": "[\n" + LINES.strip().replace("\n", ",\n") + "\n]\n",
    "lines": LINES,
    "lines with CRLF": LINES.replace("\n", "\r\n"),
    "lines with blank ones": "\n \n" + LINES.replace("\n", "\n\n"),
    "pretty objects": "\n".join(json.dumps(item, ensure_ascii=False, indent=1) for item in ITEMS),
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


def captions(path: Path) -> list[str]:
    source = open_source(str(path))
    return [source[index].concepts[0].texts[0] for index in range(len(source))]


def reason_of(source: Any, index: int) -> str:
    error = make.bad_record(source.__getitem__, index)
    assert error.key
    return error.reason


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_every_encoding(form: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(FORMS[form].encode(encoding))
    assert captions(tmp_path / "a.json") == [item["caption"] for item in ITEMS]


def test_utf16_with_the_other_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xfe\xff" + LINES.encode("utf-16-be"))
    assert captions(tmp_path / "a.jsonl") == [item["caption"] for item in ITEMS]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "holds no record: it is empty"),
        (b"\n \n", "holds no record: it is empty"),
        (b"[]", "holds no record: it is empty"),
        (
            make.encoded(make.photo(30, 20)),
            "begins with b'.*'; expected a JSON list, one JSON object per line",
        ),
        (b"\x1f\x8b\x08" + bytes(40), "begins with"),
        (b"caption,image\na,b\n", r"begins with b'caption,image"),
        (b"\xff\xfe\x00\xd8a", "neither UTF-8 nor another Unicode text"),
        (json.dumps(["\u00e9"], ensure_ascii=False).encode("latin-1"), "neither UTF-8 nor"),
        (b'[{"caption": "a", "image": "b"},\n]', r"does not parse: .*line 2 column 1"),
        (b'[{"caption": "a", "image": "b"},\n', r"does not parse: .*line 2 column 1"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_other_files_are_refused_in_one_sentence(data: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=sentence) as caught:
        JsonSource(str(tmp_path / "a.json"))
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


BAD = {
    '{"image": "a", "caption": "a", "image_id": NaN}': "is not JSON",
    '{"image": "a", "caption": "a", "size": [Infinity]}': "is not JSON",
    '{"image": "a", "caption": "a", "caption": "b"}': "is not JSON",
    '{"image": "a", "caption": "half of one: \\ud83d"}': "text is not valid Unicode",
    '{"image": "\\ude00.jpg", "caption": "a"}': "text is not valid Unicode",
    '{"image": "a", "text": "\\ud83d", "bbox": [1, 1, 5, 5]}': "text is not valid Unicode",
    '{"image": "a", "question": "\\ud83d?", "answer": "a"}': "text is not valid Unicode",
    '{"image": "a", "question": "b", "answer": ["a", "\\ud83d"]}': "text is not valid Unicode",
    '{"images": ["a", "b\\ud83d"], "sentence": "a", "label": "True"}': "text is not valid Unicode",
    '{"image": "a", "caption": "a", "more": {"\\ud83d": 1}}': "text is not valid Unicode",
}


@pytest.mark.parametrize("line", BAD)
def test_invalid_json_or_unicode_invalidates_only_its_record(line: str, tmp_path: Path) -> None:
    good = json.dumps({"image": "a", "caption": "an emoji: \U0001f600"})
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    (tmp_path / "a.json").write_text(f"[{good},\n{line},\n{good}]")
    for name, what in (("a.jsonl", "line"), ("a.json", "record")):
        source = JsonSource(str(tmp_path / name))
        expected = f"{what} {BAD[line]}" if BAD[line].startswith("is") else BAD[line]
        assert reason_of(source, 1) == expected
        assert source[0].concepts == source[2].concepts == (Concept(("an emoji: \U0001f600",)),)


def test_unicode_is_checked_in_rows_of_other_sources() -> None:
    rows = [{"image": make.photo(8, 8), "caption": ["a", "b\ud83d"]}, {"image": "a", "caption": "\ud83d"}]
    source = HuggingFaceSource(rows)
    assert source[0].concepts == (Concept(("a",)),)
    assert [error.reason for error in source[0].bad] == ["text is not valid Unicode"]
    assert reason_of(source, 1) == "text is not valid Unicode"


def test_long_numbers_and_deep_nesting_are_bad_records() -> None:
    details = {"1" * 5000: "4300 digits", '{"a":' * 50_000: "nested too deeply", "{} {}": "Extra"}
    for text, detail in details.items():
        assert detail in make.bad_record(parse_value, text, "line", "k").detail


def test_one_bad_element_does_not_invalidate_others() -> None:
    elems = [
        {"caption": "no box", "bb": None},
        {"caption": None, "bb": [1, 1, 5, 5]},
        {"caption": ["good", None], "bb": [1, 1, 5, 5], "attributes": None},
        {"bb": [1, 1, 5, 5]},
        "none",
        {"caption": "a", "bb": [1, 1, 5, 5], "attributes": 5},
    ]
    record = record_from_fields({"image": "a", "caption": [None, "whole"], "elems": elems}, key="k")
    assert record.concepts == (Concept(("whole",)), Concept(("good",), (1, 1, 6, 6)))
    assert [error.detail.split(" ")[0] for error in record.bad] == [
        "caption[0]", "elems[0].bb", "elems[1].caption", "elems[2].caption[1]", "elems[3]", "elems[4]",
        "elems[5].attributes",
    ]  # fmt: skip
    assert {error.key for error in record.bad} == {"k"}
    usable, bad = usable_concepts(record, open_image(np.zeros((50, 50, 3), np.uint8), key="k"))
    assert len(usable) == 2 and len(bad) == 7


def test_each_of_several_boxes_is_a_concept() -> None:
    boxes = [[1, 1, 4, 4], [1, 1, 4, 4], [8, 8, 2, 2], None]
    record = record_from_fields({"image": "a", "text": "a cup", "bbox": boxes}, key="k")
    assert record.concepts == (Concept(("a cup",), (1, 1, 5, 5)), Concept(("a cup",), (8, 8, 10, 10)))
    assert [error.reason for error in record.bad] == ["value is null"]
    elems = [{"caption": "a cup", "bb": boxes[:3]}]
    assert len(record_from_fields({"image": "a", "elems": elems}, key="k").concepts) == 2


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answers": ["2", "two", "2"]}, ("2", "two", "2")),
        ({"answers": [{"answer": "yes", "answer_id": 1}, {"answer": "no"}]}, ("yes", "no")),
        ({"answers": "yes"}, ("yes",)),
        ({"multiple_choice_answer": "net"}, ("net",)),
        ({"answers": ["a", "b"], "multiple_choice_answer": "a"}, ("a", "b")),
        ({"answer": "a", "answers": ["b"]}, ("a",)),
        ({"answer_type": "number", "answer": None}, ()),
    ],
)
def test_answers_have_known_names(fields: dict[str, Any], answers: tuple[str, ...]) -> None:
    (question,) = questions_of(Record("k", "a", (), {"question": "how many?", **fields}))
    assert question.answers == answers


@pytest.mark.parametrize("name", ["ground_truth_answers", "Answer", "gt_answer"])
def test_answers_under_an_unknown_name_are_an_error(name: str) -> None:
    record = Record("k", "a", (), {"question": "how many?", name: ["2"]})
    with pytest.raises(
        BadRecord, match=rf"{name} looks like the answers, .* answer, answers, multiple_choice"
    ):
        questions_of(record)


def test_one_bad_question_or_statement_does_not_invalidate_others() -> None:
    good = {"question": "what?", "answer": "a"}
    questions = [good, None, {"question": None}, {"question": "half \ud83d"}, good]
    bad: list[BadRecord] = []
    assert len(questions_of(Record("k", "a", (), {"questions": questions}), bad)) == 2
    assert [error.reason for error in bad] == ["wrong type", "no question", "text is not valid Unicode"]
    with pytest.raises(BadRecord, match="no question"):
        questions_of(Record("k", "a", (), {"questions": [{"question": None}]}), [])
    record = Record("k", "a", (), {"statements": [{"sentence": "a", "label": "True"}, {"sentence": "b"}, 5]})
    bad = []
    assert statements_of(record, bad) == [("a", 1)]
    assert [error.reason for error in bad] == ["no truth", "wrong type"]
    labelled, bad = labelled_texts_of(record, ("true", "false"))
    assert [statement.text for statement in labelled] == ["a"] and len(bad) == 2


def test_captions_may_be_in_desc(tmp_path: Path) -> None:
    assert record_from_fields({"image": "a", "desc": "a cup"}, key="k").concepts == (Concept(("a cup",)),)
    both = record_from_fields({"image": "a", "desc": "more", "caption": "a cup"}, key="k")
    assert both.concepts == (Concept(("a cup",)),) and both.extra == {"desc": "more"}
    path = make.write_lines(tmp_path / "a.jsonl", [{"image": "a", "alt": "a cup"}])
    assert open_source(path, field_names=FieldNames(caption_key="alt"))[0].concepts == (Concept(("a cup",)),)
    with pytest.raises(InputError, match="the field names of scenes:train:5 cannot be changed"):
        open_source("scenes:train:5", caption_key="alt")


def test_word_pieces_are_joined() -> None:
    pieces = ("two back ##pack ##s", "ĠaĠcup")
    fields = {"image": "a", "elems": [{"caption": text, "bb": [1, 1, 5, 5]} for text in pieces]}
    record = record_from_fields(fields, key="k", field_names=FieldNames(tokenized=True))
    assert [concept.texts for concept in record.concepts] == [("two backpacks",), ("a cup",)]
    assert record_from_fields(fields, key="k").concepts[0].texts == ("two back ##pack ##s",)


def test_short_repr_of_every_value() -> None:
    doubling: Any = ()
    loop: list[Any] = []
    loop.append(loop)
    for _ in range(60):
        doubling = (doubling, doubling)
    for value in (doubling, loop, {1: doubling}, {2: [doubling] * 9}, 10**6000, "a" * 10**7, b"a" * 10**7):
        assert len(short_repr(value)) <= 80
    assert short_repr(None) == "None" and short_repr([1.5, True, "a"]) == "[1.5, True, 'a']"
    assert short_repr({"b": 1, "a": 2}) == "{'b': 1, 'a': 2}" and short_repr(object()) == "<object>"
