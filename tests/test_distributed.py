"""One process: collectives return their inputs.  (Two processes: tests/distributed.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xvlm import distributed
from xvlm.common.errors import DistributedError


def test_one_process_is_the_main_one() -> None:
    distributed.init()
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    with distributed.main_first():
        pass


def test_collectives_return_their_inputs() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert distributed.count_per_rank(3, x) == [3]
    assert distributed.all_gather(x, [3]) is x
    assert distributed.gather_objects({"a": 1}) == [{"a": 1}]
    mean = distributed.mean_over_ranks(x)
    torch.testing.assert_close(mean, x)
    assert not mean.requires_grad


@pytest.mark.parametrize(("count", "expected"), [(4, 2.0), (0, 8.0), (torch.tensor(2), 4.0)])
def test_means_divide_by_the_count_at_least_one(count: int | torch.Tensor, expected: float) -> None:
    total = torch.tensor(8.0, requires_grad=True)
    mean = distributed.global_mean(total, count)
    assert mean.item() == expected
    mean.backward()
    assert total.grad is not None


def test_counts_are_not_changed_in_place() -> None:
    count = torch.tensor(2.0)
    distributed.global_mean(torch.tensor(1.0), count)
    assert count.item() == 2.0


def test_the_gpu_of_the_rank_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL gathers objects over the current device: without this, all ranks would use the first one."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.init()
    assert devices == [torch.device("cuda", 3)]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "the environment's WORLD_SIZE is 'two'; torchrun sets it to a whole number"),
        ({"WORLD_SIZE": ""}, "the environment's WORLD_SIZE is ''"),
        ({"WORLD_SIZE": "2"}, "the 2 processes of the job cannot be joined: .*RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes of the job cannot be joined: .*MASTER_ADDR"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "none"},
            "the 2 processes of the job cannot be joined",
        ),
    ],
)
def test_processes_that_cannot_be_joined_are_an_error(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DistributedError, match=message) as caught:
        distributed.init()
    assert "\n" not in str(caught.value)


def test_gpus_without_nccl_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(DistributedError, match="has no NCCL"):
        distributed.init()


def test_a_rank_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("CUDA error: invalid device ordinal\nmany\nlines")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", refuse)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(DistributedError, match=r"^cuda:3 cannot be used: there are 2 GPUs, "):
        distributed.init()


MAIN_RANK_WORKS = """
import sys, time, datetime
import torch.distributed
from xvlm import distributed
from xvlm.common.errors import OutputError
torch.distributed.init_process_group(
    "gloo", sys.argv[1], rank=int(sys.argv[2]), world_size=2, timeout=datetime.timedelta(seconds=4)
)
done = []
distributed.run_on_main(lambda: done.append(time.sleep(6)))
time.sleep(6 * int(sys.argv[2]))
assert distributed.gather_objects(sys.argv[2]) == ["0", "1"]
def full():
    raise OutputError("the disk is full")
try:
    distributed.run_on_main(full)
except OutputError as error:
    print(len(done), error)
"""


def test_ranks_wait_for_the_main_rank_beyond_the_timeout_of_collectives(tmp_path: Path) -> None:
    """The main rank may fill a feature cache for hours, and another one evaluate for longer.

    Errors of the main rank are raised on all ranks.
    """
    commands = [[sys.executable, "-c", MAIN_RANK_WORKS, f"file://{tmp_path}/store", rank] for rank in "01"]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    assert [rank.communicate(timeout=120)[0] for rank in ranks] == [
        "1 the disk is full\n",
        "0 the disk is full\n",
    ]
