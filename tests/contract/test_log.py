"""What every `Log` does, the one in memory and the one on Kafka: the in-memory log may be trusted in tests because of this."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from gate.config import Settings
from gate.kafka.connection import client_options
from gate.kafka.ledger import KafkaLedger
from gate.ledger.answer import Entry
from gate.ledger.ports import Log, LogRejected
from gate.model.decision import Scope
from gate.model.wire import LedgerHeaders, Message, encode_ledger
from gate.testing import InMemoryLog


class Bench:
    """A log under test, and what an operator does to it."""

    def __init__(self, log: Log, forget: Callable[[int, int], Awaitable[None]]) -> None:
        self.log = log
        self.forget = forget  # (partition, before): drop records, as retention does


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        memory = InMemoryLog(partitions=4, now_ms=lambda: time.time_ns() // 1_000_000)

        async def forget_in_memory(partition: int, before: int) -> None:
            memory.forget(partition, before)

        yield Bench(memory, forget_in_memory)
        return

    settings: Settings = await _topics(request)
    options = client_options(settings, settings.bootstrap_servers or "")
    kafka = KafkaLedger(options, topic=settings.decisions_topic, count=lambda: 4, on_restart=lambda client: None)

    async def forget(partition: int, before: int) -> None:
        admin = AIOKafkaAdminClient(**options)
        await admin.start()
        try:
            await admin.delete_records(
                {TopicPartition(settings.decisions_topic, partition): RecordsToDelete(before_offset=before)}
            )
        finally:
            await admin.close()

    await kafka.start()
    try:
        yield Bench(kafka, forget)
    finally:
        await kafka.stop()


async def _topics(request: pytest.FixtureRequest) -> Any:
    from gate.kafka.topics import create_topics  # only where there is a Kafka

    settings: Settings = request.getfixturevalue("settings")
    await create_topics(settings, settings.bootstrap_servers or "", partitions=4, replication=1)
    return settings


def record(attempt_id: str, value: bytes = b"{}") -> Message:
    return encode_ledger(LedgerHeaders(attempt_id, b"digest", f"attempts-0-{attempt_id}", 1000, Scope.ID), value)


def batch(*attempt_ids: str) -> list[Message]:
    return [record(attempt_id) for attempt_id in attempt_ids]


def ids(entries: list[Entry]) -> list[tuple[int, str]]:
    return [(entry.offset, entry.attempt_id) for entry in entries]


async def read_to(log: Log, partition: int, offset: int, end: int) -> list[Entry]:
    """Read on until `end`, as the worker does."""
    entries: list[Entry] = []
    while offset < end:
        part = await log.read(partition, offset)
        assert part.start <= offset <= part.end
        entries += part.entries
        offset = part.next_offset
    return entries


async def test_empty_partition_begins_and_ends_at_0(bench: Bench) -> None:
    assert (0, 0) == await bench.log.bounds(1)

    part = await bench.log.read(1, 0)
    assert ([], 0, 0, 0) == part


async def test_append_tells_the_offset_of_its_first_record_and_the_time_it_got(bench: Bench) -> None:
    before_ms = time.time_ns() // 1_000_000
    first = await bench.log.append(0, batch("a", "b", "c"))
    second = await bench.log.append(0, batch("d"))

    assert (0, 3) == (first.base_offset, second.base_offset)
    assert before_ms <= first.timestamp_ms <= second.timestamp_ms <= time.time_ns() // 1_000_000
    assert (0, 4) == await bench.log.bounds(0)


async def test_partitions_are_logs_of_their_own(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b"))

    assert 0 == (await bench.log.append(3, batch("c"))).base_offset
    assert [(0, "c")] == ids(await read_to(bench.log, 3, 0, 1))


async def test_what_was_acknowledged_is_read_back_whole_and_in_order(bench: Bench) -> None:
    value = b'{"body": "\xc3\xa9"}'
    await bench.log.append(2, [record("a", value), record("b"), record("c")])
    await bench.log.append(2, batch("d"))

    entries = await read_to(bench.log, 2, 0, 4)

    assert [(0, "a"), (1, "b"), (2, "c"), (3, "d")] == ids(entries)
    assert (b"digest", "attempts-0-a", 1000, Scope.ID, value) == (
        entries[0].digest,
        entries[0].source,
        entries[0].attempt_ts,
        entries[0].scope,
        entries[0].value,
    )


async def test_read_begins_inside_a_batch_where_it_is_asked_to(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b", "c"))

    assert [(1, "b"), (2, "c")] == ids(await read_to(bench.log, 0, 1, 3))


async def test_read_at_the_end_waits_a_little_and_returns_nothing(bench: Bench) -> None:
    await bench.log.append(0, batch("a"))

    part = await bench.log.read(0, 1)

    assert ([], 1) == (part.entries, part.next_offset)
    assert part.start <= 1 <= part.end


async def test_read_beyond_the_end_says_where_the_end_is(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b"))

    part = await bench.log.read(0, 7)

    assert ([], 2) == (part.entries, part.end)
    assert part.end < 7


async def test_read_below_the_start_says_where_the_start_is(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b", "c", "d"))
    await bench.forget(0, 3)

    part = await bench.log.read(0, 1)
    assert ([], 3) == (part.entries, part.start)
    assert [(3, "d")] == ids(await read_to(bench.log, 0, 3, 4))


async def test_retention_moves_the_start_and_keeps_offsets(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b", "c"))
    await bench.forget(0, 2)

    assert (2, 3) == await bench.log.bounds(0)
    assert 3 == (await bench.log.append(0, batch("d"))).base_offset


async def test_partition_that_retention_has_emptied_begins_where_it_ends(bench: Bench) -> None:
    await bench.log.append(0, batch("a", "b"))
    await bench.forget(0, 2)

    assert (2, 2) == await bench.log.bounds(0)
    assert 2 == (await bench.log.append(0, batch("c"))).base_offset
    assert [(2, "c")] == ids(await read_to(bench.log, 0, 2, 3))


async def test_offset_at_is_the_first_that_is_not_older_or_the_end(bench: Bench, eventually: Any) -> None:
    first = await bench.log.append(0, batch("a", "b"))
    await eventually(lambda: time.time_ns() // 1_000_000 > first.timestamp_ms + 1)
    second = await bench.log.append(0, batch("c"))

    assert 0 == await bench.log.offset_at(0, 0)
    assert 0 == await bench.log.offset_at(0, -(2**62))
    assert 0 == await bench.log.offset_at(0, first.timestamp_ms)
    assert 2 == await bench.log.offset_at(0, first.timestamp_ms + 1)
    assert 2 == await bench.log.offset_at(0, second.timestamp_ms)
    assert 3 == await bench.log.offset_at(0, second.timestamp_ms + 1)
    assert 0 == await bench.log.offset_at(1, 0)


async def test_record_too_large_is_rejected_for_good_and_harms_nothing(bench: Bench) -> None:
    await bench.log.append(0, batch("a"))

    with pytest.raises(LogRejected):
        await bench.log.append(0, [record("huge", b"x" * 1_200_000)])

    assert 1 == (await bench.log.append(0, batch("b"))).base_offset


async def test_batch_with_a_record_too_large_is_rejected_as_a_whole(bench: Bench) -> None:
    with pytest.raises(LogRejected):
        await bench.log.append(0, [record("a"), record("huge", b"x" * 1_200_000), record("b")])

    assert (0, 0) == await bench.log.bounds(0)


async def test_what_is_no_ledger_record_is_left_out_and_stepped_over(bench: Bench) -> None:
    await bench.log.append(0, [Message(b"k", b"v", []), record("a"), Message(None, b"v", [("scope", b"?")])])

    assert [(1, "a")] == ids(await read_to(bench.log, 0, 0, 3))
