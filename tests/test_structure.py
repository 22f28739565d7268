"""Rules that a reader relies on: which room may know which, file size, docstrings with shapes."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A file imports only from its own room and from those above it.  This is the one place that says so.
ROOMS = [
    "common", "records", "boxes", "batch", "config", "distributed", "registry",
    "scenes", "data", "models", "losses", "metrics", "reports", "inference", "predict", "prepare", "search",
    "annotate", "evaluation", "tasks", "training", "recipes", "experiments", "bench", "server", "export",
    "publish", "cli", "__main__",
]  # fmt: skip

MOST_TOP_LEVEL_FILES = 9
MEDIAN_LINES = 120
LONGEST = 400  # lines
LONG_BECAUSE = re.compile(r"^# Long because: \S", re.MULTILINE)
# (N, 4), (..., 4), (T,), (B, 3, height, width), (N, 1 + P)
_DIMENSION = r"(?:\.\.\.|…|\w+(?: ?[-+*·×/] ?\w+)*)"
TUPLE = re.compile(rf"\((?:\.\.\.|…|{_DIMENSION},(?: {_DIMENSION},?)*)\)")
LEGEND_SUFFIX = re.compile(r"\w_[A-Z][A-Z0-9]*\b")
NAMED = re.compile(r"\w*(?:dict|Mapping)\[str, (?:\w+\.)?Tensor\]")  # of weights, losses: their names tell
TENSOR = re.compile(r"\b(Tensor|ndarray|NDArray)\b")


def source_files() -> list[Path]:
    return sorted((ROOT / "xvlm").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """`xvlm.data.loading.order` -> `data`; the package itself is ``."""
    return module.split(".")[1] if "." in module else ""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


MODULES = {module_name(path): path for path in source_files()}


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """(module of xvlm, line) of every import, wherever in the file it stands."""
    own = module_name(path)
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                start = ".".join([*above, start] if start else above)
            # `from xvlm.data import order` names a module, `from xvlm.boxes import iou` something in one
            found = [
                f"{start}.{alias.name}" if f"{start}.{alias.name}" in MODULES else start
                for alias in node.names
            ]
        else:
            continue
        yield from ((name, node.lineno) for name in dict.fromkeys(found) if name.split(".")[0] == "xvlm")


def wrong_directions(path: Path) -> list[str]:
    own = room(module_name(path))
    if not own:
        return []  # xvlm/__init__ shows what users need, from any room
    if own not in ROOMS:
        return [f"{relative(path)}: room {own!r} has no place in ROOMS of tests/test_structure.py"]
    wrong = []
    for name, line in imported_modules(path):
        other = room(name)
        if other and (other not in ROOMS or ROOMS.index(other) > ROOMS.index(own)):
            wrong.append(f"{relative(path)}:{line}: {own} may not import {name}")
    return wrong


def test_imports_go_only_up_the_list_of_rooms() -> None:
    assert [line for path in source_files() for line in wrong_directions(path)] == []


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """One line for each import that closes a circle (depth-first, so each circle shows at least once)."""
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    return found


def test_no_import_cycles() -> None:
    graph = {
        name: {other for other, _ in imported_modules(path)} - {name, "xvlm"}
        for name, path in MODULES.items()
        if name != "xvlm"
    }
    assert cycles(graph) == []


def test_files_are_short_or_say_why_not() -> None:
    long = []
    for folder in ("xvlm", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) > LONGEST and not LONG_BECAUSE.search("\n".join(lines[:40])):
                long.append(
                    f"{relative(path)} has {len(lines)} lines and no `# Long because: ...` near its top"
                )
    assert long == []


def forbidden(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield f"{relative(path)}:{node.lineno}: star import"
        if isinstance(node, ast.Call):
            is_zip = isinstance(node.func, ast.Name) and node.func.id == "zip"  # says that lengths may differ
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "strict" and off and not is_zip:
                    yield f"{relative(path)}:{node.lineno}: strict=False (leftovers are errors)"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{relative(path)}:{node.lineno}: bare except"


def test_no_star_imports_nothing_lenient() -> None:
    assert [line for path in source_files() for line in forbidden(path)] == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")


def touches_tensors(node: Function) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
    notes = [argument.annotation for argument in arguments if argument] + [node.returns]
    return any(TENSOR.search(NAMED.sub("", ast.unparse(note))) for note in notes if note)


def states_a_shape(docstring: str) -> bool:
    """A tuple of sizes, a name with a legend suffix, or the word scalar."""
    sizes = (match.group() for match in TUPLE.finditer(docstring))
    return (
        any(re.search(r"[A-Z0-9]|\.\.\.|…|\b[a-z]\b|height|width|rows|columns", found) for found in sizes)
        or LEGEND_SUFFIX.search(docstring) is not None
        or re.search(r"\bscalars?\b", docstring) is not None
    )


def test_what_takes_or_gives_tensors_documents_their_shape() -> None:
    silent = [
        f"{relative(path)}:{node.lineno}: {name}"
        for path in source_files()
        for name, node in public_functions(tree(path).body)
        if touches_tensors(node) and not states_a_shape(ast.get_docstring(node) or "")
    ]
    assert silent == []


def test_few_files_at_the_top_level() -> None:
    assert len([path for path in source_files() if path.parent == ROOT / "xvlm"]) <= MOST_TOP_LEVEL_FILES


def test_the_median_file_is_short() -> None:
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in source_files())
    assert lengths[len(lengths) // 2] <= MEDIAN_LINES


def private_imports(path: Path) -> Iterator[str]:
    """Imports of a module whose name starts with `_` from another folder."""
    own = module_name(path).rpartition(".")[0]
    for name, line in imported_modules(path):
        parent, _, last = name.rpartition(".")
        if last.startswith("_") and not last.startswith("__") and parent != own:
            yield f"{relative(path)}:{line}: {name} is private to {parent}"


def test_no_private_module_is_imported_from_another_folder() -> None:
    assert [line for path in source_files() for line in private_imports(path)] == []


def test_readme_has_every_room() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (ROOT / "xvlm").iterdir() if (path / "__init__.py").exists()]
    assert [name for name in rooms if f"`xvlm/{name}`" not in readme] == []


def test_documents_name_no_file_that_is_gone() -> None:
    """README, CONTRIBUTING and the documents that describe the present; results.md keeps old commands."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    documents += [ROOT / "docs" / name for name in ("architecture.md", "decisions.md", "published.md")]
    for document in documents:
        named = re.findall(r"(?<![\w/.])(?:xvlm|tests)/[\w/]+\.py\b", document.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).exists()] == [], document.name


