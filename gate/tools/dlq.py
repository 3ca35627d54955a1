"""Find dead letters, and say what each reason means: what `gate dlq list` and `gate dlq show` print."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from gate.config import Settings
from gate.errors import ConfigError
from gate.kafka.reading import TopicReader
from gate.model.dead_letter import DeadLetter, Place, iso, read_dead_letter
from gate.model.wire import Record, read_ask
from gate.worker.partitions import CLOCK_ALLOWANCE_MS
from gate.worker.replies import Reason


class Meaning(NamedTuple):
    """What a reason says to the one who runs the gate."""

    what: str  # went wrong
    mend: str  # and then redrive


MEANINGS: Final = {
    Reason.INVALID_ATTEMPT: Meaning(
        "its value is not an event that can be read, or is larger than GATE_MAX_EVENT_BYTES",
        "mend the asker, or raise GATE_MAX_EVENT_BYTES of the workers",
    ),
    Reason.REPLY_TOPIC_ILLEGAL: Meaning(
        "the reply topic that it names is not a legal topic name, so nobody was told the decision",
        "mend the asker's header kafka_replyTopic or REPLY_TOPIC and let it ask again; this one has no address",
    ),
    Reason.REPLY_TOPIC_NOT_ALLOWED: Meaning(
        "the reply topic that it names matches no pattern of GATE_REPLY_TOPICS, or is the gate's or Kafka's own: nobody was told",
        "add the topic to GATE_REPLY_TOPICS, here and at the workers; the gate's and Kafka's own are never written to",
    ),
    Reason.REPLY_TOPIC_UNKNOWN: Meaning(
        "the reply topic that it names does not exist, so nobody was told the decision",
        "make the topic (workers see it within 30 s)",
    ),
    Reason.REPLY_PARTITION_INVALID: Meaning(
        "the reply partition that it names is not four bytes, negative, or one that the topic does not have, so the reply went "
        "to the partition of its key",
        "mend the asker's header kafka_replyPartition or REPLY_PARTITION, or add partitions to the topic",
    ),
    Reason.REPLY_REJECTED: Meaning(
        "the reply is larger than its topic takes, so nobody was told the decision",
        "raise max.message.bytes of the reply topic",
    ),
    Reason.REPLY_FORBIDDEN: Meaning(
        "Kafka does not let the gate write to the reply topic, so nobody was told the decision",
        "grant the gate WRITE on the topic",
    ),
    Reason.REPLY_UNKNOWN: Meaning(
        "Kafka did not acknowledge the reply for 30 s while it took others; it may have arrived or not",
        "see that every partition of the reply topic has a leader and enough replicas in sync",
    ),
}
_OF_ANOTHER_VERSION: Final = Meaning("the gate of this version knows no such reason", "ask the version that wrote it")

STRANGER: Final = "not a dead letter of the gate"


def meaning_of(reason: str) -> Meaning:
    """Return what a reason means; another version may have written it."""
    return MEANINGS[Reason(reason)] if reason in MEANINGS else _OF_ANOTHER_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A record of the dead letter topic."""

    place: Place
    at: str
    at_ms: int
    size_bytes: int  # of its value
    letter: DeadLetter | None  # None: somebody else wrote it
    attempt_id: str | None

    def to_json(self) -> dict[str, Any]:
        """Return what `list` tells: no value."""
        document: dict[str, Any] = {"place": str(self.place), "at": self.at, "size_bytes": self.size_bytes}
        letter = self.letter
        if letter is None:
            return {**document, "problem": STRANGER}
        document |= {"reason": letter.reason, "attempt_id": self.attempt_id, "source": letter.source}
        if letter.truncated_bytes is not None:
            document["truncated_bytes"] = letter.truncated_bytes
        return document


