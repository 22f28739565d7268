"""The queue before the model: batches, limits, deadlines, failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from xvlm.server.errors import ApiError
from xvlm.server.model_thread import ModelThread


class Slow:
    """Handlers that wait until they are let go, and note their batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []

    def double(self, items: Sequence[int]) -> list[object]:
        self.go.wait(10)
        self.batches.append(list(items))
        return [ValueError(item) if item < 0 else 2 * item for item in items]

    def other(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        return list(items)

    def fail(self, items: Sequence[int]) -> list[int]:
        raise RuntimeError("broken")

    def thread(self, max_queue: int = 100, max_batch: int = 4) -> ModelThread:
        handlers = {"double": self.double, "other": self.other, "fail": self.fail}
        thread = ModelThread(handlers, max_queue, max_batch)
        thread.start()
        return thread


def test_waiting_items_of_a_kind_are_answered_together_and_in_order() -> None:
    slow = Slow()
    thread = slow.thread()

    async def run() -> list[object]:
        first = asyncio.create_task(thread.ask("double", 0, 10))
        await asyncio.sleep(0.05)
        kinds = ["double", "other", "double", "double", "double", "double"]
        rest = [asyncio.create_task(thread.ask(kind, number, 10)) for number, kind in enumerate(kinds, 1)]
        await asyncio.sleep(0.05)
        slow.go.set()
        return [value for value, _ in await asyncio.gather(first, *rest)]

    assert asyncio.run(run()) == [0, 2, 2, 6, 8, 10, 12]
    assert slow.batches == [[0], [1, 3, 4, 5], [2], [6]]
    thread.stop()


def test_a_failure_is_that_of_its_own_item() -> None:
    slow = Slow()
    slow.go.set()
    thread = slow.thread()

    async def run() -> list[object]:
        items = [thread.ask("double", item, 10) for item in (1, -5, 2)]
        found = await asyncio.gather(*items, return_exceptions=True)
        found.append(await asyncio.gather(thread.ask("fail", 1, 10), return_exceptions=True))
        found.append(await thread.ask("double", 4, 10))
        return found

    one, failed, two, broken, after = asyncio.run(run())
    assert (one[0], two[0], after[0]) == (2, 4, 8)  # type: ignore[index]
    assert isinstance(failed, ValueError) and isinstance(broken[0], RuntimeError)  # type: ignore[index]
    thread.stop()


def test_a_full_queue_refuses_at_once() -> None:
    slow = Slow()
    thread = slow.thread(max_queue=2)

    async def run() -> None:
        first = asyncio.create_task(thread.ask("double", 0, 10))
        await asyncio.sleep(0.05)
        rest = [asyncio.create_task(thread.ask("double", item, 10)) for item in (1, 2)]
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as refused:
            await thread.ask("double", 3, 10)
        assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "1"}
        slow.go.set()
        await asyncio.gather(first, *rest)

    asyncio.run(run())
    thread.stop()


def test_what_nobody_waits_for_is_not_computed() -> None:
    slow = Slow()
    thread = slow.thread()

    async def run() -> None:
        first = asyncio.create_task(thread.ask("double", 0, 10))
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as late:
            await thread.ask("double", 1, 0.05)
        assert late.value.status == 504
        slow.go.set()
        assert (await thread.ask("double", 2, 10))[0] == 4
        await first

    asyncio.run(run())
    assert [1] not in slow.batches and all(1 not in batch for batch in slow.batches)
    thread.stop()


def test_stopping_answers_what_waits_and_nothing_after() -> None:
    slow = Slow()
    thread = slow.thread()

    async def run() -> None:
        waiting = [asyncio.create_task(thread.ask("double", item, 10)) for item in (1, 2)]
        await asyncio.sleep(0.05)
        stop = asyncio.get_running_loop().run_in_executor(None, thread.stop)
        await asyncio.sleep(0.05)
        with pytest.raises(ApiError) as refused:
            await thread.ask("double", 3, 10)
        assert refused.value.status == 503
        slow.go.set()
        assert [value for value, _ in await asyncio.gather(*waiting)] == [2, 4]
        await stop

    asyncio.run(run())
    assert not thread.is_alive
