"""A backlog of attempts on fresh topics, and the replies to it."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2
from contestants import Stage

from gate.tools.load import load_events

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""Key, value and headers."""

PATIENCE_MS = b"120000"  # the longest there is: no attempt may expire while it waits, a denial without a chain is cheap


def make_attempts(count: int, mix: float) -> list[Record]:
    """Return attempts of as many people; the reply topic is added when they are written."""
    events = load_events(mix, "bench")
    attempts: list[Record] = []
    for _ in range(count):
        name = uuid.uuid4()
        key = str(name).encode()
        headers = [("kafka_correlationId", name.bytes), ("gate-attempt-id", key), ("gate-timeout-ms", PATIENCE_MS)]
        attempts.append((key, orjson.dumps(next(events)), headers))
    return attempts


@asynccontextmanager
async def fresh_stage(bootstrap: str, partitions: int) -> AsyncIterator[Stage]:
    """Make topics that nobody has used, and remove them in the end."""
    run = f"bench-{uuid.uuid4().hex[:8]}"
    stage = Stage(
        bootstrap=bootstrap,
        attempts=f"{run}.attempts",
        decisions=f"{run}.decisions",
        replies=f"{run}.replies",
        dlq=f"{run}.attempts.dlq",
        group=run,
    )
    topics = [stage.attempts, stage.decisions, stage.replies, stage.dlq]
    config = {"message.timestamp.type": "LogAppendTime"}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config) for name in topics])
        yield stage
        await admin.delete_topics(topics)
    finally:
        await admin.close()


async def write_backlog(stage: Stage, attempts: list[Record], partitions: int) -> None:
    """Append all attempts, each on the partition of its key, in large batches."""
    by_partition: dict[int, list[Record]] = defaultdict(list)
    for attempt in attempts:
        by_partition[(murmur2(attempt[0]) & 0x7FFFFFFF) % partitions].append(attempt)
    reply_topic = ("kafka_replyTopic", stage.replies.encode())
    producer = AIOKafkaProducer(bootstrap_servers=stage.bootstrap, acks="all", max_batch_size=256 * 1024)
    await producer.start()
    try:
        await producer.partitions_for(stage.attempts)
        for partition, records in by_partition.items():
            batch = producer.create_batch()
            for key, value, headers in records:
                extended = [*headers, reply_topic]
                if batch.append(key=key, value=value, timestamp=None, headers=extended) is None:
                    await producer.send_batch(batch, stage.attempts, partition=partition)
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None, headers=extended)
            await producer.send_batch(batch, stage.attempts, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()


@dataclass(kw_only=True)
class Replies:
    """What stood in the reply topic in the end."""

    first_ms: int
    last_ms: int
    statuses: Counter[str] = field(default_factory=Counter)
    asks: set[bytes] = field(default_factory=set)
    total: int = 0


class ReplyTopic:
    """Counts the replies while they come and reads them when they are all there. An async context manager."""

    def __init__(self, stage: Stage, partitions: int) -> None:
        self._parts = [TopicPartition(stage.replies, partition) for partition in range(partitions)]
        self._consumer = AIOKafkaConsumer(bootstrap_servers=stage.bootstrap, group_id=None, auto_offset_reset="earliest")

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def count(self) -> int:
        """Return how many replies there are; costs the broker next to nothing."""
        return sum((await self._consumer.end_offsets(self._parts)).values())

    async def read(self) -> Replies:
        """Read them all; the times are the broker's (LogAppendTime)."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(self._parts)
        missing = {tp: end for tp, end in ends.items() if end}
        replies = Replies(first_ms=2**62, last_ms=0)
        self._consumer.assign(list(missing))
        while missing:
            batches: dict[TopicPartition, Any] = await self._consumer.getmany(timeout_ms=1000)
            for tp, records in batches.items():
                for record in records:
                    headers = dict(record.headers)
                    replies.asks.add(headers["kafka_correlationId"])
                    replies.statuses[headers["gate-status"].decode()] += 1
                    replies.total += 1
                    replies.first_ms = min(replies.first_ms, record.timestamp)
                    replies.last_ms = max(replies.last_ms, record.timestamp)
                if records[-1].offset + 1 >= missing[tp]:
                    del missing[tp]
        return replies
