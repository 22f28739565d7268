"""A specification of a data source names files, a built-in scheme, a user's file, or an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from xvlm.common.errors import InputError, MissingFileError
from xvlm.data.sources.open import open_source
from xvlm.data.sources.task_fields import questions_of, statements_of

SOURCE = """
from xvlm.data.sources.source import IndexedSource
from xvlm.records import Concept, Record

class Words(IndexedSource):
    def __getitem__(self, index):
        _, index = self.locate(index)
        return Record(f"{self.name}/{index}", self.image, (Concept((self.name,)),))

def open_source(rest, options, image_root):
    words = Words(rest, [int(options["count"])])
    words.image = f"{image_root}/a.jpg"
    return words
"""


def write_package(folder: Path, name: str, entry_point: str, code: str = SOURCE) -> None:
    """Write an installed package with one entry point in the group `xvlm.sources`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xvlm.sources]\n{entry_point}\n")


def test_a_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_source.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    for spec in ("./my_source.py:dog?count=3", f"{tmp_path}/my_source.py:dog?count=3"):
        source = open_source(spec, "photos")
        assert len(source) == 3 and source[2].concepts[0].texts == ("dog",)
        assert source[2].image == "photos/a.jpg"


def test_wrong_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("open_source = 3\n")
    with pytest.raises(
        InputError, match=r"empty\.py must define a function open_source\(rest, options, image_"
    ):
        open_source(f"{tmp_path}/empty.py:dog")
    with pytest.raises(MissingFileError, match=r"missing\.py"):
        open_source(f"{tmp_path}/missing.py:dog")
    (tmp_path / "source.py").write_text(SOURCE)
    with pytest.raises(InputError, match=r"field names of .* cannot be changed"):
        open_source(f"{tmp_path}/source.py:dog?count=3", caption_key="alt")


def test_code_is_only_run_from_a_local_file_with_a_rest(tmp_path: Path) -> None:
    marker = tmp_path / "run"
    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(marker)!r})\n")
    for spec in (
        f"{tmp_path}/evil.py",
        f"file://{tmp_path}/evil.py:x",
        f"{tmp_path}/*.py",
        "memory://evil.py:x",
    ):
        with pytest.raises((InputError, MissingFileError)):
            open_source(spec)
    assert not marker.exists()


def test_a_scheme_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "xvlm_test_words", "words = xvlm_test_words:open_source")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = open_source("words:cat?count=2", "photos")
    assert len(source) == 2 and source[1].key == "cat/1" and source[1].image == "photos/a.jpg"
    (tmp_path / "a.parquet").touch()
    with pytest.raises(InputError, match=r"schemes \['absent', .*'scenes', 'words'\]"):
        open_source(str(tmp_path / "a.parquet"))


def test_built_in_schemes_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "run"
    code = f"import os; os.mkdir({str(marker)!r})\n"
    write_package(tmp_path, "xvlm_test_hijack", "scenes = xvlm_test_hijack:open_source", code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(open_source("scenes:train:5?image_size=64")) == 5
    assert not marker.exists(), "the package is not even imported"


def test_wrong_specifications_list_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match=r"\.parquet.*allowed are \.tar"):
        open_source(str(tmp_path / "a.parquet"))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        open_source(str(tmp_path / "*.json"))
    with pytest.raises(ValueError, match="scenes:SPLIT:SIZE"):
        open_source("scenes:train:many")


def test_scenes_by_name() -> None:
    source = open_source("scenes:train:5?seed=3&image_size=64")
    assert len(source) == 5
    assert source[0].image.shape == (64, 64, 3)


def test_kinds_of_questions_and_statements() -> None:
    source = open_source("scene-questions:train:5?image_size=64&about=count,presence")
    assert source.name == "scene-questions:train:5?about=count,presence"
    for index in range(5):
        for question in questions_of(source[index]):
            assert question.text.startswith(("how many ", "is there "))
    pairs = open_source("scene-pairs:train:5?about=total")
    statements = [text for index in range(5) for text, _ in statements_of(pairs[index])]
    assert sum("in the two pictures" in text for text in statements) > len(statements) / 2
    with pytest.raises(ValueError, match="scene-pairs cannot be about count; it may be about both, only"):
        open_source("scene-pairs:train:5?about=count")
    with pytest.raises(ValueError, match="scene-cases cannot be about count; it may be about nothing"):
        open_source("scene-cases:train:5?about=count")
