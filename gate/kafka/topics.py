"""The four topics on the cluster: making the ones that are missing, reading how they are set."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.connection import REQUEST_TIMEOUT_MS, client_options, describe_topics, mapped_errors
from gate.kafka.granted import TOPIC_FORBIDDEN, missing_rights
from gate.kafka.promises import DAY_MS, HOUR_MS, OFFSETS_TOPIC, Finding, Topic, judge, ledger_retention_ms
from gate.kafka.rights import Role, forbidden
from gate.kafka.topic_list import TopicList

__all__ = ["Finding", "TopicList", "TopicMade", "check_topics", "create_topics", "time_stamps"]

ATTEMPTS_RETENTION_MS: Final = 7 * DAY_MS
REPLIES_RETENTION_MS: Final = HOUR_MS
DLQ_RETENTION_MS: Final = 30 * DAY_MS
SEGMENT_MS: Final = HOUR_MS  # segments that close late keep records long after their retention

NO_ERROR: Final = 0  # https://kafka.apache.org/protocol#protocol_error_codes
ALREADY_EXISTS: Final = 36
TRY_AGAIN: Final = frozenset({5, 7, 8, 41})  # no leader, timed out, broker not available, not the controller


@dataclass(frozen=True, kw_only=True)
class TopicMade:
    """A topic that `create_topics` has made."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]  # what was set; all else is as the cluster has it


@contextlib.asynccontextmanager
async def _admin(settings: Settings, bootstrap: str, doing: str) -> AsyncIterator[AIOKafkaAdminClient]:
    with mapped_errors(bootstrap, doing):
        admin = AIOKafkaAdminClient(**client_options(settings, bootstrap), request_timeout_ms=REQUEST_TIMEOUT_MS)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()


async def create_topics(
    settings: Settings, bootstrap: str, *, partitions: int, replication: int, attempts_retention_ms: int = ATTEMPTS_RETENTION_MS
) -> list[TopicMade]:
    """Make those of the four topics that are missing; return the ones made, once every partition of all four has a leader.

    What exists is left as it is (`check_topics` tells whether it is good). A missing half of the pair attempts and ledger
    is made with the partition count of the other, whatever `partitions` says. Raises ConfigError where the cluster
    refuses, KafkaUnavailable where it does not answer.
    """
    wanted = _wanted(settings, partitions=partitions, replication=replication, attempts_retention_ms=attempts_retention_ms)
    options = client_options(settings, bootstrap)
    if problems := await missing_rights(settings, options, Role.CREATOR, hidden_only=True):  # we would make them and never see it
        raise ConfigError(problems)
    made: list[TopicMade] = []
    deadline = time.monotonic() + settings.connect_timeout_s
    async with _admin(settings, bootstrap, "create topics") as admin:
        while unfinished := _unfinished(wanted, existing := await describe_topics(admin), settings):
            made += await _make(admin, unfinished)
            if time.monotonic() > deadline:
                names = ", ".join(topic.name for topic in unfinished)
                raise KafkaUnavailable(
                    f"Kafka at {bootstrap} has not made {names} within {settings.connect_timeout_s:g} s: run it again"
                )
            await asyncio.sleep(0.05)
    attempts, ledger = (len(existing[name]["partitions"]) for name in (settings.attempts_topic, settings.decisions_topic))
    if attempts != ledger:
        problem = f"{settings.attempts_topic} has {attempts} partitions and {settings.decisions_topic} has {ledger}"
        raise ConfigError([f"{problem}: delete one of them, or add partitions while no worker runs, so that both have as many"])
    return made


