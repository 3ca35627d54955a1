"""What a running worker notices and mends by itself, on the real broker."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from gate.config import Settings
from gate.kafka import consumer as consumer_module
from gate.ledger.ports import LogUnavailable
from gate.worker import intake as intake_module

from .peers import Asker, body, event, read_all, serving

pytestmark = pytest.mark.kafka


async def add_partitions(settings: Settings, topic: str, total: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(total)})
    finally:
        await admin.close()


@pytest.mark.parametrize("topics", [2], indirect=True)
async def test_partition_added_while_a_worker_runs_is_served_from_its_beginning_once_its_ledger_twin_is_there(
    topics: Settings, asker: Asker, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr(consumer_module, "METADATA_MAX_AGE_MS", 300)
    async with serving(topics) as worker:
        worker._topics._refresh_s = 0.3  # as if 30 s were over
        await asker.submit("before", event())
        await eventually(lambda: asker.to("before"))
        await add_partitions(topics, topics.attempts_topic, 3)
        unserved = f"attempts partition 2 has no partition 2 in {topics.decisions_topic}"
        await eventually(lambda: unserved in worker.status().reasons, within_s=20)
        await asker._producer.client.force_metadata_update()
        for number in range(3):
            await asker.send(event(), headers={"gate-attempt-id": b"new-%d" % number}, partition=2)
        await asker.send(event(), headers={"gate-attempt-id": b"old"}, partition=0)
        await eventually(lambda: asker.to("old"))
        assert not asker.to("new-0")

        await add_partitions(topics, topics.decisions_topic, 3)
        await eventually(lambda: all(asker.to(f"new-{number}") for number in range(3)), within_s=20)
        assert worker.status().ready
        assert {"ledger_reader": 0, "ledger_producer": 0, "consumer": 0} == {
            client: worker._recorder.metrics.client_restarts_total.labels(client).value
            for client in ("ledger_reader", "ledger_producer", "consumer")
        }
    ledger = await read_all(topics, topics.decisions_topic)
    assert 3 == sum(record.partition == 2 for record in ledger)


@pytest.mark.parametrize("topics", [1], indirect=True)
async def test_consumer_that_delivers_nothing_is_replaced_and_the_attempts_are_answered(
    topics: Settings, asker: Asker, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr(intake_module, "_PULSE_S", 0.1)
    async with serving(topics) as worker:
        assert worker._intake is not None
        wedged: Any = worker._intake._consumer
        fetcher = wedged._client._fetcher
        for task in (fetcher._fetch_task, *fetcher._pending_tasks):
            task.cancel()  # a state that aiokafka does not leave by itself: nobody fetches
        await asker.submit("a-1", event())
        await eventually(lambda: any("do not arrive" in reason for reason in worker.status().reasons), within_s=20)

        await eventually(lambda: asker.to("a-1"), within_s=20)
        await eventually(lambda: worker.status().ready)
        assert "approved" == body(asker.to("a-1")[0])["status"]
        assert 1 == worker._recorder.metrics.client_restarts_total.labels("consumer").value
        assert worker.status().live


async def test_at_least_once_takes_no_more_than_it_may_owe_the_ledger_while_that_is_away(
    topics: Settings, asker: Asker, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    async with serving(topics.model_copy(update={"mode": "at_least_once", "max_in_flight": 20})) as worker:
        write = worker._ledger.append
        away = True

        async def append(partition: int, batch: Any) -> Any:
            if away:
                raise LogUnavailable("away")
            return await write(partition, batch)

        monkeypatch.setattr(worker._ledger, "append", append)
        for number in range(100):
            await asker.submit(f"n-{number}", event())
        await eventually(lambda: worker._scribe.owed == 20 and worker.in_flight == 0)
        assert not worker.status().ready
        await eventually(lambda: len(asker.replies) == 20)
        assert 20 == worker._recorder.metrics.attempts_received_total.value

        away = False
        await eventually(lambda: len(asker.replies) == 100)
    assert {f"n-{number}".encode() for number in range(100)} == {
        record.key for record in await read_all(topics, topics.decisions_topic)
    }
