"""Modules are found by file name; an unknown name is answered with what exists."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import xvlm
from xvlm.registry import UnknownNameError, find, names


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A room of its own beside the real ones, so that the test does not depend on what they hold today."""
    folder = tmp_path / "toyroom"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "grounding": "value = 1",
        "base_4m": "value = 2",
        "published/__init__": "",
        "published/vqa_480": "value = 3",
        "common/__init__": "",
        "common/helpers": "",
        "_shared": "",
        "broken": "import no_such_library_at_all",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
    (folder / "notes.txt").write_text("not a module")
    monkeypatch.setattr(xvlm, "__path__", [*xvlm.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    return "toyroom"


@pytest.fixture(autouse=True)
def forget_toy_modules() -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("xvlm.toyroom")]:
        del sys.modules[name]


def test_names_are_the_public_files(room: str) -> None:
    assert names(room) == ["base_4m", "broken", "grounding", "published/vqa_480"]


def test_find_imports_the_file(room: str) -> None:
    assert find(room, "grounding").value == 1
    assert find(room, "grounding").__name__ == "xvlm.toyroom.grounding"


def test_a_dash_is_read_as_an_underscore(room: str) -> None:
    assert find(room, "base-4m").value == 2


def test_a_folder_in_a_room_is_part_of_the_name(room: str) -> None:
    assert find(room, "published/vqa-480").value == 3


def test_unknown_name_lists_what_exists_and_suggests(room: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find(room, "groundin")
    message = str(caught.value)
    assert message == (
        "no 'groundin' in toyroom: there is base_4m, broken, grounding, published/vqa_480; "
        "did you mean 'grounding'?"
    )


def test_no_suggestion_where_nothing_is_near(room: str) -> None:
    with pytest.raises(LookupError, match=r"there is base_4m, broken, grounding, published/vqa_480$"):
        find(room, "zzz")


@pytest.mark.parametrize("name", ["_shared", "__init__", "", "notes", "../lookup"])
def test_private_and_absent_names_are_unknown(room: str, name: str) -> None:
    with pytest.raises(UnknownNameError):
        find(room, name)


def test_an_error_inside_the_module_is_not_hidden(room: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        find(room, "broken")


@pytest.mark.parametrize("absent", ["nowhere", "data.nowhere", "lookup.nowhere"])
def test_unknown_room(absent: str) -> None:
    with pytest.raises(UnknownNameError, match=f"xvlm has no room '{absent}'"):
        find(absent, "anything")


def test_a_room_that_cannot_be_imported_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toyroom_broken").mkdir()
    (tmp_path / "toyroom_broken" / "__init__.py").write_text("import no_such_library_at_all")
    monkeypatch.setattr(xvlm, "__path__", [*xvlm.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        names("toyroom_broken")