def _wanted(settings: Settings, *, partitions: int, replication: int, attempts_retention_ms: int) -> list[TopicMade]:
    durable = {
        "cleanup.policy": "delete",
        "min.insync.replicas": "2" if replication > 2 else "1",
        "unclean.leader.election.enable": "false",
        "segment.ms": str(SEGMENT_MS),
    }
    stamped = {**durable, "message.timestamp.type": "LogAppendTime"}
    ledger_ms = int(ledger_retention_ms(attempts_retention_ms, SEGMENT_MS, settings.window_ms))
    return [
        TopicMade(name=name, partitions=partitions, replication=replication, config={**config, "retention.ms": str(retention_ms)})
        for name, config, retention_ms in (
            (settings.attempts_topic, stamped, attempts_retention_ms),
            (settings.decisions_topic, stamped, ledger_ms),
            (settings.replies_topic, durable, REPLIES_RETENTION_MS),
            (settings.dlq_topic, {**durable, "segment.ms": str(DAY_MS)}, DLQ_RETENTION_MS),
        )
    ]


def _unfinished(wanted: Sequence[TopicMade], existing: Mapping[str, dict[str, Any]], settings: Settings) -> list[TopicMade]:
    """Return what is to be made next, or is made and has partitions without a leader yet.

    The attempts come alone and first: a topic that somebody made a moment ago may not be listed yet, and the ledger needs to
    know how many partitions they really have.
    """
    pair = (settings.attempts_topic, settings.decisions_topic)
    twin = next((len(existing[name]["partitions"]) for name in pair if name in existing), None)
    unfinished = [
        replace(topic, partitions=twin) if twin and topic.name in pair else topic
        for topic in wanted
        if topic.name not in existing or any(partition["leader"] < 0 for partition in existing[topic.name]["partitions"])
    ]
    return unfinished[:1] if unfinished and unfinished[0].name == settings.attempts_topic else unfinished


async def _make(admin: AIOKafkaAdminClient, topics: Sequence[TopicMade]) -> list[TopicMade]:
    """Ask for the topics once; return those that were made by this."""
    requests = [NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.config)) for topic in topics]
    response = await admin.create_topics(requests)
    answers = {name: (code, message) for name, code, message in response.topic_errors}
    problems = [
        forbidden("topic", name, "Create")
        if code == TOPIC_FORBIDDEN
        else f"topic {name} could not be made with {topics[0].replication} replicas: {message or f'Kafka error {code}'}"
        for name, (code, message) in answers.items()
        if code not in {NO_ERROR, ALREADY_EXISTS, *TRY_AGAIN}
    ]
    if problems:
        raise ConfigError(problems)
    return [topic for topic in topics if answers[topic.name][0] == NO_ERROR]


async def time_stamps(settings: Settings, bootstrap: str) -> dict[str, str | None]:
    """Return `message.timestamp.type` of the attempts topic and the ledger, None where we may not read it."""
    names = (settings.attempts_topic, settings.decisions_topic)
    async with _admin(settings, bootstrap, "describe topics") as admin:
        configs = await _configs(admin, names)
    return {name: configs.get(name, {}).get("message.timestamp.type") for name in names}


async def check_topics(settings: Settings, bootstrap: str) -> list[Finding]:
    """Return every setting of the four topics that weakens a promise; none means that all promises hold."""
    names = (settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic)
    async with _admin(settings, bootstrap, "describe topics") as admin:
        described = await describe_topics(admin)
        existing = [name for name in (*names, OFFSETS_TOPIC) if name in described]
        configs = await _configs(admin, [name for name in existing if name != OFFSETS_TOPIC])
    topics = {
        name: Topic(
            name=name,
            partitions=len(described[name]["partitions"]),
            replication=min((len(partition["replicas"]) for partition in described[name]["partitions"]), default=0),
            config=configs.get(name),
        )
        for name in existing
    }
    if problems := await missing_rights(settings, client_options(settings, bootstrap), Role.CHECKER, hidden_only=True):
        raise ConfigError(problems)
    return judge(settings, topics)


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the settings in force of each topic that lets us read them."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for response in await admin.describe_configs(resources)
        for code, _, _, name, entries in response.resources
        if code == NO_ERROR
    }
