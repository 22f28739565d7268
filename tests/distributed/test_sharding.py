"""Shards (FSDP2) compute what copies (DDP) and one process do; any number of ranks reads a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.contracts import toys
from tests.distributed import sharded
from tests.distributed.ranks import on_ranks
from xvlm.common.errors import InputError
from xvlm.config import from_json
from xvlm.models.checkpoints.folder import load_model
from xvlm.tasks.self_critical import SelfCriticalRun
from xvlm.training import checkpoint

SAMPLES_WITHIN_A_RANK = ("pretrain", "retrieval", "weak_grounding", "self_critical", "text_assignment")
"""Tasks whose negatives, captions or pairs depend on the number of ranks."""


def assert_same(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.fixture(scope="module")
def on_two(on_four: tuple[Path, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two ranks computed."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(on_four[0] / "begun", folder / "begun")
    sharded.trained(sharded.grounding(), folder / "one_file")
    return [{"folder": folder, **rank} for rank in on_ranks(2, sharded.on_two_ranks, folder)]


@pytest.mark.parametrize("name", toys.RUNS)
def test_two_shards_are_two_copies_and_one_process(name: str, on_two: list[Any], tmp_path: Path) -> None:
    """Averaged weights after two steps are the same in float64; both ranks hold them whole afterwards."""
    for rank in on_two:
        assert_same(rank["tasks"][name]["shards"], rank["tasks"][name]["copies"])
    assert_same(on_two[1]["tasks"][name]["shards"], on_two[0]["tasks"][name]["shards"])
    if name not in SAMPLES_WITHIN_A_RANK:
        assert_same(on_two[0]["tasks"][name]["shards"], sharded.trained(sharded.run_of(name), tmp_path))


def test_shards_with_activation_checkpointing_are_copies(on_two: list[Any]) -> None:
    for rank in on_two:
        assert_same(rank["recomputed"], rank["tasks"]["pretrain"]["copies"])


@pytest.fixture(scope="module")
def on_four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A folder in which four ranks began a run, and what each rank computed."""
    folder = tmp_path_factory.mktemp("four")
    return folder, on_ranks(4, sharded.on_four_ranks, folder)


@pytest.mark.parametrize("mode", ["shards", "copies of shards"])
def test_four_shards_are_four_copies(mode: str, on_four: tuple[Path, list[Any]]) -> None:
    for rank in on_four[1]:
        assert_same(rank["pretrain"][mode], rank["pretrain"]["copies"])


def test_a_rank_holds_its_share_of_the_parameters(on_four: tuple[Path, list[Any]]) -> None:
    shares = [rank["share"] for rank in on_four[1]]
    assert max(shares) < 0.3  # FSDP2 splits rows, of which small matrices have few
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)  # scalars are on all ranks


def test_a_run_goes_on_with_another_number_of_shards_and_on_one_process(
    on_four: tuple[Path, list[Any]], on_two: list[Any], tmp_path: Path
) -> None:
    """From four shards to two and to none, and from none to two."""
    expected = sharded.trained(sharded.grounding(), tmp_path)
    assert_same(on_four[1][0]["weights"], expected)
    assert_same(sharded.resume(on_four[0], "begun"), expected)
    for rank in on_two:
        assert_same(rank["begun"], expected)
        assert_same(rank["one_file"], expected)


def test_a_checkpoint_of_shards_holds_no_pickles(on_four: tuple[Path, list[Any]]) -> None:
    newest = checkpoint.newest_intact(on_four[0] / "begun")
    assert newest is not None
    files = sorted(path.name for path in newest.iterdir())
    assert files == [f"shard-{n:05d}-model-00001-of-00001.safetensors" for n in range(1, 5)] + ["state.json"]
    with safe_open(newest / files[0], framework="pt") as file:
        assert {name.partition("/")[0] for name in list(file.keys())} == {"model", "optimizer", "average"}


def test_damage_to_a_shard_is_found(on_four: tuple[Path, list[Any]], tmp_path: Path) -> None:
    newest = checkpoint.newest_intact(on_four[0] / "begun")
    assert newest is not None
    copy = tmp_path / "out" / "checkpoints" / newest.name
    copy.mkdir(parents=True)
    for path in newest.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00002.*is not what was written"):
        checkpoint.newest_intact(tmp_path / "out")


def test_evaluation_and_the_best_model_are_those_of_copies(on_two: list[Any]) -> None:
    for rank in on_two:
        assert rank["metrics"]["shards"] == pytest.approx(rank["metrics"]["copies"], rel=1e-5)
        assert "grounding_acc50" in rank["metrics"]["shards"]
    for name in ("best", "model"):
        one, two = (
            load_model(on_two[0]["folder"] / mode / name).model.state_dict() for mode in ("copies", "shards")
        )
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_a_full_disk_is_one_sentence_on_all_ranks(on_two: list[Any]) -> None:
    for rank in on_two:
        assert re.search("step_00000002 cannot be written: .*No space left", rank["full disk"])
    assert not list((on_two[0]["folder"] / "full" / "checkpoints").iterdir())


def test_the_degree_must_divide_the_number_of_ranks(on_two: list[Any]) -> None:
    for rank in on_two:
        assert rank["wrong degree"] == "shard_degree is 3; it must divide the number of processes, 2"


def test_faithful_self_critical_training_is_not_sharded() -> None:
    run = {"task": "self_critical", "faithful": True, "shard_degree": 0}
    with pytest.raises(InputError, match="shard_degree is 0; it must be 1 in faithful mode"):
        from_json(SelfCriticalRun, json.loads(json.dumps(run)))
