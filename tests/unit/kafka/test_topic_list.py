"""Unknown names are looked up in a cached list, and never make the cluster busy."""

from __future__ import annotations

import asyncio

import pytest

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.topic_list import TopicList


class Cluster:
    """What would be fetched."""

    def __init__(self) -> None:
        self.topics: dict[str, int] = {"replies": 2}
        self.fetched = 0
        self.away = False
        self.now = 100.0

    async def __call__(self) -> dict[str, int]:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.away:
            raise KafkaUnavailable("away")
        return dict(self.topics)

    async def close(self) -> None:
        pass


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def topic_list(cluster):
    topics = TopicList(Settings(), "nowhere:1", clock=lambda: cluster.now, fetch=cluster)
    await topics.start()
    yield topics
    await topics.stop()


async def test_known_names_cost_nothing(cluster, topic_list):
    assert [2] * 100 == [topic_list.partitions("replies") for _ in range(100)]
    assert 2 == await topic_list.find("replies")
    assert 1 == cluster.fetched


async def test_a_topic_made_after_the_last_refresh_is_found(cluster, topic_list):
    cluster.topics["new"] = 3

    assert 3 == await topic_list.find("new")
    assert 3 == topic_list.partitions("new")


async def test_any_number_of_unknown_names_leads_to_one_refresh_in_30_s(cluster, topic_list):
    for number in range(100):
        assert await topic_list.find(f"unknown-{number}") is None
        assert topic_list.partitions(f"other-{number}") is None
    assert 2 == cluster.fetched

    cluster.now += 30
    assert await topic_list.find("unknown") is None
    assert 3 == cluster.fetched


async def test_all_who_miss_at_once_wait_for_the_same_refresh(cluster, topic_list):
    cluster.topics["new"] = 3

    assert [3] * 10 == await asyncio.gather(*(topic_list.find("new") for _ in range(10)))
    assert 2 == cluster.fetched


async def test_a_partition_above_the_known_ones_may_be_new(cluster, topic_list):
    cluster.topics["replies"] = 5

    assert 2 == topic_list.partitions("replies", at_least=2)
    assert 5 == await topic_list.find("replies", at_least=5)


async def test_a_partition_that_really_is_not_there_gives_the_count_that_is(topic_list):
    assert 2 == await topic_list.find("replies", at_least=9)


async def test_a_miss_at_once_is_none_and_refreshes_behind(cluster, topic_list, eventually):
    cluster.topics["new"] = 3

    assert topic_list.partitions("new") is None
    await eventually(lambda: topic_list.partitions("new") == 3)


async def test_while_kafka_is_away_the_last_list_holds_and_a_miss_proves_nothing(cluster, topic_list):
    cluster.away = True

    with pytest.raises(KafkaUnavailable):
        await topic_list.find("new")
    assert 2 == await topic_list.find("replies")
    assert "<TopicList 1 topics, stale>" == repr(topic_list)

    cluster.away = False
    cluster.topics["new"] = 3
    cluster.now += 30
    assert 3 == await topic_list.find("new")
    assert "<TopicList 2 topics>" == repr(topic_list)


async def test_the_list_is_fetched_anew_without_any_miss(cluster, eventually):
    topics = TopicList(Settings(), "nowhere:1", refresh_s=0.01, fetch=cluster)
    await topics.start()

    await eventually(lambda: cluster.fetched > 3)
    await topics.stop()


async def test_a_deleted_topic_is_unknown_after_the_next_refresh(cluster, topic_list):
    del cluster.topics["replies"]
    await topic_list.find("something else")

    assert topic_list.partitions("replies") is None


async def test_whoever_waits_for_a_newer_list_gets_one_that_began_afterwards_and_causes_no_other(cluster, eventually):
    topics = TopicList(Settings(), "nowhere:1", refresh_s=0.05, fetch=cluster)
    await topics.start()
    assert topics.partitions("new") is None  # the miss of this time
    await topics.refreshed(topics.next_refresh)
    fetched = cluster.fetched
    waiting = [asyncio.create_task(topics.refreshed(topics.next_refresh)) for _ in range(10)]
    await asyncio.sleep(0)
    cluster.topics["new"] = 3
    for task in waiting:
        await task

    assert 3 == topics.partitions("new")
    assert fetched + 1 == cluster.fetched
    await topics.stop()


async def test_list_stays_fresh_where_somebody_cancels_its_task(cluster, topic_list):
    next(task for task in asyncio.all_tasks() if task.get_name() == "topic list").cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    cluster.topics["new"] = 3

    assert 3 == await topic_list.find("new")


async def test_without_a_first_list_it_does_not_start(cluster):
    cluster.away = True
    topics = TopicList(Settings(), "nowhere:1", fetch=cluster)

    with pytest.raises(KafkaUnavailable):
        await topics.start()
