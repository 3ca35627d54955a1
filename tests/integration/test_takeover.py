"""A worker is killed under load and another takes over: promises 1 and 2 on real Kafka, with real processes."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from gate.config import Settings
from gate.ledger.answer import Entry, answer
from gate.model.wire import LedgerHeaders, read_ledger
from gate.worker.deciding import Decider

from .peers import Asker, Load, WorkerProcess, header, lag, read_all

pytestmark = pytest.mark.kafka


async def test_killed_workers_attempts_are_all_answered_by_the_next_one_and_all_the_same(
    topics: Settings, tmp_path: Path, eventually: Any
) -> None:
    first = WorkerProcess(topics, tmp_path)
    second = None
    try:
        await first.ready()
        async with Asker(topics) as asker, Load(asker, rate=250) as load:
            await eventually(lambda: len(asker.replies) > 500, within_s=20)
            first.send(signal.SIGKILL)
            await first.ended()
            second = WorkerProcess(topics, tmp_path)
            await second.ready()
            seen = len(asker.replies)
            await eventually(lambda: len(asker.replies) > seen + 500, within_s=30)
            # The same people ask again, with the same ids: both decisions from before the crash and from after it.
            for number in (*range(40), *range(len(load.acknowledged) - 40, len(load.acknowledged))):
                await load.submit(number)
            load.stop()
            await load.answered()
            await eventually(lambda: _committed(topics))
            assert 0 == await second.end()

            assert {} == load.contradictions()
            assert len(load.acknowledged) > 1000
            await _one_decision_each(topics, asker.replies)
    finally:
        first.close()
        if second is not None:
            second.close()
    for sign in ("Traceback", "never retrieved", "never awaited"):
        assert sign not in second.log


async def _committed(settings: Settings) -> bool:
    return sum((await lag(settings)).values()) == 0


async def _one_decision_each(settings: Settings, replies: list[ConsumerRecord]) -> None:
    """Every ask has an answer by rule 1 over the whole ledger, all asks of an id the same, and that is what was replied."""
    ledger: dict[int, list[Entry]] = defaultdict(list)
    for record in await read_all(settings, settings.decisions_topic):
        headers = read_ledger(record.key, record.headers)
        assert isinstance(headers, LedgerHeaders)
        ledger[record.partition].append(Entry(record.offset, *headers, record.value))
    decider = Decider(settings, chain=None, worker_id="checker", clock=None)  # type: ignore[arg-type] # reads only
    deciding: dict[str, set[int]] = defaultdict(set)
    decided_at: dict[bytes, bytes | None] = {}
    for record in await read_all(settings, settings.attempts_topic):
        flight, _ = decider.read(record)
        found = answer(
            (entry for entry in ledger[record.partition] if entry.attempt_id == flight.attempt_id), flight, settings.window_ms
        )
        assert found is not None, flight
        assert not found.conflict
        deciding[flight.attempt_id].add(found.entry.offset)
        decided_at[flight.attempt_id.encode()] = found.entry.value
    assert {1} == {len(offsets) for offsets in deciding.values()}
    for reply in replies:
        value = decided_at[header(reply, "gate-attempt-id") or b""]
        assert value is not None
        assert reply.value is not None
        # The ledger's body begins as the reply's: the same status, changes or denial, and moment.
        assert _until_chain(value) == _until_chain(reply.value)


def _until_chain(value: bytes) -> bytes:
    return value[: value.index(b'"decided_at"') + 39]
