"""What a run left behind: the data that the checker reads, its collection after quiescence, and its file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from gate.config import Settings
from gate.model.wire import LEGAL_TOPIC, REPLY_TOPICS, STATUS

MEANING: Final = frozenset(
    {
        "attempts_topic",
        "decisions_topic",
        "replies_topic",
        "dlq_topic",
        "reply_topics",
        "group_id",
        "mode",
        "messages",
        "window_ms",
        "volatile_paths",
        "max_event_bytes",
        "default_timeout_ms",
        "max_timeout_ms",
        "max_in_flight",
        "session_timeout_ms",
    }
)
"""The settings that what stands in the topics depends on: only these are kept in a file."""


def _legible(value: bytes) -> object:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def _bytes(value: object) -> object:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    return value.encode() if isinstance(value, str) else value


Bytes = Annotated[bytes, BeforeValidator(_bytes), PlainSerializer(_legible)]
KeptSettings = Annotated[Settings, PlainSerializer(lambda settings: settings.model_dump(mode="json", include=set(MEANING)))]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


@dataclass(frozen=True, kw_only=True)
class Written:
    """One record of a topic; a `gate.model.wire.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms; LogAppendTime on attempts and ledger, elsewhere what the topic has
    key: Bytes | None
    value: Bytes | None
    headers: tuple[tuple[str, Bytes | None], ...]

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(topic=self.topic, partition=self.partition, offset=self.offset)

    def header(self, name: str) -> bytes | None:
        """Return a header; the last one counts."""
        return next((value for key, value in reversed(self.headers) if key == name), None)


class Outcome(StrEnum):
    """What an ask came to, as its asker knows it."""

    OK = "ok"  # a reply came in time
    FAILED = "failed"  # certainly never taken: the asker knows that nothing of it stands in the attempts topic
    UNKNOWN = "unknown"  # no reply in time, or the asker died; it may have been taken


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One ask in the history of a client."""

    attempt_id: str
    correlation_id: Bytes | None  # no other ask has it; None: it was asked without one
    outcome: Outcome
    sent_ms: int
    ended_ms: int
    written: Place | None = None  # where its attempt stands; None: not acknowledged
    completions: tuple[Place, ...] = ()  # the replies that its waiter was given, in order


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What the group had committed in one partition, and who was in the group, at one moment."""

    seen_ms: int  # after it was read
    partition: int
    offset: int | None  # None: nothing is committed
    members: tuple[str, ...] = ()  # member ids, sorted
    stable: bool = True  # the group was not in the middle of a rebalance


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """The gauge `in_flight` of one worker at one moment."""

    at_ms: int
    worker: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class SideEffect:
    """One execution of an action that writes down its executions."""

    at_ms: int
    worker: str
    action: str
    attempt_id: str


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A fault that took away what was in flight: a kill, a stop that lasts beyond the session, a lost partition."""

    at_ms: int
    worker: str
    how: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of one run, after quiescence: no worker has anything left to do, or the run says that it has."""

    settings: KeptSettings
    partitions: Mapping[str, tuple[int, ...]]  # by topic, how many it had during the run; of topics that existed
    ends: Mapping[int, int]  # of the attempts topic by partition: one above the last offset
    attempts: tuple[Written, ...]
    decisions: tuple[Written, ...]
    replies: tuple[Written, ...]  # of every topic that a reply may stand in
    dead_letters: tuple[Written, ...]
    commits: tuple[Commit, ...]  # in the order seen, the last one of each partition after quiescence
    asks: tuple[Asked, ...] = ()
    side_effects: tuple[SideEffect, ...] = ()
    crashes: tuple[Crash, ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    rebalances: tuple[int, ...] = ()  # ms; those that the run knows of although the members stayed the same
    mended: tuple[int, ...] = ()  # ms; when a fault was over that took nothing away but held answers up
    slack_ms: int = 1000  # how far beyond its deadline a decision may be made on a busy machine
    clocks_apart_ms: int = 5  # how far the clocks of brokers, workers and the one who samples are apart

    def committed(self, partition: int) -> int:
        """Return what was committed last; 0 where nothing is."""
        return next((commit.offset or 0 for commit in reversed(self.commits) if commit.partition == partition), 0)

    def but(self, **changes: Any) -> Evidence:
        """Return it with other content."""
        return replace(self, **changes)


_JSON: Final = TypeAdapter(Evidence)


def dump(evidence: Evidence, path: Path) -> None:
    """Write evidence to a file that people can read and `load` reads; settings that mean nothing to it are left out."""
    path.write_bytes(_JSON.dump_json(evidence, indent=1))


def load(path: Path) -> Evidence:
    """Read evidence from its file."""
    return _JSON.validate_json(path.read_bytes())


# -- Collecting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What must be noted while the run goes on, for it cannot be read afterwards."""

    commits: tuple[Commit, ...]
    asks: tuple[Asked, ...] = ()
    side_effects: tuple[SideEffect, ...] = ()
    crashes: tuple[Crash, ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    rebalances: tuple[int, ...] = ()
    mended: tuple[int, ...] = ()
    partitions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # that topics had before the last count


async def collect(settings: Settings, observed: Observed, *, slack_ms: int = 1000, clocks_apart_ms: int = 5) -> Evidence:
    """Read the four topics and every other one that a reply may stand in.

    To be called after quiescence, with the last commits among those observed. Raises ValueError where retention has taken
    records already: rule 1 is about the whole ledger.
    """
    counts, commits = await _cluster(settings)
    topics = {topic: await _read(settings, topic, counts[topic]) for topic in _ours(settings)}
    attempts, ends = topics[settings.attempts_topic]
    replies = list(topics[settings.replies_topic][0])
    for topic in _others(settings, counts, attempts):
        records, _ = await _read(settings, topic, counts[topic])
        replies += [record for record in records if record.header(STATUS) is not None]
    return Evidence(
        settings=settings,
        partitions={topic: (*observed.partitions.get(topic, ()), count) for topic, count in counts.items()},
        ends=ends,
        attempts=attempts,
        decisions=topics[settings.decisions_topic][0],
        replies=tuple(replies),
        dead_letters=topics[settings.dlq_topic][0],
        commits=observed.commits + commits,
        asks=observed.asks,
        side_effects=observed.side_effects,
        crashes=observed.crashes,
        in_flight=observed.in_flight,
        rebalances=observed.rebalances,
        mended=observed.mended,
        slack_ms=slack_ms,
        clocks_apart_ms=clocks_apart_ms,
    )


def _ours(settings: Settings) -> tuple[str, ...]:
    return settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic


def _others(settings: Settings, existing: Iterable[str], attempts: Iterable[Written]) -> list[str]:
    """Return the topics besides ours that a reply may have gone to: those that askers may name, and those that they did."""
    named = {
        value.decode()
        for record in attempts
        for name, value in record.headers
        if name in REPLY_TOPICS and value and LEGAL_TOPIC.fullmatch(value.decode(errors="replace"))
    }
    return [
        topic
        for topic in sorted(set(existing) - set(_ours(settings)))
        if topic in named or any(fnmatchcase(topic, pattern) for pattern in settings.reply_topics)
    ]


async def sample(admin: AIOKafkaAdminClient, settings: Settings) -> list[Commit]:
    """Return what is committed in each partition that has a commit, and who is in the group.

    Raises what the admin client raises.
    """
    (answer,) = await admin.describe_consumer_groups([settings.group_id])
    ((_, _, state, _, _, members),) = (tuple(group)[:6] for group in answer.groups)
    found = await admin.list_consumer_group_offsets(settings.group_id)
    seen_ms = int(time.time() * 1000)
    return [
        Commit(
            seen_ms=seen_ms,
            partition=tp.partition,
            offset=None if at.offset < 0 else at.offset,
            members=tuple(sorted(str(member[0]) for member in members)),
            stable=state in {"Stable", "Empty", "Dead"},
        )
        for tp, at in sorted(found.items())
        if tp.topic == settings.attempts_topic
    ]


async def _cluster(settings: Settings) -> tuple[dict[str, int], tuple[Commit, ...]]:
    """Return the number of partitions of every topic, and the commits as they are now."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        topics = {str(topic["topic"]): len(topic["partitions"]) for topic in await admin.describe_topics()}
        return {name: count for name, count in topics.items() if not name.startswith("__")}, tuple(await sample(admin, settings))
    finally:
        await admin.close()


async def _read(settings: Settings, topic: str, count: int) -> tuple[tuple[Written, ...], dict[int, int]]:
    """Return every record of a topic, partition by partition in order, and where each partition ends."""
    tps = [TopicPartition(topic, number) for number in range(count)]
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest", fetch_max_wait_ms=20)
    await consumer.start()
    try:
        consumer.assign(tps)
        starts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        if any(starts.values()):
            raise ValueError(f"retention has taken records of {topic} already: nothing can be said about the rest of them")
        found: list[Written] = []
        for tp in tps:
            while await consumer.position(tp) < ends[tp]:
                found += map(_written, await _some(consumer, tp))
        return tuple(found), {tp.partition: end for tp, end in ends.items()}
    finally:
        await consumer.stop()


async def _some(consumer: AIOKafkaConsumer, tp: TopicPartition) -> list[ConsumerRecord]:
    """Return the next records; one that aiokafka cannot parse is stepped over, as the worker does."""
    at = await consumer.position(tp)
    try:
        return list((await consumer.getmany(tp, timeout_ms=200)).get(tp, []))
    except UnicodeDecodeError:
        consumer.seek(tp, at)
    try:
        return list((await consumer.getmany(tp, timeout_ms=200, max_records=1)).get(tp, []))
    except UnicodeDecodeError:
        consumer.seek(tp, at + 1)
        return []


def _written(record: ConsumerRecord) -> Written:
    return Written(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )
