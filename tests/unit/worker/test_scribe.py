"""The scribe on the in-memory log, behind a log that fails, delays and rejects."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gate.ledger.ports import Appended, LogUnavailable, Slice
from gate.metrics import Metrics
from gate.model.decision import Scope
from gate.model.wire import LedgerHeaders, Message, encode_ledger, read_ask
from gate.testing import InMemoryLog
from gate.worker import scribe as scribe_module
from gate.worker.clock import BrokerClock
from gate.worker.partitions import CLOCK_ALLOWANCE_MS, Append, Flight, Partition, Stage, Step, Work
from gate.worker.recorder import Recorder
from gate.worker.scribe import LedgerScribe

WINDOW_MS = 120_000
NOW = 1_700_000_000_000
MAX_BYTES = 1000

Eventually = Callable[..., Awaitable[Any]]


@dataclass
class Record:
    offset: int
    key: bytes
    timestamp: int = NOW
    topic: str = "a"
    partition: int = 0
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


class TroubledLog:
    """The in-memory log on a bad day: `fails[name]` calls fail, acks get lost, and a name in `held` waits for its event."""

    def __init__(self) -> None:
        self.now_ms = NOW
        self.inner = InMemoryLog(now_ms=lambda: self.now_ms, max_bytes=MAX_BYTES)
        self.fails: Counter[str] = Counter()
        self.lost_acks = 0
        self.held: dict[str, asyncio.Event] = {}
        self.calls: Counter[str] = Counter()
        self.batches: list[int] = []
        self.reading = self.most_reading = 0

    def hold(self, name: str) -> asyncio.Event:
        event = self.held[name] = asyncio.Event()
        return event

    async def _call(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.held:
            await self.held[name].wait()
        await asyncio.sleep(0)
        if self.fails[name] > 0:
            self.fails[name] -= 1
            raise LogUnavailable(f"{name} failed")

    async def append(self, partition: int, batch: Sequence[Message]) -> Appended:
        self.batches.append(len(batch))
        await self._call("append")
        appended = await self.inner.append(partition, batch)
        if self.lost_acks > 0:
            self.lost_acks -= 1
            raise LogUnavailable("the acknowledgement is lost")
        return appended

    async def read(self, partition: int, offset: int) -> Slice:
        self.reading += 1
        self.most_reading = max(self.reading, self.most_reading)
        try:
            await self._call("read")
            return await self.inner.read(partition, offset)
        finally:
            self.reading -= 1

    async def bounds(self, partition: int) -> tuple[int, int]:
        await self._call("bounds")
        return await self.inner.bounds(partition)

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        await self._call("offset_at")
        return await self.inner.offset_at(partition, timestamp_ms)

    async def somebody_writes(self, attempt_id: str, says: str = "theirs", *, source: str = "a-0-99", at: int = NOW) -> None:
        headers = LedgerHeaders(attempt_id, b"c1:a", source, at, Scope.ID)
        await self.inner.append(0, [encode_ledger(headers, says.encode())])

    def lose_records(self, left: int) -> None:
        """What an unclean leader election does."""
        del self.inner._records[0][left:]


class Counting(Recorder):
    """A recorder that says what it was told."""

    def __init__(self, counts: Counter[str], clock: BrokerClock) -> None:
        super().__init__(Metrics(), clock)
        self.counts = counts

    def gap(self) -> None:
        self.counts["gap"] += 1

    def rewound(self) -> None:
        self.counts["rewound"] += 1


class Bench:
    """A scribe with one partition, and what a worker would do with its work."""

    def __init__(self) -> None:
        self.log = TroubledLog()
        self.tasks: set[asyncio.Task[None]] = set()
        self.replies: dict[int, bytes | None] = {}
        self.rejected: list[int] = []
        self.counts: Counter[str] = Counter()
        clock = BrokerClock(own_ms=lambda: float(self.log.now_ms))
        self.scribe = LedgerScribe(
            self.log,
            clock=clock,
            recorder=Counting(self.counts, clock),
            spawn=self.spawn,
            max_batch_bytes=100_000,
            on_work=self.do,
            on_rejected=self.reject,
        )
        self.partition = Partition(0, window_ms=WINDOW_MS, bodies_max=100)

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(coro, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def do(self, partition: Partition, work: Work) -> None:
        for flight in work.replies:
            assert flight.answer is not None
            assert flight.offset not in self.replies, "one answer per ask"
            self.replies[flight.offset] = flight.answer.entry.value

    def reject(self, partition: Partition, append: Append) -> bool:
        self.rejected.append(append.flight.offset)
        if append.message.value == b"nothing is smaller":
            return False
        self.decide(append.flight, "action_failed")
        return True

    def ask(self, offset: int, attempt_id: str, *, at: int = NOW) -> Flight:
        record = Record(offset, attempt_id.encode(), at, headers=[("gate-attempt-id", attempt_id.encode())])
        return Flight(read_ask(record, default_timeout_ms=1000, max_timeout_ms=1000), b"c1:a", {}, 0.0)

    def decide(self, flight: Flight, says: str) -> None:
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, Scope.ID)
        append = Append(headers, encode_ledger(headers, says.encode()), flight)
        assert self.partition.decided(flight, append, {})
        self.scribe.append(self.partition, append)

    def take_and_decide(self, offset: int, attempt_id: str, says: str = "mine") -> Flight:
        flight = self.ask(offset, attempt_id)
        assert Step.RUN is self.partition.take(flight)
        self.decide(flight, says)
        return flight

    async def prepare(self, since_ms: float = NOW) -> None:
        async def since() -> float:
            return since_ms

        await self.scribe.prepare(self.partition, since)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A scribe whose retries take no time, at the end of which no task has failed or is left."""
    monkeypatch.setattr(scribe_module, "_RETRY_S", 0.001)
    monkeypatch.setattr(scribe_module, "_RETRY_MAX_S", 0.001)
    bench = Bench()
    bench.partition.assign(0)
    yield bench
    for task in list(bench.tasks):
        task.cancel()
    await asyncio.gather(*bench.tasks, return_exceptions=True)


