"""Records written in any of the forms are read back completely and in order."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from xvlm.data.sources.open import open_source
from xvlm.data.sources.source import Source
from xvlm.data.sources.task_fields import questions_of, statements_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
LISTS = st.lists(TEXTS, min_size=1, max_size=8)


def captions(source: Source) -> list[str]:
    """Return the only text of every record."""
    return [source[index].concepts[0].texts[0] for index in range(len(source))]


@settings(max_examples=60)
@given(LISTS, st.sampled_from(["list", "pretty list", "lines", "lines with blanks"]), st.booleans())
def test_captions_of_json(texts: list[str], form: str, ascii_only: bool) -> None:
    records = [{"image": "a.jpg", "caption": text} for text in texts]
    lines = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    content = {
        "list": json.dumps(records, ensure_ascii=ascii_only),
        "pretty list": json.dumps(records, ensure_ascii=ascii_only, indent=2),
        "lines": "\n".join(lines),
        "lines with blanks": "\n \n".join(["", *lines, ""]),
    }[form]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(content.encode())
        assert captions(open_source(str(path))) == texts


@settings(max_examples=40)
@given(LISTS, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]), st.data())
def test_captions_of_tars(texts: list[str], form: int, data: st.DataObject) -> None:
    """The second reading uses the index that the first one wrote."""
    stems = [f"{data.draw(st.sampled_from(['', 'dir.v2/', 'ä/']))}{number}" for number in range(len(texts))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        with tarfile.open(path, "w", format=form) as tar:
            for stem, text in zip(stems, texts, strict=True):
                for suffix, content in (("jpg", b"x"), ("json", json.dumps({"caption": text}).encode())):
                    member = tarfile.TarInfo(f"{stem}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        assert captions(open_source(str(path))) == texts
        assert (Path(folder) / "a.tar.idx").exists()
        assert captions(open_source(str(path))) == texts


@settings(max_examples=40)
@given(st.lists(st.tuples(TEXTS.filter(str.strip), st.booleans()), min_size=1, max_size=5))
def test_questions_and_statements(rows: list[tuple[str, bool]]) -> None:
    questions = {"image": "a.jpg", "questions": [{"question": text, "answer": [text]} for text, _ in rows]}
    statements = [{"sentence": text, "label": truth} for text, truth in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps([questions, {"image": "a.jpg", "statements": statements}]))
        source = open_source(str(path))
        read = [(question.text, question.answers) for question in questions_of(source[0])]
        assert read == [(text, (text,)) for text, _ in rows]
        assert statements_of(source[1]) == [(text, int(truth)) for text, truth in rows]
