"""The four topics: made as the promises need them."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gate.config import Settings
from gate.kafka.connection import client_options


async def create_topics(settings: Settings, bootstrap: str, *, partitions: int, replication: int) -> list[str]:
    admin = AIOKafkaAdminClient(**client_options(settings, bootstrap))
    await admin.start()
    try:
        names = [settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic]
        log_append = {"message.timestamp.type": "LogAppendTime"}
        await admin.create_topics(
            [NewTopic(n, partitions, replication, topic_configs=log_append if i < 2 else {}) for i, n in enumerate(names)]
        )
        return names
    finally:
        await admin.close()
