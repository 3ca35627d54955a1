"""One client at a time: a broken one is closed and replaced, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gate.kafka import supervision
from gate.kafka.supervision import Supervised

Eventually = Callable[..., Awaitable[Any]]


class Client:
    def __init__(self, house: House) -> None:
        self.house = house
        house.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0)
        if self.house.failing > 0:
            self.house.failing -= 1
            raise ConnectionError


class House:
    """Makes clients, and counts what becomes of them."""

    def __init__(self) -> None:
        self.made: list[Client] = []
        self.closed: list[Client] = []
        self.failing = 0  # so many starts to come
        self.restarts = 0
        self.supervised: Supervised[Client] = Supervised(
            lambda: Client(self), close=self.close, on_restart=self.restarted, name="test"
        )

    async def close(self, client: Client) -> None:
        await asyncio.sleep(0)
        self.closed.append(client)

    def restarted(self) -> None:
        self.restarts += 1


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(supervision, "BACKOFF_S", (0.001,))
    house = House()
    yield house
    await house.supervised.stop()
    assert set(house.made) == set(house.closed)


async def test_what_the_first_client_raises_comes_out_and_it_is_closed(house: House) -> None:
    house.failing = 1

    with pytest.raises(ConnectionError):
        await house.supervised.start()


async def test_blamed_client_is_closed_and_replaced_once_however_many_blame_it(house: House) -> None:
    await house.supervised.start()
    broken = await house.supervised.get()
    assert broken is not None

    assert [True, False, False] == [house.supervised.blame(broken) for _ in range(3)]
    assert None is house.supervised.client
    following = await house.supervised.get()

    assert [broken] == house.closed
    assert following is house.made[1]
    assert (1, 1) == (house.restarts, house.supervised.restarts)
    assert not house.supervised.blame(broken)


async def test_clients_are_built_until_one_can_be_and_those_that_cannot_are_closed(house: House) -> None:
    await house.supervised.start()
    house.failing = 5
    house.supervised.blame(house.made[0])
    assert None is await house.supervised.get(within_s=0)

    following = await house.supervised.get()

    assert following is house.made[6]
    assert house.made[:6] == house.closed
    assert 1 == house.restarts


async def test_replacing_goes_on_where_somebody_cancels_it(house: House, eventually: Eventually) -> None:
    await house.supervised.start()
    house.supervised.blame(house.made[0])
    for _ in range(2):
        next(task for task in asyncio.all_tasks() if task.get_name() == "replace test").cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert None is not await house.supervised.get()


async def test_whoever_waits_for_a_client_hears_of_the_end(house: House) -> None:
    await house.supervised.start()
    house.failing = 1000
    house.supervised.blame(house.made[0])
    waiting = asyncio.create_task(house.supervised.get())
    await asyncio.sleep(0)
    await house.supervised.stop()

    assert None is await waiting
    await house.supervised.stop()
