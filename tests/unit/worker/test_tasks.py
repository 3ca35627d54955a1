"""No task of a worker ends unnoticed: it is started again, or the worker ends and says why."""

from __future__ import annotations

import asyncio

import pytest

from gate.errors import WorkerLost
from gate.worker.tasks import Tasks


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def named(name: str) -> asyncio.Task[object]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == name)


async def sleeps() -> None:
    await asyncio.sleep(60)


async def test_helper_that_is_cancelled_by_nobody_who_may_is_started_again() -> None:
    starts = []

    async def helper() -> None:
        starts.append(True)
        await sleeps()

    async with Tasks() as tasks:
        tasks.keep(helper, name="poll")
        await turns()
        for expected in (2, 3):
            named("poll").cancel()
            await turns()
            assert expected == len(starts)
        assert "<Tasks poll>" == repr(tasks)
        tasks.end()
    assert 3 == len(starts)


async def test_helper_that_comes_to_an_end_ends_the_worker() -> None:
    async def helper() -> None:
        pass

    async def work() -> None:
        async with Tasks() as tasks:
            tasks.keep(helper, name="poll")
            await sleeps()

    with pytest.raises(ExceptionGroup) as raised:
        await work()

    (lost,) = raised.value.exceptions
    assert isinstance(lost, WorkerLost)
    assert "poll has ended although nobody asked for it" in str(lost)


async def test_cancelled_task_that_cannot_be_taken_up_again_ends_the_worker() -> None:
    async def work() -> None:
        async with Tasks() as tasks:
            tasks.keep(sleeps, name="poll")
            tasks.spawn(sleeps(), name="replies 0")
            await turns()
            named("replies 0").cancel()
            await sleeps()

    with pytest.raises(ExceptionGroup) as raised:
        await work()

    (lost,) = raised.value.exceptions
    assert isinstance(lost, WorkerLost)
    assert "replies 0 was cancelled" in str(lost)


@pytest.mark.parametrize("how", ["keep", "spawn", "start"])
async def test_what_a_task_raises_ends_the_worker_once(how: str) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def work() -> None:
        async with Tasks() as tasks:
            tasks.keep(sleeps, name="poll")
            tasks.spawn(sleeps(), name="replies 0")
            if how == "keep":
                tasks.keep(fails, name="failing")
            else:
                getattr(tasks, how)(fails(), name="failing")
            await sleeps()

    with pytest.raises(ExceptionGroup) as raised:
        await work()

    assert [ValueError] == [type(error) for error in raised.value.exceptions]


async def test_tasks_that_end_as_they_should_end_nothing() -> None:
    async def quick() -> None:
        await asyncio.sleep(0)

    async with Tasks() as tasks:
        tasks.spawn(quick(), name="replies 0")
        tasks.start(sleeps(), name="chain").cancel()  # may be cancelled by whoever started it
        await turns()
        tasks.keep(sleeps, name="poll")
        tasks.spawn(sleeps(), name="replies 1")
        await turns()
        tasks.end()


async def test_worker_that_is_cancelled_from_outside_starts_nothing_again() -> None:
    starts = []

    async def helper() -> None:
        starts.append(True)
        await sleeps()

    async def work() -> None:
        async with Tasks() as tasks:
            tasks.keep(helper, name="poll")
            await sleeps()

    working = asyncio.create_task(work())
    await turns()
    working.cancel()
    await asyncio.wait({working})

    assert working.cancelled()
    assert [True] == starts
