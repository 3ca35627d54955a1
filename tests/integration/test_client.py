"""The client on a real broker, with a small responder in the gate's place."""

from __future__ import annotations

import asyncio
from collections import Counter

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from gate.client import ClientClosed, GateClient
from gate.errors import AskTimeout, ConfigError, KafkaUnavailable
from gate.kafka import replies
from gate.kafka.embedded import EmbeddedKafka
from gate.kafka.topics import create_topics
from gate.metrics import ClientMetrics
from gate.model.decision import Cause, Decision, Outcome, Status, fixed_denial
from gate.model.wire import decision_document, encode_reply, read_ask
from gate.tools.ask import build_event
from gate.tools.load import run_load

pytestmark = pytest.mark.kafka


class Responder:
    """Reads attempts and sends whatever `answer(ask)` yields as replies; remembers the asks in the order they came."""

    def __init__(self, settings, answer):
        self.settings, self.answer = settings, answer
        self.asks = []

    async def __aenter__(self):
        bootstrap = self.settings.bootstrap_servers
        self.consumer = AIOKafkaConsumer(
            self.settings.attempts_topic,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            group_id=None,
            fetch_max_wait_ms=50,
        )
        self.producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
        await self.consumer.start()
        await self.producer.start()
        self.task = asyncio.create_task(self.run(), name="responder")
        return self

    async def __aexit__(self, *_):
        await self.consumer.stop()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.producer.stop()

    async def run(self):
        async for record in self.consumer:
            ask = read_ask(record, default_timeout_ms=30_000, max_timeout_ms=120_000)
            self.asks.append(ask)
            for message in self.answer(ask):
                await self.producer.send(ask.reply_topic, message.value, key=message.key, headers=message.headers)

    async def send(self, ask, message, partition=None):
        """Send a reply besides what `answer` yields, and see it acknowledged."""
        await self.producer.send_and_wait(
            ask.reply_topic, message.value, key=message.key, headers=message.headers, partition=partition
        )


def reply(ask, *, denial=None, plan="free"):
    changes = {} if denial else {"user_metadata": {"plan": plan}}
    document = decision_document(
        attempt_id=ask.attempt_id,
        outcome=Outcome(denial=denial, changes=changes),
        warnings=[],
        chain="sha256:0",
        decided_at="2026-01-02T03:04:05.678Z",
    )
    return encode_reply(ask, document, orjson.loads(ask.record.value)["user"])


def silent(_ask):
    return []


def approve(ask):
    return [reply(ask)]


def count(metrics, name):
    return next(sample.value for family in metrics.collect() for sample in family.samples if sample.name == f"gate_{name}")


EVENT = build_event("ada.lovelace@mail.example")


async def test_decision_comes_back_with_merged_metadata(topics):
    async with Responder(topics, approve) as responder, GateClient(settings=topics) as gate:
        decision = await gate.ask(EVENT, timeout_s=10, attempt_id="a-1", traceparent="00-ab-cd-01")

    assert (
        Decision(
            attempt_id="a-1",
            status=Status.APPROVED,
            user_metadata={"newsletter": True, "plan": "free"},
            app_metadata={},
            changes={"user_metadata": {"plan": "free"}},
            chain="sha256:0",
            decided_at="2026-01-02T03:04:05.678Z",
        )
        == decision
    )
    (ask,) = responder.asks
    assert (b"a-1", "a-1", 10_000, topics.replies_topic, b"00-ab-cd-01") == (
        ask.record.key,
        ask.attempt_id,
        ask.timeout_ms,
        ask.reply_topic,
        ask.traceparent,
    )


async def test_denial_is_a_decision_not_an_error(topics):
    async with (
        Responder(topics, lambda ask: [reply(ask, denial=fixed_denial(Cause.TIMED_OUT))]),
        GateClient(settings=topics) as gate,
    ):
        decision = await gate.ask(EVENT, timeout_s=10)

    assert not decision.approved
    assert Cause.TIMED_OUT is decision.denial.cause


