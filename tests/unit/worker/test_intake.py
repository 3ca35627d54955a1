"""The intake with a consumer that can be stopped from delivering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from gate.config import Settings
from gate.kafka.consumer import ConsumerTrouble, RebalanceListener
from gate.metrics import Metrics
from gate.worker import intake as intake_module
from gate.worker.clock import BrokerClock
from gate.worker.intake import Intake
from gate.worker.partitions import Partition, Step
from gate.worker.progress import STANDSTILL_LOOKS
from gate.worker.recorder import Recorder
from gate.worker.tasks import Tasks

Eventually = Callable[..., Awaitable[Any]]


class Topic:
    """An attempts topic and what its consumers do."""

    def __init__(self) -> None:
        self.ends: dict[int, int] = {0: 0}
        self.first: dict[int, int] = {}  # offsets that a new consumer begins at
        self.deaf = False  # nothing is delivered
        self.made: list[Consumer] = []
        self.stopped = 0


class Consumer:
    def __init__(self, topic: Topic, listener: RebalanceListener) -> None:
        self.topic, self.listener = topic, listener
        self.at: dict[int, int] = {}
        topic.made.append(self)

    async def start(self) -> None:
        await self.listener.on_assigned(list(self.topic.ends))

    async def stop(self) -> None:
        self.topic.stopped += 1

    async def poll(self, partitions: Iterable[int], *, max_records: int, timeout_ms: int) -> dict[int, list[Any]]:
        await asyncio.sleep(0.001)
        if self.topic.deaf:
            return {}
        found: dict[int, list[Any]] = {}
        for number in partitions:
            offsets = range(self.at[number], min(self.topic.ends[number], self.at[number] + max_records))
            if offsets:
                found[number] = [SimpleNamespace(partition=number, offset=offset, timestamp=1) for offset in offsets]
                self.at[number] = offsets.stop
        return found

    async def keep_alive(self) -> None:
        await asyncio.sleep(0)

    async def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        return {number: self.topic.first.get(number, 0) for number in partitions}

    def seek(self, partition: int, offset: int) -> None:
        self.at[partition] = offset

    async def positions(self, partitions: Iterable[int]) -> dict[int, int]:
        return {number: self.at[number] for number in partitions}

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        if not self.topic.ends:
            raise ConsumerTrouble("no topic")
        return {number: self.topic.ends[number] for number in partitions}

    def known_end(self, partition: int) -> int | None:
        return None

    async def commit(self, offsets: Mapping[int, int]) -> Collection[int]:
        self.topic.first.update(offsets)
        return list(offsets)


class Scribe:
    """Makes partitions ready at once."""

    async def prepare(self, partition: Partition, since: Callable[[], Awaitable[float]]) -> None:
        await since()
        partition.rebuild(0, from_ms=0, at_start=True, keep_acked=False)
        partition.aim(0)


class Desk:
    """An intake that serves a topic, and takes what arrives as done."""

    def __init__(self, tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topic = Topic()
        self.taken: list[tuple[int, int]] = []
        self.room = 10
        self.ledger_partitions = 1
        self.done = True  # what is taken is complete at once
        self.metrics = Metrics()
        self.tasks = tasks
        clock = BrokerClock()
        monkeypatch.setattr(intake_module, "AttemptsConsumer", lambda options, listener, **_: Consumer(self.topic, listener))
        monkeypatch.setattr(intake_module, "_PULSE_S", 0.001)
        monkeypatch.setattr(intake_module, "_FIRST_RECORD_S", 0.01)
        self.settings = Settings(max_span=20)
        self.intake = Intake(
            self.settings,
            {},
            scribe=Scribe(),  # type: ignore[arg-type] # all that is used of it
            clock=clock,
            recorder=Recorder(self.metrics, clock),
            spawn=tasks.spawn,
            ledger_partitions=lambda at_least: self.ledger_partitions,
            room=lambda: self.room,
            on_record=self.take,
            on_work=lambda partition, work: None,
            caller=nullcontext(),
        )

    def take(self, partition: Partition, record: Any) -> Step:
        partition.offsets.receive(record.offset, record.timestamp)
        if self.done:
            partition.offsets.complete(record.offset)
        self.taken.append((record.partition, record.offset))
        return Step.RUN

    async def serve(self) -> None:
        await self.intake.start()
        self.tasks.keep(self.intake.poll_forever, name="poll")
        self.tasks.keep(self.intake.feel_pulse_forever, name="pulse")

    @property
    def restarts(self) -> float:
        return self.metrics.client_restarts_total.labels("consumer").value

    @property
    def reasons(self) -> list[str]:
        return list(self.intake.reasons())


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    async with Tasks() as tasks:
        desk = Desk(tasks, monkeypatch)
        await desk.serve()
        try:
            yield desk
        finally:
            tasks.end()


async def test_consumer_that_stands_still_although_attempts_wait_is_replaced_and_readiness_says_so(
    desk: Desk, eventually: Eventually
) -> None:
    desk.topic.deaf = True
    desk.topic.ends[0] = 3

    await eventually(lambda: desk.restarts == 1)
    assert "attempts wait in partitions 0 and do not arrive" in desk.reasons
    desk.topic.deaf = False

    await eventually(lambda: desk.taken == [(0, 0), (0, 1), (0, 2)])
    await eventually(lambda: not desk.reasons)
    assert not desk.intake.hopeless


async def test_rebalance_that_does_not_end_is_ended_by_another_consumer(
    desk: Desk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(desk.intake._standstill, "_unassigned_most", 10)
    await desk.topic.made[0].listener.on_revoked()
    assert "the group is being rebalanced" in desk.reasons

    await eventually(lambda: desk.restarts == 1)
    assert "the group's rebalance does not end" in caplog.text
    await eventually(lambda: not desk.reasons)


async def test_three_consumers_in_a_row_that_bring_nothing_are_hopeless_until_one_brings(
    desk: Desk, eventually: Eventually
) -> None:
    desk.topic.deaf = True
    desk.topic.ends[0] = 3

    await eventually(lambda: desk.restarts == 2)
    assert not desk.intake.hopeless
    await eventually(lambda: desk.intake.hopeless)
    desk.topic.deaf = False
    await eventually(lambda: not desk.intake.hopeless)


@pytest.mark.parametrize("why", ["nothing waits", "no room", "span"])
async def test_consumer_that_has_nothing_to_bring_is_left_alone(desk: Desk, eventually: Eventually, why: str) -> None:
    looks = [0]
    look = desk.intake._standstill._deliveries.look

    def counting(*arguments: Any) -> list[int]:
        looks[0] += 1
        return look(*arguments)

    if why == "span":
        desk.done = False
        desk.topic.ends[0] = 25
        await eventually(lambda: len(desk.taken) >= 20)
        assert ["partition 0: the attempt at offset 0 is not done, and GATE_MAX_SPAN=20 were taken after it"] == desk.reasons
    desk.topic.deaf = True
    if why == "no room":
        desk.room = 0
        desk.topic.ends[0] = 3
    desk.intake._standstill._deliveries.look = counting  # type: ignore[method-assign]
    await eventually(lambda: looks[0] > 3 * STANDSTILL_LOOKS)

    assert 0 == desk.restarts


async def test_standstill_is_over_when_what_waited_is_gone(desk: Desk, eventually: Eventually) -> None:
    desk.topic.deaf = True
    desk.topic.ends[0] = 3
    await eventually(lambda: desk.restarts == 1)
    desk.topic.first[0] = 3  # somebody else has taken them
    await eventually(lambda: desk.restarts >= 2)

    await eventually(lambda: not desk.reasons)
    assert not desk.intake.hopeless


async def test_poll_that_was_cancelled_goes_on_with_another_consumer_from_what_is_committed(
    desk: Desk, eventually: Eventually
) -> None:
    desk.topic.ends[0] = 2
    await eventually(lambda: len(desk.taken) == 2)
    next(task for task in asyncio.all_tasks() if task.get_name() == "poll").cancel()
    await eventually(lambda: desk.restarts == 1)
    desk.topic.ends[0] = 4

    await eventually(lambda: {(0, 2), (0, 3)} <= set(desk.taken))
    assert (2, 1) == (len(desk.topic.made), desk.topic.stopped)


async def test_partition_without_ledger_twin_is_not_served_until_the_twin_is_there(desk: Desk, eventually: Eventually) -> None:
    desk.topic.ends[1] = 2
    await desk.topic.made[0].listener.on_revoked()
    await desk.topic.made[0].listener.on_assigned([0, 1])
    desk.topic.ends[0] = 1

    await eventually(lambda: desk.taken == [(0, 0)])
    assert ["attempts partition 1 has no partition 1 in registration.decisions"] == desk.reasons
    desk.ledger_partitions = 2

    await eventually(lambda: desk.taken == [(0, 0), (1, 0), (1, 1)])
    assert [] == desk.reasons
    assert 0 == desk.restarts


async def test_poll_that_was_cut_off_while_its_consumer_was_being_replaced_gets_another(
    desk: Desk, eventually: Eventually
) -> None:
    await eventually(lambda: desk.intake._consumer is not None and not desk.reasons)
    desk.intake._consumer, desk.intake._broken = None, False  # as a replacement leaves it that was cancelled
    desk.topic.ends[0] = 1

    await eventually(lambda: desk.taken == [(0, 0)])
