"""Where a reply goes, and what is wrong with the address it was given (DESIGN.md section 2, what cannot be served as asked)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Protocol, Self

from gate.config import Settings
from gate.kafka.partitioner import partition_of
from gate.model.wire import Ask

_REFUSED_S: Final = 30.0  # as long as a list of topics may be old
_REFUSED_MAX: Final = 1024
_INTERNAL: Final = "__"
"""What the names of Kafka's own topics begin with (`__consumer_offsets`, `__transaction_state`, …)."""


class Reason(StrEnum):
    """Why an attempt became a dead letter."""

    INVALID_ATTEMPT = "invalid_attempt"
    REPLY_TOPIC_ILLEGAL = "reply_topic_illegal"  # not a legal topic name
    REPLY_TOPIC_NOT_ALLOWED = (
        "reply_topic_not_allowed"  # matches no pattern of GATE_REPLY_TOPICS, or is one of our own or Kafka's
    )
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
            if topic in self._forbidden or topic.startswith(_INTERNAL):
                return False
            return any(fnmatchcase(topic, pattern) for pattern in patterns)

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

    def topic_of(self, ask: Ask) -> str:
        """Return the name of the topic that a reply is meant for."""
        return self._default_topic if ask.reply_topic is None else ask.reply_topic

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


class Refreshed(Protocol):
    """A list of topics that is fetched again and again (`gate.kafka.topic_list.TopicList`)."""

    @property
    def next_refresh(self) -> int:
        """The number of the refresh that begins next."""

    async def refreshed(self, due: int) -> None:
        """Wait for the end of a refresh, by its number."""


class Unlisted:
    """Reply topics that are missing from the list of topics: they may be newer than it, so a name may wait for the next one.

    Only so many wait at once, and no name again right after it was missing from the next list, too: whoever makes names up
    slows nobody down.
    """

    def __init__(self, topics: Refreshed, *, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._topics = topics
        self._at_once = at_once
        self._clock = clock
        self._refused: OrderedDict[str, float] = OrderedDict()  # when a name was missing from a list that was waited for
        self.waiting = 0

    def admits(self, topic: str) -> bool:
        """Whether a reply to a topic may wait for the next list."""
        return self.waiting < self._at_once and self._clock() - self._refused.get(topic, float("-inf")) > _REFUSED_S

    def enter(self) -> int:
        """Begin to wait, right after the topic was missed; returns what to `leave` with."""
        self.waiting += 1
        return self._topics.next_refresh

    async def leave(self, due: int) -> None:
        """Wait for the list, and let others wait."""
        try:
            await self._topics.refreshed(due)
        finally:
            self.waiting -= 1

    def refuse(self, topic: str) -> None:
        """Note that a topic was missing from that one, too."""
        self._refused[topic] = self._clock()
        self._refused.move_to_end(topic)
        if len(self._refused) > _REFUSED_MAX:
            self._refused.popitem(last=False)
