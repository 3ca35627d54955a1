"""A cluster of three brokers goes on without one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gate.config import Settings
from gate.kafka.topics import create_topics
from tests.conftest import Eventually, fresh
from tests.integration.peers import read_all

from .cluster import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(3) as cluster:
        yield cluster


@pytest.fixture
async def topics(cluster: Cluster) -> Settings:
    settings = fresh(cluster.bootstrap)
    await create_topics(settings, cluster.bootstrap, partitions=3, replication=3)
    return settings


async def settled(cluster: Cluster, *, without: int | None = None, topic: str = "", group: str = "") -> tuple[int, int]:
    """Return leader and coordinator once there are some, on other nodes than `without`."""
    try:
        leader, coordinator = await cluster.leader_of(topic, 0), await cluster.coordinator_of(group)
    except KafkaError as error:
        raise AssertionError(str(error)) from error
    assert without not in (leader, coordinator)
    assert leader > 0
    return leader, coordinator


async def test_killed_leader_moves_loses_nothing_and_comes_back_in_sync(
    cluster: Cluster, topics: Settings, eventually: Eventually
):
    topic, group = topics.decisions_topic, topics.group_id
    leader, _ = await eventually(lambda: settled(cluster, topic=topic, group=group), within_s=30)
    async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, b"before", partition=0)

        await asyncio.to_thread(cluster.kill, leader)
        await producer.send_and_wait(topic, b"without", partition=0)

        moved, _ = await eventually(lambda: settled(cluster, without=leader, topic=topic, group=group), within_s=30)
        assert moved != leader
        await asyncio.to_thread(cluster.start, leader)
        await eventually(cluster.in_sync, within_s=60)
        await asyncio.to_thread(cluster.kill, moved)
        await producer.send_and_wait(topic, b"another gone", partition=0)

    assert [b"before", b"without", b"another gone"] == [record.value for record in await read_all(topics, topic)]
    await asyncio.to_thread(cluster.start, moved)
    await eventually(cluster.in_sync, within_s=60)


async def test_killed_coordinator_moves(cluster: Cluster, topics: Settings, eventually: Eventually):
    topic, group = topics.decisions_topic, topics.group_id
    _, coordinator = await eventually(lambda: settled(cluster, topic=topic, group=group), within_s=30)

    await asyncio.to_thread(cluster.kill, coordinator)

    _, moved = await eventually(lambda: settled(cluster, without=coordinator, topic=topic, group=group), within_s=30)
    assert moved != coordinator
    await asyncio.to_thread(cluster.start, coordinator)
