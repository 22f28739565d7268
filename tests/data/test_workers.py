"""Items come in order from any number of workers, which end with the stream; errors do not depend on them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests import memory
from xvlm.common.errors import InputError, WorkerDiedError
from xvlm.data.loading import workers
from xvlm.data.loading.workers import WorkerStream


class UnpicklableError(Exception):
    """An error that pickle cannot restore, because its arguments are not its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Items(Dataset[Any]):
    """Item i is i; faults happen at given indices."""

    def __init__(self, **faults: int) -> None:
        self.faults = {index: fault for fault, index in faults.items()}

    def __getitem__(self, index: int) -> Any:
        fault = self.faults.get(index)
        if fault == "unpicklable_error":
            raise UnpicklableError("this", "that")
        if fault == "wrong":
            raise InputError("the wrong\nitem")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exits":
            os._exit(5)
        if fault == "unpicklable":
            return lambda: 0
        if fault == "busy":
            time.sleep(100)
        if fault == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.tensor(index)


def children() -> set[Any]:
    return set(multiprocessing.active_children())


@pytest.fixture(autouse=True)
def no_child_remains() -> Any:
    before = children()
    yield
    assert children() == before


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("number", [0, 1, 3])
def test_items_are_in_order(number: int) -> None:
    with WorkerStream(Items(), range(3, 20, 2), number) as stream:
        assert [int(item) for item in stream] == list(range(3, 20, 2))
        assert list(stream) == []


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_is_the_same_with_workers(number: int) -> None:
    with pytest.raises(InputError) as caught, WorkerStream(Items(wrong=2), range(9), number) as stream:
        assert int(next(stream)) == 0
        list(stream)
    assert str(caught.value) == "the wrong\nitem"


def test_an_error_that_cannot_be_pickled_is_described() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(WorkerStream(Items(unpicklable_error=1), range(9), 1))
    assert str(caught.value) == "UnpicklableError: this and that"
    assert "In a data worker:" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("killed", "a data worker was ended by SIGKILL: the system does that when memory runs out"),
        ("exits", "a data worker ended by itself with exit code 5"),
        ("unpicklable", "a data worker ended by itself with exit code 1"),
    ],
)
def test_the_death_of_a_worker_is_explained(fault: str, message: str) -> None:
    with pytest.raises(WorkerDiedError, match=message):
        list(WorkerStream(Items(**{fault: 3}), range(20), 2))


def test_the_death_of_a_worker_is_explained_while_the_main_process_computes() -> None:
    """torch raises its error wherever the main thread is, not in the stream."""
    with (
        pytest.raises(WorkerDiedError, match="SIGKILL"),
        WorkerStream(Items(killed=3), range(20), 2) as stream,
    ):
        next(stream)
        time.sleep(10)


def test_workers_ignore_the_sigterm_of_another_process() -> None:
    with WorkerStream(Items(terminated=3), range(6), 1) as stream:
        assert [int(item) for item in stream] == list(range(6))


def test_a_busy_worker_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), WorkerStream(Items(busy=1), range(9), 2) as stream:
        next(stream)
        raise ZeroDivisionError
    assert time.monotonic() - start < 4


@pytest.mark.parametrize("is_closed", [False, True])
def test_workers_end_with_the_stream(is_closed: bool) -> None:
    before = children()
    stream = WorkerStream(Items(), range(100), 2)
    next(stream)
    assert len(children() - before) == 2
    if is_closed:
        stream.close()
        assert children() == before
    del stream


MEMORY = """
import torch
from tests.data.test_workers import Resident
from xvlm.common.memory import keep_freed_memory
from xvlm.data.loading.workers import WorkerStream

keep_freed_memory()
many = [torch.ones(2**20) for _ in range(256)]
last = torch.ones(1)
before = Resident()[0]
many.clear()
assert Resident()[0] > 0.9 * before, "nothing is kept, so that this shows nothing"
with WorkerStream(Resident(), [0], workers=1) as stream:
    print(before, next(stream))
"""


class Resident(Dataset[int]):
    """Each item is the memory of the process in MiB."""

    def __getitem__(self, index: int) -> int:
        return memory.mebibytes()[1]


@pytest.mark.skipif(not memory.STATM.exists(), reason="memory is read in /proc")
def test_a_worker_has_no_copy_of_memory_that_is_kept_and_not_used() -> None:
    """After an evaluation of 1,000 photos a worker of the next training had 12 GB."""
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, worker = map(int, found.stdout.split())
    assert worker < before - 900
