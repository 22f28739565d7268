"""JSON files are read in any Unicode encoding, with precise errors, and written atomically."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xvlm.common.errors import InputError
from xvlm.common.json_file import MAX_BYTES, json_text, parse_json, read_json, write_json
from xvlm.config import OptimConfig


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"größe": [1, 2.5, null]}'.encode(encoding))
    assert read_json(path) == {"größe": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.json is empty; it must hold JSON"),
        (b" \n\t ", "a.json is empty"),
        (b'{\n  "a": 1,\n  "b" 2\n}', "a.json is not JSON: line 3, column 7: Expecting ':' delimiter"),
        (b'{"a": 1} {"b": 2}', "line 1, column 10: Extra data"),
        (b'{"a": "\xff"}', "a.json is not UTF-8 text: byte 7 cannot be decoded"),
        (b'{"a": "NaN",\n "b": NaN}', "line 2, column 7: NaN is not a JSON number"),
        (b'{"a": ["\\"Infinity", -Infinity]}', "line 1, column 22: -Infinity is not a JSON number"),
        (b"[" * 200_000, "a.json is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a.json cannot be read: Exceeds the limit"),
        (b"[1]", r"a.json holds \[1\]; it must hold an object"),
        (b"null", "a.json holds None; it must hold an object"),
    ],
)
def test_errors_name_file_line_and_column(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json")) and "\n" not in str(caught.value)


def test_a_value_of_another_type_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"a\.json holds an object; it must hold a list"):
        read_json(tmp_path / "a.json", list)


def test_nan_may_be_allowed() -> None:
    assert parse_json(b"[NaN, Infinity]", "a", allow_nan=True)[1] == float("inf")


def test_folders_devices_and_large_files_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder or a device"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="/dev/zero is a folder or a device"):
        read_json("/dev/zero")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match=f"has {MAX_BYTES + 1} bytes; a JSON file may have {MAX_BYTES}"):
        read_json(tmp_path / "large.json")
    with pytest.raises(FileNotFoundError, match="gone"):
        read_json(tmp_path / "gone.json")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, -2.5e300, True, None, '😀 \u202e \\ "NaN"'], "": {}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value


def test_json_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write_json(path, OptimConfig(steps=3))
    assert json.loads(path.read_text())["steps"] == 3
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["steps"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    """Only Python reads NaN and Infinity."""
    value = {"a": float("nan"), "b": [1.5, float("-inf"), (float("inf"),)], "c": None, "d": "NaN"}
    write_json(tmp_path / "a.json", value)
    for text in (json_text(value), (tmp_path / "a.json").read_text()):
        plain = json.loads(text, parse_constant=pytest.fail)
        assert plain == {"a": None, "b": [1.5, None, [None]], "c": None, "d": "NaN"}
