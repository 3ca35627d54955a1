"""Topics on the real broker: made once, as the promises need them, and judged as they are."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.connection import wait_for_kafka
from gate.kafka.promises import OFFSETS_TOPIC
from gate.kafka.topics import TopicList, check_topics, create_topics

pytestmark = pytest.mark.kafka

UNREACHABLE = "127.0.0.1:1"


@pytest.fixture
async def admin(kafka):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    yield admin
    await admin.close()


def names(settings: Settings) -> list[str]:
    return [settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic]


async def partitions(admin: AIOKafkaAdminClient, name: str) -> int:
    return len((await admin.describe_topics([name]))[0]["partitions"])


async def test_a_broker_that_answers_ends_the_wait(kafka, settings):
    await wait_for_kafka(settings, kafka.bootstrap)


async def test_topics_are_made_once_and_then_left_alone(kafka, settings, admin):
    made = await create_topics(settings, kafka.bootstrap, partitions=3, replication=1)
    again = await create_topics(settings, kafka.bootstrap, partitions=5, replication=1)

    assert names(settings) == [topic.name for topic in made]
    assert [] == again
    assert [3, 3, 3, 3] == [await partitions(admin, name) for name in names(settings)]


async def test_two_who_make_the_topics_at_once_make_each_of_them_once(kafka, settings):
    both = await asyncio.gather(*(create_topics(settings, kafka.bootstrap, partitions=2, replication=1) for _ in range(2)))

    assert sorted(names(settings)) == sorted(topic.name for made in both for topic in made)


@pytest.mark.parametrize("first", ["attempts_topic", "decisions_topic"])
async def test_the_missing_half_of_the_pair_gets_as_many_partitions_as_the_other(kafka, settings, admin, first, eventually):
    name = getattr(settings, first)
    await admin.create_topics([NewTopic(name, 7, 1)])
    await eventually(lambda: partitions(admin, name))

    await create_topics(settings, kafka.bootstrap, partitions=2, replication=1)

    assert [7, 7, 2, 2] == [await partitions(admin, name) for name in names(settings)]


async def test_attempts_made_a_moment_ago_are_not_overlooked(kafka, settings, admin):
    await admin.create_topics([NewTopic(settings.attempts_topic, 7, 1)])

    await create_topics(settings, kafka.bootstrap, partitions=2, replication=1)

    assert [7, 7] == [await partitions(admin, name) for name in names(settings)[:2]]


async def test_a_pair_that_does_not_match_is_refused(kafka, settings, admin, eventually):
    for name, count in ((settings.attempts_topic, 2), (settings.decisions_topic, 3)):
        await admin.create_topics([NewTopic(name, count, 1)])
        await eventually(lambda name=name: partitions(admin, name))

    with pytest.raises(ConfigError, match=r"attempts has 2 partitions and .*decisions has 3: delete one of them"):
        await create_topics(settings, kafka.bootstrap, partitions=2, replication=1)


async def test_all_partitions_have_a_leader_when_creation_returns(kafka, settings):
    await create_topics(settings, kafka.bootstrap, partitions=16, replication=1)

    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", request_timeout_ms=2000) as producer:
        sent = [await producer.send(settings.decisions_topic, b"", partition=partition) for partition in range(16)]
        assert [0] * 16 == [(await future).offset for future in sent]


async def test_attempts_and_decisions_carry_the_brokers_time(kafka, topics):
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all") as producer:
        for topic in (topics.attempts_topic, topics.decisions_topic):
            await producer.send_and_wait(topic, b"", partition=0, timestamp_ms=1)
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0) for topic in (topics.attempts_topic, topics.decisions_topic)])
        records = [await consumer.getone() for _ in range(2)]

    assert [1, 1] == [record.timestamp_type for record in records]
    assert all(record.timestamp > 1_600_000_000_000 for record in records)


async def test_more_replicas_than_brokers_is_refused_with_kafkas_reason(kafka, settings):
    with pytest.raises(ConfigError, match=r"could not be made with 3 replicas: .*only 1 broker"):
        await create_topics(settings, kafka.bootstrap, partitions=2, replication=3)


async def test_on_one_broker_our_own_topics_lack_nothing_but_replicas(kafka, topics):
    findings = await check_topics(topics, kafka.bootstrap)

    attempts, decisions, replies, dlq = names(topics)
    assert [
        (attempts, "replication"),
        (attempts, "min.insync.replicas"),
        (decisions, "replication"),
        (decisions, "min.insync.replicas"),
        (replies, "replication"),
        (dlq, "replication"),
    ] == [
        (finding.topic, finding.setting) for finding in findings if finding.topic != OFFSETS_TOPIC
    ]  # there once somebody joined


async def test_topics_that_somebody_made_with_kafkas_defaults_are_found_wanting(kafka, settings, admin, eventually):
    await admin.create_topics(
        [
            NewTopic(settings.attempts_topic, 2, 1),
            NewTopic(settings.decisions_topic, 3, 1, topic_configs={"cleanup.policy": "compact", "retention.bytes": "1000"}),
        ]
    )
    await eventually(lambda: partitions(admin, settings.decisions_topic))

    found = {(finding.topic, finding.setting) for finding in await check_topics(settings, kafka.bootstrap)}

    attempts, decisions, replies, dlq = names(settings)
    assert {
        (attempts, "message.timestamp.type"),
        (decisions, "message.timestamp.type"),
        (decisions, "partitions"),
        (decisions, "cleanup.policy"),
        (decisions, "retention.bytes"),
        (decisions, "retention.ms"),
        (replies, "topic"),
        (dlq, "topic"),
    } <= found


async def test_looking_a_name_up_never_makes_the_topic(kafka, settings, topics):
    listed = TopicList(settings, kafka.bootstrap)
    await listed.start()
    try:
        assert 4 == listed.partitions(topics.replies_topic)
        assert await listed.find("never.made") is None
        assert await listed.find("never.made") is None
    finally:
        await listed.stop()
    again = TopicList(settings, kafka.bootstrap)
    await again.start()
    await again.stop()
    assert again.partitions("never.made") is None


async def test_kafka_away_is_one_error_that_names_the_address(settings):
    for doing in (
        create_topics(settings, UNREACHABLE, partitions=1, replication=1),
        check_topics(settings, UNREACHABLE),
        TopicList(settings, UNREACHABLE).start(),
    ):
        with pytest.raises(KafkaUnavailable, match=r"^Kafka at 127\.0\.0\.1:1 did not let us"):
            await doing
