"""Every Python snippet of the README and the docs runs, in order, one namespace a file.

A block fenced as ```python no-run is only compiled: it needs what a test cannot have (a large checkpoint).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import photo, tiny_loaded
from xvlm.model.folder import save_model

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```python(?P<flags>[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def snippets(text: str) -> list[tuple[int, str, bool]]:
    """(line before the code, code, whether to run it) of each fenced block."""
    return [
        (text.count("\n", 0, match.start("code")), match["code"], "no-run" not in match["flags"].split())
        for match in FENCE.finditer(text)
    ]


def run(text: str, name: str) -> int:
    """Compile every snippet and run those that are to run; the number of snippets."""
    namespace: dict[str, Any] = {"__name__": "__snippet__"}
    found = snippets(text)
    for line, code, to_run in found:
        # leading newlines: a traceback then shows the line of the document
        compiled = compile("\n" * line + code, name, "exec")
        if to_run:
            exec(compiled, namespace)
    return len(found)


def documents() -> list[Path]:
    return [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_snippets_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What the snippets speak of: a trained model (tiny here, of the same form) and a photo.
    save_model(tiny_loaded(), tmp_path / "runs" / "demo" / "model")
    photo(64, 48, seed=1).save(tmp_path / "street.jpg")
    run(path.read_text(encoding="utf-8"), str(path))


EXAMPLE = """# Title
```python
x = 1
```
text
```python no-run
raise RuntimeError
```
```bash
not python
```
```python
assert x == 1
y = x / 0
```
"""


def test_snippets_share_a_namespace_and_errors_name_the_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(EXAMPLE, "example.md")
    assert caught.traceback[-1].lineno == 13  # counted from 0


def test_no_run_is_compiled_all_the_same() -> None:
    assert run("```python no-run\nraise RuntimeError\n```\n", "example.md") == 1
    with pytest.raises(SyntaxError):
        run("```python no-run\nthis is no python\n```\n", "example.md")
