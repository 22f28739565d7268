"""A run can be written, read back and repeated; wrong names are answered with the nearest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import with_sources
from xvlm.errors import InputError
from xvlm.lookup import find, names
from xvlm.ranges import validate
from xvlm.run import OptimConfig, Run, from_json, in_steps, json_text, to_json, write_json
from xvlm.tasks._build import SourceConfig
from xvlm.tasks.pretrain import DataConfig, PretrainRun
from xvlm.train.run_folder import read_run


@dataclass(frozen=True)
class Leaf:
    size: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    maybe: float | None = None
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Tree:
    leaf: Leaf = field(default_factory=Leaf)
    leaves: tuple[Leaf, ...] = ()


def test_a_tree_round_trips_through_json() -> None:
    tree = Tree(Leaf((3, 4), ("a", "b"), 0.5, {"depths": [1, 2], "flag": True}), (Leaf(), Leaf(maybe=1.0)))
    data = json.loads(json.dumps(to_json(tree)))
    again = from_json(Tree, data)
    assert again == tree
    assert isinstance(again.leaves, tuple) and isinstance(again.leaf.size, tuple)


def test_a_run_round_trips() -> None:
    run = PretrainRun(
        recipe="x",
        data=DataConfig(pairs=(SourceConfig("a.json", weight=2.0), SourceConfig("b"))),
        faithful=True,
    )
    assert from_json(PretrainRun, json.loads(json.dumps(to_json(run)))) == run


def test_absent_fields_have_their_defaults() -> None:
    assert from_json(Run, {"optim": {"lr": 1.0}}) == Run(optim=OptimConfig(lr=1.0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"optim": {"learning": 1}}, r"optim\.learning is not a field of OptimConfig; it has steps, epochs"),
        (
            {"optim": {"warm_up": 1}},
            r"optim\.warm_up is not a field of OptimConfig; did you mean optim\.warmup\?",
        ),
        ({"sead": 1}, r"^sead is not a field of Run; did you mean seed\?"),
    ],
)
def test_unknown_names(data: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_json(Run, data)


def test_a_list_of_the_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^leaf\.size is \[1, 2, 3\]; it must have 2 values"):
        from_json(Tree, {"leaf": {"size": [1, 2, 3]}})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"precision": "fp16"}, "precision is 'fp16'; it may be 'fp32' or 'bf16'"),
        ({"optim": {"steps": "many"}}, r"optim\.steps is 'many'; it must be a whole number"),
        ({"optim": {"steps": 1.5}}, r"optim\.steps is 1\.5; it must be a whole number"),
        ({"optim": {"lr": True}}, r"optim\.lr is True; it must be a number"),
        ({"optim": {"betas": 0.9}}, r"optim\.betas is 0\.9; it must be a list"),
        ({"optim": {"betas": [0.9, "x"]}}, r"optim\.betas\.1 is 'x'; it must be a number"),
        ({"optim": 3}, r"optim is 3; it must be an object"),
        ({"faithful": 1}, "faithful is 1; it must be true or false"),
        ({"recipe": None}, "recipe is None; it must be text"),
    ],
)
def test_values_of_another_type(data: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_json(Run, data)


def test_a_whole_number_is_a_number() -> None:
    assert isinstance(from_json(Run, {"max_bad": 1}).max_bad, float)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write_json(path, Run(seed=3))
    assert json.loads(path.read_text())["seed"] == 3
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["seed"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_passes_become_steps() -> None:
    run = Run(optim=OptimConfig(epochs=2.5, warmup_share=0.1, steps=7, warmup=3))
    found = in_steps(run, 40.4)
    assert (found.optim.steps, found.optim.warmup, found.eval_every) == (101, 10, 40)
    assert in_steps(replace(run, eval_every=9), 40.4).eval_every == 9
    plain = Run(optim=OptimConfig(steps=7, warmup=3))
    assert in_steps(plain, 40.4) == plain
    assert in_steps(Run(optim=OptimConfig(epochs=1)), 0.2).optim.steps == 1


TASKS = names("tasks")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "fp32", "pretrain", "box", "1", "nan", "\ud83d", "\x1b[31m", 0, -1, 1e308])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


def places_in(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*path, key))


def as_json(name: str) -> Any:
    return json.loads(json.dumps(to_json(with_sources(find("tasks", name).RUN()))))


RUNS_AS_JSON = {name: as_json(name) for name in TASKS}
PLACES = [(name, place) for name, data in RUNS_AS_JSON.items() for place in places_in(data)]


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(data, dict):
        return {**data, first: put(data.get(first), tuple(rest), value)}
    return [put(inner, tuple(rest), value) if at == first else inner for at, inner in enumerate(data)]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_any_json_in_a_run_is_taken_or_refused(where: tuple[str, tuple[Any, ...]], value: Any) -> None:
    name, place = where
    kind = find("tasks", name).RUN
    try:
        run = from_json(kind, put(RUNS_AS_JSON[name], place, value))
    except InputError as error:
        assert len(str(error)) < 1000
        return
    validate(run)
    assert type(run) is kind
    again = json.loads(json.dumps(to_json(run)))
    assert from_json(kind, again) == run or value != value


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TASKS),
    st.dictionaries(st.sampled_from(["model", "optim", "data", "seed", "x\x1b"]), JSON),
)
def test_any_object_is_a_run_or_refused(name: str, data: dict[str, Any]) -> None:
    try:
        from_json(find("tasks", name).RUN, data)
    except InputError as error:
        assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"precision": ["fp32"]}, "precision is ['fp32']; it may be 'fp32' or 'bf16'"),
        ({"model": {"parts": [["box"]]}}, "model.parts.0 is ['box']; it may be 'contrastive' or"),
        ({"model": {"parts": "box"}}, "model.parts is 'box'; it must be a list"),
        ({"model": {"vision": {"options": [1]}}}, "model.vision.options is [1]; it must be an object"),
        ({"model": {"vision": {"options": 3}}}, "model.vision.options is 3; it must be an object"),
        ({"data": {"pairs": [{}]}}, "data.pairs.0.path is missing"),
        ({"data": {"pairs": [{"path": ["a"]}]}}, "data.pairs.0.path is ['a']; it must be text"),
        ({"data": {"pairs": {"path": "a"}}}, "data.pairs is {'path': 'a'}; it must be a list"),
        ({"data": [1]}, "data is [1]; it must be an object"),
        ({"optim": {"lr": 10**400}}, "optim.lr is 1000000000000"),
        ({"optim": {"betas": [0.9, [0.98]]}}, "optim.betas.1 is [0.98]; it must be a number"),
        ([], "PretrainRun is []; it must be an object"),
        (None, "PretrainRun is None; it must be an object"),
    ],
)
def test_wrong_json_is_named(data: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(PretrainRun, data)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("data", [[], 3, None, {"task": 3}, {"task": ["pretrain"]}])
def test_a_file_that_holds_no_run_is_named(data: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", data)
    with pytest.raises(InputError, match=r"run\.json holds "):
        read_run(tmp_path / "run.json")


def test_a_wrong_field_is_named_with_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"optim": {"steps": 0}})
    with pytest.raises(InputError, match=r"run\.json: optim\.steps is 0; it must be at least 1"):
        read_run(tmp_path / "run.json")


def test_json_has_no_number_that_is_none(tmp_path: Path) -> None:
    """NaN and Infinity are Python's own; every other reader refuses them."""
    value = {"a": float("nan"), "b": [1.5, float("-inf"), (float("inf"),)], "c": None, "d": "NaN"}
    plain = {"a": None, "b": [1.5, None, [None]], "c": None, "d": "NaN"}
    write_json(tmp_path / "some.json", value)

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    for text in (json_text(value), (tmp_path / "some.json").read_text()):
        assert json.loads(text, parse_constant=refused) == plain
