"""The proxy does what it says: nothing while it is well, and each fault as its clients would meet it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import RequestTimedOutError

from gate.config import Settings
from gate.kafka.topics import create_topics
from tests.conftest import fresh
from tests.integration.peers import read_all

from .proxy import Api, ProxiedKafka, Proxy

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker() -> Iterator[ProxiedKafka]:
    with ProxiedKafka() as broker:
        yield broker


@pytest.fixture
async def proxy(broker: ProxiedKafka) -> AsyncIterator[Proxy]:
    async with broker.proxy() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def direct(broker: ProxiedKafka) -> Settings:
    """Settings that go past the proxy."""
    settings = fresh(broker.bootstrap)
    asyncio.run(create_topics(settings, broker.bootstrap, partitions=1, replication=1))
    return settings


@contextlib.asynccontextmanager
async def producing(proxy: Proxy, **options: int) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=proxy.address, acks="all", retry_backoff_ms=20, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def found(settings: Settings, topic: str, value: bytes) -> int:
    return sum(record.value == value for record in await read_all(settings, topic))


async def test_everything_passes_untouched(proxy, direct):
    async with producing(proxy) as producer:
        values = [b"%d" % number * (1 + number * 100) for number in range(200)]
        await asyncio.gather(*[await producer.send(direct.replies_topic, value, partition=0) for value in values])
        through = direct.model_copy(update={"bootstrap_servers": proxy.address})

        assert values == [record.value for record in await read_all(through, direct.replies_topic)]

    assert (0, 0) == (proxy.counts["resets"], proxy.counts["lost"])
    assert 1 < proxy.counts["connections"]
    assert 0 < proxy.counts["answers"] <= proxy.counts["requests"]


async def test_lost_acknowledgement_of_one_topic_makes_the_client_write_again(proxy, direct):
    async with producing(proxy) as producer:
        loss = proxy.lose(topic=direct.attempts_topic, times=1)
        await producer.send_and_wait(direct.dlq_topic, b"lost", partition=0)
        await producer.send_and_wait(direct.attempts_topic, b"lost", partition=0)

    assert 1 == loss.lost == proxy.counts["lost"] == proxy.counts["resets"]
    assert [1, 2] == [await found(direct, topic, b"lost") for topic in (direct.dlq_topic, direct.attempts_topic)]


async def test_held_acknowledgement_leaves_the_client_in_doubt_of_what_is_written(proxy, direct):
    async with producing(proxy, request_timeout_ms=500) as producer:
        loss = proxy.lose(times=1, held=True)
        with pytest.raises(RequestTimedOutError):
            await producer.send_and_wait(direct.attempts_topic, b"held", partition=0)

    assert (1, 0) == (loss.lost, proxy.counts["resets"])
    assert 1 == await found(direct, direct.attempts_topic, b"held")


async def test_lost_answers_of_another_kind_leave_produce_requests_alone(proxy, direct):
    async with producing(proxy) as producer:
        loss = proxy.lose(Api.HEARTBEAT)
        await producer.send_and_wait(direct.dlq_topic, b"x", partition=0)

    assert 0 == loss.lost


async def test_latency_is_added_in_both_directions_and_keeps_the_order(proxy, direct):
    async with producing(proxy, max_batch_size=1) as producer:
        proxy.latency_s, proxy.jitter_s = 0.1, 0.05
        began = time.monotonic()
        await producer.send_and_wait(direct.decisions_topic, b"first", partition=0)

        assert 0.2 <= time.monotonic() - began

        await proxy.heal()
        await producer.send_and_wait(direct.decisions_topic, b"second", partition=0)

    assert [b"first", b"second"] == [record.value for record in await read_all(direct, direct.decisions_topic)]


async def test_latency_delays_and_does_not_throttle(proxy):
    proxy.latency_s = 0.2
    reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
    began = time.monotonic()
    for number in range(20):
        writer.write(api_versions(number))
    answers = [await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big")) for _ in range(20)]
    writer.close()

    assert list(range(20)) == [int.from_bytes(answer[:4], "big") for answer in answers]
    assert 0.4 <= time.monotonic() - began < 20 * 0.4


def api_versions(correlation_id: int) -> bytes:
    """Return a request with its size: ApiVersions v0, without a client id."""
    return bytes.fromhex(f"0000000a 0012 0000 {correlation_id:08x} ffff")


@pytest.mark.parametrize("how", ["reset_all", "resets"])
async def test_reset_is_rst_to_the_client(proxy, how):
    reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
    writer.write(api_versions(1))
    await reader.readexactly(4)

    if how == "reset_all":
        proxy.reset_all()
    else:
        proxy.resets = 1.0
        writer.write(api_versions(2))

    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    assert 1 == proxy.counts["resets"]
    writer.close()


async def test_black_hole_accepts_and_answers_when_it_is_over(proxy):
    proxy.blackhole()
    reader, writer = await asyncio.open_connection(*proxy.address.split(":"))
    writer.write(api_versions(7))
    answer = asyncio.create_task(reader.readexactly(8))
    done, _ = await asyncio.wait({answer}, timeout=0.3)
    assert not done

    await proxy.heal()

    assert 7 == int.from_bytes((await answer)[4:], "big")
    writer.close()


async def test_refused_connections_are_refused_and_those_that_stand_go_on(proxy, direct):
    async with producing(proxy) as producer:
        await producer.send_and_wait(direct.dlq_topic, b"before", partition=0)
        proxy.refuse()

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*proxy.address.split(":"))
        await producer.send_and_wait(direct.dlq_topic, b"refused", partition=0)
        await proxy.accept()

        async with producing(proxy) as other:
            await other.send_and_wait(direct.dlq_topic, b"after", partition=0)


async def test_client_that_leaves_leaves_nothing_behind(proxy, direct, eventually):
    async with producing(proxy) as producer:
        await producer.send_and_wait(direct.dlq_topic, b"x", partition=0)

    await eventually(lambda: "0 connections" in repr(proxy))


async def test_broker_that_is_away_resets_its_clients(proxy):
    absent = Proxy("127.0.0.1:1", port=proxy._port + 1)
    async with absent:
        reader, writer = await asyncio.open_connection(*absent.address.split(":"))

        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()