def test_no_source_cites_a_document_outside_the_repository() -> None:
    cited = re.compile(r"\bdesign(\.md|, section)|\bshared/|DEVELOPERS")
    found = [
        f"{relative(path)}: {match.group()}"
        for folder in ("xvlm", "tests", "docs", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md") and path.name != "test_structure.py"
        for match in cited.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_generated_documents_are_up_to_date() -> None:
    """`make docs` writes them."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "files.md").read_text(encoding="utf-8") == generate.files_page()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == generate.configuration_page()
    assert (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8") == generate.datasets_page()


# 2 dimensions of a shape, or more, after an underscore: `box_xyxy_N4`, `q_THK`, `mask_S11P`
SUFFIX = re.compile(r"_((?:[A-Z]|[0-9](?=[A-Z0-9]*[A-Z])|(?<=[A-Z])[0-9]|[hwksl](?=[A-Zhwksl0-9]*)){1,6})$")


def suffix_letters(path: Path) -> set[str]:
    """Letters of the shape suffixes of the names in a file, but those of constants and well-known names."""
    letters: set[str] = set()
    for node in ast.walk(tree(path)):
        name = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
        name = node.attr if isinstance(node, ast.Attribute) else name
        if name and not name.isupper() and (found := SUFFIX.search(name)) and any(map(str.isupper, found[1])):
            letters |= {letter for letter in found[1] if letter.isupper()}
    return letters


def test_every_shape_letter_is_in_the_legend() -> None:
    legend = ast.get_docstring(tree(ROOT / "xvlm" / "__init__.py")) or ""
    explained = set(re.findall(r"^    ([A-Z])  ", legend, re.MULTILINE))
    used = {letter: relative(path) for path in source_files() for letter in suffix_letters(path)}
    assert {letter: path for letter, path in used.items() if letter not in explained} == {}
    assert explained <= used.keys(), "the legend explains a letter that nothing uses"


# The rules themselves are tested: a check that finds nothing must be one that could.


@pytest.mark.parametrize(
    ("docstring", "stated"),
    [
        ("(..., 4) corners", True),
        ("(T,) ids", True),
        ("x: (B, 3, height, width) pixels", True),
        ("(N, 1 + P) mask", True),
        ("(...) area", True),
        ("(n,) values", True),
        ("(height, width) bool", True),
        ("Adds to `ids_T`.", True),
        ("The scalar loss.", True),
        ("Adds (red, wooden) words.", False),
        ("Moves it (to the device).", False),
        ("GIoU (Rezatofighi et al. 2019)", False),
        ("some_name only", False),
        ("", False),
    ],
)
def test_shapes_are_recognised(docstring: str, stated: bool) -> None:
    assert states_a_shape(docstring) is stated


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the room `data` that breaks every rule."""
    path = tmp_path / "xvlm" / "data" / "planted.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from xvlm.boxes import iou\n"
        "from xvlm.training.loop import run\n"
        "from ..tasks.vqa import VQA\n"
        "def f():\n"
        "    import xvlm.cli.main\n"
        "from math import *\n"
        "model.load_state_dict(state, strict=False)\n"
        "zip(a, b, strict=False)\n"
        "try:\n    pass\nexcept:\n    pass\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    return path


def test_wrong_imports_are_found(planted: Path) -> None:
    assert [line.split(": ")[1] for line in wrong_directions(planted)] == [
        "data may not import xvlm.training.loop",
        "data may not import xvlm.tasks.vqa",
        "data may not import xvlm.cli.main",
    ]


def test_forbidden_things_are_found(planted: Path) -> None:
    assert [line.split(":")[1] for line in forbidden(planted)] == ["6", "7", "11"]
