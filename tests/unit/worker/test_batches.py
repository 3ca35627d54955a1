"""Self-clocked batches: nobody waits for company, and whoever comes meanwhile travels together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import pytest

from gate.worker.batches import SelfClocked


class Road:
    """Where batches go; each waits until it is let through."""

    def __init__(self, *, max_bytes: int = 100) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.gate = asyncio.Event()
        self.on_its_way: dict[str, int] = defaultdict(int)
        self.tasks: set[asyncio.Task[None]] = set()
        self.batches: SelfClocked[str, str] = SelfClocked(
            self.send, size_bytes=len, max_bytes=max_bytes, spawn=self.spawn, name="test"
        )

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(coro, name=name)
        self.tasks.add(task)

    async def send(self, key: str, batch: list[str]) -> None:
        self.sent.append((key, batch))
        self.on_its_way[key] += 1
        assert 1 == self.on_its_way[key], "two batches of one key at once"
        await self.gate.wait()
        self.on_its_way[key] -= 1


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_lone_item_leaves_on_the_next_turn() -> None:
    road = Road()
    road.batches.add("a", "1")
    await asyncio.sleep(0)

    assert [("a", ["1"])] == road.sent


async def test_items_of_one_turn_travel_together_in_their_order() -> None:
    road = Road()
    for item in "12345":
        road.batches.add("a", item)
    await turns()

    assert [("a", ["1", "2", "3", "4", "5"])] == road.sent


async def test_while_one_batch_is_on_its_way_the_next_one_fills() -> None:
    road = Road()
    road.batches.add("a", "1")
    await turns()
    for item in "234":
        road.batches.add("a", item)
        await turns()
    assert [("a", ["1"])] == road.sent
    assert "<SelfClocked test: 3 queued for 1 keys>" == repr(road.batches)

    road.gate.set()
    await turns()

    assert [("a", ["1"]), ("a", ["2", "3", "4"])] == road.sent


async def test_keys_do_not_wait_for_each_other() -> None:
    road = Road()
    road.batches.add("stuck", "1")
    await turns()
    road.batches.add("other", "2")
    await turns()

    assert [("stuck", ["1"]), ("other", ["2"])] == road.sent


async def test_batch_keeps_to_its_size_and_one_item_of_any_size_goes_alone() -> None:
    road = Road(max_bytes=10)
    road.gate.set()
    for item in ("aaaa", "bbbb", "cccc", "d" * 50, "eeee", "ffffff"):
        road.batches.add("a", item)
    await turns(10)

    assert [["aaaa", "bbbb"], ["cccc"], ["d" * 50], ["eeee", "ffffff"]] == [batch for _, batch in road.sent]


async def test_key_that_ran_empty_is_forgotten_and_may_come_again() -> None:
    road = Road()
    road.gate.set()
    for item in "12":
        road.batches.add("a", item)
        await turns()

    assert [("a", ["1"]), ("a", ["2"])] == road.sent
    assert "<SelfClocked test: 0 queued for 0 keys>" == repr(road.batches)
    assert all(task.done() for task in road.tasks)


async def test_item_that_is_added_again_while_it_is_sent_is_sent_again() -> None:
    seen: list[list[str]] = []
    tasks = set()

    async def send(key: str, batch: list[str]) -> None:
        seen.append(batch)
        await asyncio.sleep(0)
        if len(seen) < 3:
            for item in batch:
                batches.add(key, item)

    batches: SelfClocked[str, str] = SelfClocked(
        send, size_bytes=len, max_bytes=10, spawn=lambda coro, name: tasks.add(asyncio.create_task(coro, name=name)), name="again"
    )
    batches.add("a", "x")
    await turns(10)

    assert [["x"], ["x"], ["x"]] == seen


async def test_failure_of_send_is_its_owners_not_swallowed() -> None:
    road = Road()

    async def fail(key: str, batch: list[str]) -> None:
        raise RuntimeError("a bug")

    batches: SelfClocked[str, str] = SelfClocked(fail, size_bytes=len, max_bytes=10, spawn=road.spawn, name="bug")
    batches.add("a", "x")

    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.gather(*road.tasks)
