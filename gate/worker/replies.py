"""Where a reply goes, and what is wrong with the address it was given (DESIGN.md section 2, what cannot be served as asked)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Self

from gate.config import Settings
from gate.kafka.partitioner import partition_of
from gate.model.wire import Ask


class Reason(StrEnum):
    """Why an attempt became a dead letter."""

    INVALID_ATTEMPT = "invalid_attempt"
    REPLY_TOPIC_ILLEGAL = "reply_topic_illegal"  # not a legal topic name
    REPLY_TOPIC_NOT_ALLOWED = "reply_topic_not_allowed"  # matches no pattern of GATE_REPLY_TOPICS, or is one of our own
    REPLY_TOPIC_UNKNOWN = "reply_topic_unknown"  # the broker has no such topic
    REPLY_PARTITION_INVALID = "reply_partition_invalid"  # not four bytes, negative or out of range
    REPLY_REJECTED = "reply_rejected"  # too large for its topic
    REPLY_FORBIDDEN = "reply_forbidden"  # we may not write to its topic
    REPLY_UNKNOWN = "reply_unknown"  # given up after 30 s without an acknowledgement


@dataclass(frozen=True, slots=True)
class Address:
    """Where a reply goes; nowhere if `topic` is None. `fault` makes the attempt a dead letter."""

    topic: str | None
    partition: int
    fault: Reason | None


class AddressBook:
    """Finds the address of a reply without ever naming an unknown topic to the broker."""

    def __init__(
        self,
        *,
        default_topic: str,
        patterns: Sequence[str],
        forbidden: Collection[str],
        partitions: Callable[[str], int | None],
    ) -> None:
        self._default_topic = default_topic
        self._forbidden = frozenset(forbidden)
        self._partitions = partitions

        @lru_cache(maxsize=1024)
        def allowed(topic: str) -> bool:
            return topic not in self._forbidden and any(fnmatchcase(topic, pattern) for pattern in patterns)

        self._allowed = allowed

    @classmethod
    def from_settings(cls, settings: Settings, partitions: Callable[[str], int | None]) -> Self:
        """Return the addresses that these settings allow."""
        return cls(
            default_topic=settings.replies_topic,
            patterns=settings.reply_topics,
            forbidden=(settings.attempts_topic, settings.decisions_topic, settings.dlq_topic),
            partitions=partitions,
        )

    def find(self, ask: Ask) -> Address:
        """Return where the reply to an ask goes."""
        topic = ask.reply_topic
        if topic is None:
            topic = self._default_topic
        elif not topic:
            return Address(None, 0, Reason.REPLY_TOPIC_ILLEGAL)
        elif topic != self._default_topic and not self._allowed(topic):
            return Address(None, 0, Reason.REPLY_TOPIC_NOT_ALLOWED)
        count = self._partitions(topic)
        if not count:
            return Address(None, 0, Reason.REPLY_TOPIC_UNKNOWN)
        partition = ask.reply_partition
        if partition is not None and 0 <= partition < count:
            return Address(topic, partition, None)
        by_key = partition_of(ask.record.key or ask.attempt_id.encode(), count)
        return Address(topic, by_key, None if partition is None else Reason.REPLY_PARTITION_INVALID)
