"""Runs are written, read back and repeated; for an unknown field the message names the nearest."""

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
from xvlm.common.errors import InputError
from xvlm.common.json_file import to_json, write_json
from xvlm.common.ranges import validate
from xvlm.config import OptimConfig, Run, from_json, resolve_steps
from xvlm.registry import names
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import find_task
from xvlm.tasks.pretrain import DataConfig, PretrainRun
from xvlm.training.run_folder import read_run


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
    ("data", "message"),
    [
        ({"optim": {"learning": 1}}, r"optim\.learning is not a field of OptimConfig; it has steps, epochs"),
        (
            {"optim": {"warm_up": 1}},
            r"optim\.warm_up is not a field of OptimConfig; did you mean optim\.warmup_steps\?",
        ),
        ({"sead": 1}, r"^sead is not a field of Run; did you mean seed\?"),
    ],
)
def test_unknown_names(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Run, data)


def test_a_list_of_the_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^leaf\.size is \[1, 2, 3\]; it must have 2 values"):
        from_json(Tree, {"leaf": {"size": [1, 2, 3]}})


@pytest.mark.parametrize(
    ("data", "message"),
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
def test_values_of_another_type(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Run, data)


def test_a_whole_number_is_a_number() -> None:
    assert isinstance(from_json(Run, {"max_bad": 1}).max_bad, float)


def test_epochs_become_steps() -> None:
    run = Run(optim=OptimConfig(epochs=2.5, warmup_ratio=0.1))
    resolved = resolve_steps(run, 40.4)
    assert (resolved.optim.steps, resolved.optim.warmup_steps, resolved.eval_every) == (101, 10, 40)
    assert resolve_steps(resolved, 40.4) == resolved
    assert resolve_steps(replace(run, eval_every=9), 40.4).eval_every == 9
    plain = Run(optim=OptimConfig(steps=7, warmup_steps=3))
    assert resolve_steps(plain, 40.4) == plain
    assert resolve_steps(Run(optim=OptimConfig(epochs=1)), 0.2).optim.steps == 1


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            OptimConfig(epochs=2.5, steps=7),
            "optim.steps is 7, but optim.epochs is 2.5, which is 101 steps; set",
        ),
        (
            OptimConfig(epochs=2.5, warmup_ratio=0.1, warmup_steps=3),
            "optim.warmup_steps is 3, but optim.warmup_ratio is 0.1, which is 10 steps; set only one",
        ),
        (
            OptimConfig(steps=50, warmup_ratio=0.1, warmup_steps=3),
            "optim.warmup_steps is 3, but optim.warmup_ratio is 0.1, which is 5 steps; set only one",
        ),
    ],
)
def test_a_length_may_be_set_in_one_unit_only(optim: OptimConfig, message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_steps(Run(optim=optim), 40.4)
    assert str(caught.value).startswith(message)


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
    return json.loads(json.dumps(to_json(with_sources(find_task(name).run()))))


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
def test_any_json_in_a_run_is_read_or_refused(where: tuple[str, tuple[Any, ...]], value: Any) -> None:
    name, place = where
    kind = find_task(name).run
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
        from_json(find_task(name).run, data)
    except InputError as error:
        assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"precision": ["fp32"]}, "precision is ['fp32']; it may be 'fp32' or 'bf16'"),
        ({"model": {"heads": [["box"]]}}, "model.heads.0 is ['box']; it must be text"),
        ({"model": {"heads": "box"}}, "model.heads is 'box'; it must be a list"),
        ({"model": {"vision": {"options": [1]}}}, "model.vision.options is [1]; it must be an object"),
        ({"model": {"vision": {"options": 3}}}, "model.vision.options is 3; it must be an object"),
        ({"data": {"pairs": [{}]}}, "data.pairs.0.path is missing"),
        ({"data": {"pairs": [{"path": ["a"]}]}}, "data.pairs.0.path is ['a']; it must be text"),
        ({"data": {"pairs": {"path": "a"}}}, "data.pairs is {'path': 'a'}; it must be a list"),
        ({"data": [1]}, "data is [1]; it must be an object"),
        ({"optim": {"lr": 10**400}}, "optim.lr is <a whole number of 1329 bits>; it must be a number"),
        ({"optim": {"betas": [0.9, [0.98]]}}, "optim.betas.1 is [0.98]; it must be a number"),
        ([], "PretrainRun is []; it must be an object"),
        (None, "PretrainRun is None; it must be an object"),
    ],
)
def test_wrong_json_is_named(data: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(PretrainRun, data)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("data", [[], 3, None, {"task": 3}, {"task": ["pretrain"]}])
def test_a_file_that_holds_no_run_is_named(data: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", data)
    with pytest.raises(InputError, match=r"run\.json holds "):
        read_run(tmp_path / "run.json")


def test_a_wrong_field_is_named_with_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"optim": {"steps": 0}})
    with pytest.raises(InputError, match=r"run\.json: optim\.steps is 0; it must be at least 1"):
        read_run(tmp_path / "run.json")