async def test_many_waiters_of_two_clients_on_one_topic_each_get_their_own_answer(topics):
    metrics = ClientMetrics()
    async with (
        Responder(topics, lambda ask: [reply(ask, plan=ask.attempt_id)]),
        GateClient(settings=topics, metrics=metrics) as one,
        GateClient(settings=topics) as two,
    ):
        asks = {f"{name}-{i}": gate for name, gate in (("one", one), ("two", two)) for i in range(300)}
        decisions = await asyncio.gather(*(gate.ask(EVENT, timeout_s=20, attempt_id=id_) for id_, gate in asks.items()))

    assert list(asks) == [decision.user_metadata["plan"] for decision in decisions]
    assert 0 == count(metrics, "unmatched_replies_total")
    assert 0 == count(metrics, "late_replies_total")


async def test_first_reply_wins_and_the_second_is_counted(topics, eventually):
    metrics = ClientMetrics()
    async with (
        Responder(topics, lambda ask: [reply(ask, plan="first"), reply(ask, plan="second")]),
        GateClient(settings=topics, metrics=metrics) as gate,
    ):
        decision = await gate.ask(EVENT, timeout_s=10)
        await eventually(lambda: 1 == count(metrics, "unmatched_replies_total"))

    assert "first" == decision.user_metadata["plan"]


async def test_late_reply_is_counted_and_asking_again_with_the_same_id_works(topics, eventually):
    metrics = ClientMetrics()
    async with Responder(topics, silent) as responder, GateClient(settings=topics, metrics=metrics) as gate:
        with pytest.raises(AskTimeout) as caught:
            await gate.ask(EVENT, timeout_s=0.3, attempt_id="a-1")
        await eventually(lambda: responder.asks)
        await responder.send(responder.asks[0], reply(responder.asks[0]))
        await eventually(lambda: 1 == count(metrics, "late_replies_total"))
        responder.answer = approve
        decision = await gate.ask(EVENT, timeout_s=10, attempt_id="a-1")

    assert "a-1" == caught.value.attempt_id
    assert decision.approved
    first, second = responder.asks
    assert first.attempt_id == second.attempt_id
    assert first.record.partition == second.record.partition
    assert first.correlation_id != second.correlation_id
    assert 1 == count(metrics, "ask_timeouts_total")


async def test_closing_fails_those_who_wait(topics, eventually):
    gate = GateClient(settings=topics)
    await gate.start()
    asks = [asyncio.create_task(gate.ask(EVENT, timeout_s=60)) for _ in range(20)]
    await eventually(lambda: 20 == gate.waiting)
    await gate.close()
    results = await asyncio.gather(*asks, return_exceptions=True)

    assert {ClientClosed: 20} == Counter(map(type, results))
    assert "closed, 0 waiting" in repr(gate)


async def test_unreachable_broker_is_named_after_the_stated_wait():
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1\b"):
        await GateClient("127.0.0.1:1", connect_timeout_s=0.5).start()


@pytest.mark.parametrize("missing", ["attempts_topic", "replies_topic"])
async def test_missing_topic_is_named_with_its_mend(topics, missing):
    with pytest.raises(ConfigError, match=r"no\.such\.topic does not exist.*gate topics create"):
        await GateClient(settings=topics.model_copy(update={missing: "no.such.topic"})).start()


async def test_replies_on_a_partition_that_is_added_later_arrive(topics, monkeypatch):
    monkeypatch.setattr(replies, "METADATA_MAX_AGE_MS", 200)
    async with Responder(topics, silent) as responder, GateClient(settings=topics) as gate:
        admin = AIOKafkaAdminClient(bootstrap_servers=topics.bootstrap_servers)
        await admin.start()
        await admin.create_partitions({topics.replies_topic: NewPartitions(total_count=6)})
        await admin.close()
        await responder.producer.client.force_metadata_update()

        def answer_on_the_last_partition(ask):
            asyncio.get_running_loop().create_task(responder.send(ask, reply(ask), partition=5))
            return []

        responder.answer = answer_on_the_last_partition
        decision = await gate.ask(EVENT, timeout_s=20)

    assert decision.approved


