"""Items come in order from any number of workers, which end with the stream; errors are the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from xvlm.data import workers
from xvlm.data.workers import Stream
from xvlm.errors import InputError, WorkerDiedError


class Awkward(Exception):
    """Cannot be made again from its message, as pickle does."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Items(Dataset[Any]):
    """Item i is i, and where something is planted, that happens."""

    def __init__(self, **planted: int) -> None:
        self.planted = {place: what for what, place in planted.items()}

    def __getitem__(self, index: int) -> Any:
        what = self.planted.get(index)
        if what == "awkward":
            raise Awkward("this", "that")
        if what == "wrong":
            raise InputError("the wrong\nitem")
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "leaves":
            os._exit(5)
        if what == "unpicklable":
            return lambda: 0
        if what == "busy":
            time.sleep(100)
        if what == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.tensor(index)


def children() -> set[Any]:
    return set(multiprocessing.active_children())


@pytest.fixture(autouse=True)
def no_child_stays() -> Any:
    before = children()
    yield
    assert children() == before


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("number", [0, 1, 3])
def test_items_are_in_order(number: int) -> None:
    with Stream(Items(), range(3, 20, 2), number) as stream:
        assert [int(item) for item in stream] == list(range(3, 20, 2))
        assert list(stream) == []


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_is_the_same_with_workers(number: int) -> None:
    with pytest.raises(InputError) as caught, Stream(Items(wrong=2), range(9), number) as stream:
        assert int(next(stream)) == 0
        list(stream)
    assert str(caught.value) == "the wrong\nitem"


def test_an_error_that_cannot_be_sent_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        list(Stream(Items(awkward=1), range(9), 1))
    assert str(caught.value) == "Awkward: this and that"
    assert "In a data worker:" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ("killed", "a data worker was ended by SIGKILL: the system does that when memory runs out"),
        ("leaves", "a data worker ended by itself with exit code 5"),
        ("unpicklable", "a data worker ended by itself with exit code 1"),
    ],
)
def test_a_worker_that_dies_is_told(planted: str, told: str) -> None:
    with pytest.raises(WorkerDiedError, match=told):
        list(Stream(Items(**{planted: 3}), range(20), 2))


def test_a_death_while_the_main_process_computes_is_told() -> None:
    """torch raises its error wherever the main thread is, not where the stream is asked."""
    with (
        pytest.raises(WorkerDiedError, match="SIGKILL"),
        Stream(Items(killed=3), range(20), 2) as stream,
    ):
        next(stream)
        time.sleep(10)


def test_a_foreign_sigterm_is_left_to_the_main_process() -> None:
    with Stream(Items(terminated=3), range(6), 1) as stream:
        assert [int(item) for item in stream] == list(range(6))


def test_a_busy_worker_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "GRACE_SECONDS", 0.5)
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError), Stream(Items(busy=1), range(9), 2) as stream:
        next(stream)
        raise ZeroDivisionError
    assert time.monotonic() - begun < 4


def test_workers_of_a_stream_that_is_dropped_end() -> None:
    stream = Stream(Items(), range(100), 2)
    next(stream)
    del stream