def found_in(record: Record, settings: Settings) -> Found:
    """Read a record of the dead letter topic."""
    letter = read_dead_letter(record)
    attempt_id = None
    if letter is not None:
        attempt = letter.attempt(timestamp=letter.at_ms, value=letter.value)
        attempt_id = read_ask(
            attempt, default_timeout_ms=settings.default_timeout_ms, max_timeout_ms=settings.max_timeout_ms
        ).attempt_id
    return Found(
        place=Place(record.partition, record.offset),
        at=iso(record.timestamp) if letter is None else letter.at,
        at_ms=record.timestamp if letter is None else letter.at_ms,
        size_bytes=len(record.value or b""),
        letter=letter,
        attempt_id=attempt_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records of the dead letter topic; what is empty selects nothing away."""

    reasons: Collection[str] = ()
    attempt_ids: Collection[str] = ()
    since_ms: int | None = None

    def has(self, found: Found) -> bool:
        """Tell whether a record is among them."""
        if self.since_ms is not None and found.at_ms < self.since_ms:
            return False
        if self.reasons and (found.letter is None or found.letter.reason not in self.reasons):
            return False
        return not self.attempt_ids or found.attempt_id in self.attempt_ids


Bounds = Mapping[int, tuple[int, int]]
"""By partition, its first offset and its end."""


class DeadLetters:
    """The dead letter topic, read as a stream. Every method may raise KafkaUnavailable."""

    def __init__(self, settings: Settings, reader: TopicReader, counts: Mapping[str, int]) -> None:
        self._settings = settings
        self._reader = reader
        self._topic = settings.dlq_topic
        self._partitions = counts.get(self._topic, 0)
        if not self._partitions:
            raise ConfigError(
                [
                    f"topic {self._topic} does not exist: make it with `gate topics create`, or set GATE_DLQ_TOPIC; "
                    "where it does exist, grant DESCRIBE and READ on it"
                ]
            )

    async def bounds(self) -> Bounds:
        """Return what is there now."""
        return {number: await self._reader.bounds(self._topic, number) for number in range(self._partitions)}

    async def at(self, place: Place) -> Found | None:
        """Return the record at a place; None where there is none, or none any more."""
        if place.partition >= self._partitions:
            return None
        records = await self._reader.records_at(self._topic, place.partition, [place.offset])
        return next((found_in(record, self._settings) for record in records.values()), None)

    async def find(self, selection: Selection, bounds: Bounds) -> AsyncIterator[Found]:
        """Yield what is selected, partition by partition in order."""
        for number, (first, end) in bounds.items():
            start = first
            if selection.since_ms is not None:
                start = max(first, await self._reader.offset_at(self._topic, number, selection.since_ms - 2 * CLOCK_ALLOWANCE_MS))
            async for record in self._reader.scan(self._topic, number, start, end):
                found = found_in(record, self._settings)
                if selection.has(found):
                    yield found


@dataclass(slots=True)
class Listing:
    """The newest of what is selected, and how many there are."""

    limit: int | None
    reasons: Counter[str] = field(default_factory=Counter)
    strangers: int = 0
    _newest: list[tuple[int, Place, Found]] = field(default_factory=list)  # a heap where there is a limit

    @property
    def rows(self) -> list[Found]:
        """The newest last."""
        return [found for _, _, found in sorted(self._newest, key=lambda row: row[:2])]

    @property
    def total(self) -> int:
        """How many are selected, shown or not."""
        return self.reasons.total() + self.strangers

    def add(self, found: Found) -> None:
        """Take in one more."""
        if found.letter is None:
            self.strangers += 1
        else:
            self.reasons[found.letter.reason] += 1
        row = (found.at_ms, found.place, _without_content(found))
        if self.limit is None or len(self._newest) < self.limit:
            heapq.heappush(self._newest, row)
        elif self._newest:
            heapq.heappushpop(self._newest, row)


def _without_content(found: Found) -> Found:
    """Return it without its value and headers, which a list needs no memory for."""
    return found if found.letter is None else replace(found, letter=replace(found.letter, key=None, value=None, headers=[]))