async def test_reader_that_breaks_goes_on_where_it_stood(topics, eventually):
    async with Responder(topics, silent) as responder, GateClient(settings=topics) as gate:
        early = asyncio.create_task(gate.ask(EVENT, timeout_s=30, attempt_id="early"))
        await eventually(lambda: 1 == len(responder.asks))
        reader = gate._reader
        await reader._consumers.client.stop()  # as when it is found stalled
        await responder.send(responder.asks[0], reply(responder.asks[0]))
        responder.answer = approve
        later = await gate.ask(EVENT, timeout_s=30, attempt_id="later")

        assert (await early).approved
        assert later.approved
        assert 1 == reader.restarts


async def test_reader_that_stands_still_without_an_error_is_found_out(topics, monkeypatch, eventually):
    monkeypatch.setattr(replies, "STALL_CHECK_S", 0.1)
    async with Responder(topics, approve), GateClient(settings=topics) as gate:
        assert (await gate.ask(EVENT, timeout_s=10)).approved
        gate._reader._consumers.client._fetcher._fetch_task.cancel()  # polls go on and return nothing, for ever

        assert (await gate.ask(EVENT, timeout_s=30)).approved
        assert 1 == gate._reader.restarts


async def test_sender_that_breaks_is_replaced_and_nobody_notices(topics, eventually):
    async with Responder(topics, approve), GateClient(settings=topics) as gate:
        assert (await gate.ask(EVENT, timeout_s=10)).approved
        gate._sender._producers.client._sender.sender_task.cancel()
        gate._sender._blame(gate._sender._producers.client, ConnectionError("as after a failed send"))

        assert (await gate.ask(EVENT, timeout_s=10)).approved
        assert 1 == gate._sender.restarts


async def test_asks_made_while_the_broker_is_away_are_answered_when_it_is_back(settings, eventually):
    with EmbeddedKafka() as broker:
        settings = settings.model_copy(update={"bootstrap_servers": broker.bootstrap})
        await create_topics(settings, broker.bootstrap, partitions=2, replication=1)
        async with GateClient(settings=settings) as gate:
            await asyncio.to_thread(broker.kill)
            asks = [asyncio.create_task(gate.ask(EVENT, timeout_s=60)) for _ in range(20)]
            await eventually(lambda: 20 == gate.waiting)
            await asyncio.to_thread(broker.start)
            async with Responder(settings, approve):
                decisions = await asyncio.gather(*asks)

    assert 20 == sum(decision.approved for decision in decisions)


async def test_fifty_clients_that_start_at_once_under_traffic_miss_no_answer(topics):
    async def start_and_ask(number):
        async with GateClient(settings=topics) as gate:
            decisions = await asyncio.gather(*(gate.ask(EVENT, timeout_s=60) for _ in range(3)))
        return [decision.status for decision in decisions]

    async with Responder(topics, approve):
        statuses = await asyncio.gather(*(start_and_ask(number) for number in range(50)))

    assert [[Status.APPROVED] * 3] * 50 == statuses


async def test_load_on_a_real_broker_loses_nothing(topics):
    deny = fixed_denial(Cause.OVERLOADED)

    def answer(ask):
        refused = b'"NA"' in ask.record.value
        return [reply(ask, denial=deny if refused else None)]

    async with Responder(topics, answer), GateClient(settings=topics) as gate:
        load = await run_load(gate, rate=100, duration_s=1, mix=0.25)

    assert load.complete
    assert (75, {"overloaded": 25}) == (load.approved, dict(load.denied))