async def served(bench: Bench, eventually: Eventually, expected: dict[int, bytes]) -> None:
    await eventually(lambda: bench.replies == expected)


# -- Appending ------------------------------------------------------------------------------------------------------------


async def test_a_decision_is_answered_once_it_is_in_the_ledger_and_nothing_is_read(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.take_and_decide(0, "X")
    await served(bench, eventually, {0: b"mine"})

    assert 0 == bench.log.calls["read"]


async def test_what_comes_while_a_batch_is_on_its_way_leaves_together(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    gate = bench.log.hold("append")
    bench.take_and_decide(0, "A")
    await eventually(lambda: bench.log.calls["append"] == 1)
    for offset, attempt_id in enumerate("BCD", 1):
        bench.take_and_decide(offset, attempt_id)
    gate.set()
    await served(bench, eventually, dict.fromkeys(range(4), b"mine"))

    assert [1, 3] == bench.log.batches


async def test_an_append_that_fails_is_tried_until_the_ledger_takes_it(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.log.fails["append"] = 1_000_000
    bench.take_and_decide(0, "X")
    await eventually(lambda: bench.scribe.trouble)
    assert {} == bench.replies
    bench.log.fails["append"] = 0
    await served(bench, eventually, {0: b"mine"})

    assert None is bench.scribe.trouble


async def test_a_lost_acknowledgement_makes_a_copy_and_no_second_answer(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.log.lost_acks = 1
    bench.take_and_decide(0, "X")
    await served(bench, eventually, {0: b"mine"})

    assert (0, 2) == await bench.log.inner.bounds(0)
    assert 1 == bench.counts["gap"]


async def test_the_first_record_is_the_answer_whoever_wrote_it(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    await bench.log.somebody_writes("X", source="a-0-0")
    bench.take_and_decide(0, "X")
    await served(bench, eventually, {0: b"theirs"})


async def test_a_rejected_batch_is_tried_record_by_record(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.take_and_decide(0, "A")
    bench.take_and_decide(1, "B", "x" * (MAX_BYTES + 1))
    bench.take_and_decide(2, "C")
    await served(bench, eventually, {0: b"mine", 1: b"action_failed", 2: b"mine"})

    assert [1] == bench.rejected
    assert [3, 1, 1, 1, 1] == bench.log.batches


async def test_a_ledger_that_takes_no_decision_whatever_its_size_is_a_trouble_until_it_does(
    bench: Bench, eventually: Eventually
) -> None:
    await bench.prepare()
    bench.log.inner._max_bytes = 5
    bench.take_and_decide(0, "A", "nothing is smaller")
    await eventually(lambda: len(bench.rejected) > 3)
    assert "its max.message.bytes is too small for any decision" in (bench.scribe.trouble or "")
    bench.log.inner._max_bytes = MAX_BYTES

    await served(bench, eventually, {0: b"nothing is smaller"})
    assert None is bench.scribe.trouble


async def test_a_ledger_that_is_away_for_long_finds_no_more_than_one_copy_of_each(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    gate = bench.log.hold("append")
    bench.log.fails["append"] = 2
    for offset, attempt_id in enumerate("ABC"):
        bench.take_and_decide(offset, attempt_id)
    for _ in range(10):
        bench.scribe.append_again(bench.partition)
    gate.set()
    await served(bench, eventually, dict.fromkeys(range(3), b"mine"))

    assert (0, 3) == await bench.log.inner.bounds(0)


async def test_the_sweep_appends_again_what_was_acknowledged_and_never_seen(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.prepare()
    gate = bench.log.hold("read")
    await bench.log.somebody_writes("Y")
    bench.take_and_decide(0, "X")
    await eventually(lambda: bench.partition.table.acked)
    bench.partition.table.acked.clear()
    bench.scribe.sweep(bench.partition)
    assert [1] == bench.log.batches, "its timer still runs"
    monkeypatch.setattr(scribe_module, "_APPEND_TIMER_S", 0.0)
    bench.scribe.sweep(bench.partition)
    gate.set()
    await served(bench, eventually, {0: b"mine"})


async def test_a_decision_for_an_ask_that_was_dropped_is_not_tried_again(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    gate = bench.log.hold("append")
    bench.log.fails["append"] = 1
    flight = bench.take_and_decide(0, "X")
    await eventually(lambda: bench.log.calls["append"] == 1)
    bench.partition._deregister(flight)
    gate.set()
    await eventually(lambda: not bench.tasks)

    assert (1, Stage.GONE) == (bench.log.calls["append"], flight.stage)


async def test_at_least_once_writes_what_it_has_answered(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.log.fails["append"] = 2
    flight = bench.take_and_decide(0, "X")
    bench.do(bench.partition, bench.partition.assume(flight))
    bench.partition.complete(flight)
    await eventually(lambda: not bench.tasks)

    assert (0, 1) == await bench.log.inner.bounds(0)


# -- Reading --------------------------------------------------------------------------------------------------------------


async def test_a_gap_is_read_by_one_reader_however_many_wait_for_it(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    gate = bench.log.hold("read")
    await bench.log.somebody_writes("Q")
    for offset in range(5):
        bench.take_and_decide(offset, f"id-{offset}")
        await eventually(lambda offset=offset: len(bench.log.batches) == offset + 1)
    await eventually(lambda: len(bench.partition.table.acked) == 5)
    assert {} == bench.replies
    gate.set()
    await served(bench, eventually, dict.fromkeys(range(5), b"mine"))

    assert 1 == bench.log.most_reading


async def test_a_gap_is_read_until_it_can_be(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.log.fails["read"] = 3
    await bench.log.somebody_writes("Q")
    bench.take_and_decide(0, "X")
    await served(bench, eventually, {0: b"mine"})

    assert 0 == bench.log.fails["read"]


async def test_a_reader_starts_again_where_the_table_begins_anew_under_it(bench: Bench, eventually: Eventually) -> None:
    for attempt_id in "QRS":
        await bench.log.somebody_writes(attempt_id)
    await bench.prepare()
    await eventually(lambda: bench.partition.ready)
    gate = bench.log.hold("read")
    await bench.log.somebody_writes("T")
    bench.take_and_decide(0, "X")
    await eventually(lambda: bench.log.reading)
    bench.partition.rebuild(1, from_ms=0, at_start=True, keep_acked=True)
    gate.set()
    await served(bench, eventually, {0: b"mine"})

    assert [1, 2, 3, 4] == [entry.offset for entry in bench.partition.table]


# -- Assignments ----------------------------------------------------------------------------------------------------------


async def test_the_ledger_is_read_back_before_anything_is_taken(bench: Bench, eventually: Eventually) -> None:
    await bench.log.somebody_writes("X")
    gate = bench.log.hold("read")
    await bench.prepare()
    assert not bench.partition.ready
    gate.set()
    await eventually(lambda: bench.partition.ready)

    assert Step.REPLY is bench.partition.take(bench.ask(0, "X"))


async def test_an_empty_ledger_needs_no_reading(bench: Bench) -> None:
    await bench.prepare()

    assert (True, 0) == (bench.partition.ready, bench.log.calls["read"])


async def test_only_what_may_decide_the_first_attempt_is_read_back(bench: Bench, eventually: Eventually) -> None:
    bench.log.now_ms = NOW - WINDOW_MS - 2 * CLOCK_ALLOWANCE_MS - 1
    await bench.log.somebody_writes("old")
    bench.log.now_ms += 1
    await bench.log.somebody_writes("edge")
    bench.log.now_ms = NOW
    await bench.prepare()
    await eventually(lambda: bench.partition.ready)

    assert ["edge"] == [entry.attempt_id for entry in bench.partition.table]


@pytest.mark.parametrize("name", ["offset_at", "bounds"])
async def test_preparing_goes_on_until_the_ledger_answers(bench: Bench, name: str) -> None:
    bench.log.fails[name] = 3
    await bench.prepare()

    assert bench.partition.ready


async def test_a_table_that_still_serves_is_kept(bench: Bench) -> None:
    await bench.prepare()
    looked = bench.log.calls["offset_at"]
    bench.partition.pause()
    bench.partition.assign(0)
    await bench.prepare(NOW + 5)

    assert (True, looked) == (bench.partition.ready, bench.log.calls["offset_at"])


async def test_an_earlier_attempt_has_the_table_extended(bench: Bench, eventually: Eventually) -> None:
    bench.log.now_ms = NOW - 10 * WINDOW_MS
    await bench.log.somebody_writes("other", at=bench.log.now_ms)
    bench.log.now_ms += 2 * WINDOW_MS
    await bench.log.somebody_writes("X", at=bench.log.now_ms)
    bench.log.now_ms = NOW
    await bench.log.somebody_writes("Y")
    await bench.prepare()
    await eventually(lambda: bench.partition.ready)
    early = bench.ask(0, "X", at=NOW - 8 * WINDOW_MS)
    assert Step.EXTEND is bench.partition.take(early)
    await bench.prepare(early.timestamp_ms)
    await eventually(lambda: bench.partition.ready)

    assert Step.REPLY is bench.partition.take(early)


async def test_an_assignment_that_is_over_prepares_nothing(bench: Bench, eventually: Eventually) -> None:
    gate = bench.log.hold("bounds")
    preparing = asyncio.create_task(bench.prepare())
    await eventually(lambda: bench.log.calls["bounds"])
    bench.partition.lose()
    gate.set()
    await preparing

    assert (False, None) == (bench.partition.ready, bench.partition.target)


async def test_an_earlier_assignment_does_not_make_the_next_one_ready(bench: Bench, eventually: Eventually) -> None:
    gate = bench.log.hold("bounds")
    preparing = asyncio.create_task(bench.prepare())
    await eventually(lambda: bench.log.calls["bounds"])
    bench.partition.pause()
    bench.partition.assign(0)
    gate.set()
    await preparing
    assert not bench.partition.ready
    await bench.prepare()

    assert bench.partition.ready


async def test_what_retention_took_before_it_was_read_is_not_waited_for(bench: Bench, eventually: Eventually) -> None:
    for attempt_id in "QRS":
        await bench.log.somebody_writes(attempt_id)
    gate = bench.log.hold("read")
    await bench.prepare()
    bench.log.inner.forget(0, before=3)
    gate.set()
    await eventually(lambda: bench.partition.ready)

    assert (3, 0) == (bench.partition.table.next, len(bench.partition.table))


# -- Rewinds --------------------------------------------------------------------------------------------------------------


async def test_a_rewound_ledger_is_read_anew_and_what_is_unresolved_appended_again(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.take_and_decide(0, "A")
    bench.take_and_decide(1, "B")
    await served(bench, eventually, {0: b"mine", 1: b"mine"})
    bench.log.lose_records(left=1)
    bench.take_and_decide(2, "C")
    await served(bench, eventually, dict.fromkeys(range(3), b"mine"))
    await eventually(lambda: bench.partition.ready)

    assert 1 == bench.counts["rewound"]
    assert ["A", "C"] == [entry.attempt_id for entry in bench.partition.table][:2]


async def test_nothing_is_taken_while_a_rewound_ledger_is_read_anew(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.take_and_decide(0, "A")
    await served(bench, eventually, {0: b"mine"})
    bench.log.lose_records(left=0)
    gate = bench.log.hold("offset_at")
    bench.take_and_decide(1, "B")
    await eventually(lambda: bench.log.calls["offset_at"] == 2)
    assert (False, 0) == (bench.partition.ready, len(bench.partition.table))
    gate.set()
    await eventually(lambda: bench.partition.ready)
    await served(bench, eventually, {0: b"mine", 1: b"mine"})


async def test_a_ledger_that_ends_before_the_table_is_noticed_on_assignment(bench: Bench, eventually: Eventually) -> None:
    await bench.prepare()
    bench.take_and_decide(0, "A")
    await served(bench, eventually, {0: b"mine"})
    bench.log.lose_records(left=0)
    bench.partition.pause()
    bench.partition.assign(0)
    await bench.prepare()
    await eventually(lambda: bench.partition.ready)

    assert (1, 0) == (bench.counts["rewound"], len(bench.partition.table))


async def test_records_lost_while_they_are_read_back_are_not_waited_for(bench: Bench, eventually: Eventually) -> None:
    for attempt_id in "QRS":
        await bench.log.somebody_writes(attempt_id)
    gate = bench.log.hold("read")
    await bench.prepare()
    bench.log.lose_records(left=1)
    gate.set()
    await eventually(lambda: bench.partition.ready)

    assert ["Q"] == [entry.attempt_id for entry in bench.partition.table]
