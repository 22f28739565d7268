"""Words that were retired: names and documents use the terms of the field instead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

NAMES = {
    "everyone": "gathered features",
    "everyones": "gather_features",
    "ring": "rank layout",
    "frugal": "memory-efficient",
    "pays": "applies",
    "looking": "cross-attention layout",
    "looked": "context",
    "looks": "cross_attention",
    "kept": "selected, cached",
    "bins": "buckets",
    "slot": "index",
    "shut": "additive mask",
    "watched": "recorded",
    "writer": "incremental decoder",
    "written": "generation",
    "drawn": "sampled",
    "feed": "step dataset",
    "fed": "step data",
    "turns": "separate steps",
    "stem_plan": "feature-cache configuration",
    "built": "training setup",
    "easy_negatives": "uniform-negative ratio",
    "new_multiplier": "learning-rate multiplier of new parameters",
    "warmup_share": "warmup_ratio",
    "sittings": "sessions",
    "say": "log on the main rank",
    "said": "texts, references",
    "told": "description",
    "asked": "queries",
    "gallery": "report sections",
    "yardstick": "GEMM baseline",
}
"""Retired word, as a part of a name between underscores or capitals -> what is said instead."""

PROSE = (
    "frugal",
    "yardstick",
    "gallery",
    "sittings",
    "looked at",
    "looks at",
    "is told",
    "are told",
)
"""Retired words and phrases in docstrings, comments and documents."""

HISTORY = ("results.md", "decisions.md")
"""Documents that record what was, under the names of their time."""

ALLOWED = {"renames.py"}
"""The table of old names."""


def parts(name: str) -> str:
    """`EasyNegatives`, `easy_negatives` -> `_easy_negatives_`."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return f"_{snake.strip('_')}_"


def names_of(source: str) -> Iterator[tuple[str, int]]:
    """The names that a file defines, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def retired(source: str) -> list[str]:
    """Names in a source that hold a retired word."""
    return [
        f"{line}: {name}: say {instead}"
        for name, line in names_of(source)
        for word, instead in NAMES.items()
        if f"_{word}_" in parts(name)
    ]


def source_files() -> list[Path]:
    return [path for path in sorted((ROOT / "xvlm").rglob("*.py")) if path.name not in ALLOWED]


def test_no_name_holds_a_retired_word() -> None:
    found = {path: retired(path.read_text(encoding="utf-8")) for path in source_files()}
    assert {str(path.relative_to(ROOT)): lines for path, lines in found.items() if lines} == {}


def test_files_have_no_retired_names() -> None:
    assert [path for path in source_files() if retired(f"{path.stem} = 1")] == []


@pytest.mark.parametrize("phrase", PROSE)
def test_no_text_holds_a_retired_phrase(phrase: str) -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    documents = [path for path in documents if path.name not in HISTORY]
    search = re.compile(rf"\b{phrase}\b", re.IGNORECASE)
    found = [
        str(path.relative_to(ROOT))
        for path in [*source_files(), *documents]
        if search.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_an_evaluation_speaks_of_skipped_samples() -> None:
    files = [*(ROOT / "xvlm" / "evaluation").rglob("*.py"), *(ROOT / "xvlm" / "tasks").glob("*.py")]
    assert [path.name for path in files if "_bad_records" in path.read_text(encoding="utf-8")] == []


def test_retired_names_are_found() -> None:
    assert retired("class StepFeed: pass") and retired("def f(looked_at): pass") and retired("x.kept_K = 1")
    assert not retired("feedback = string = builtin = 1")
