"""Receive attempts as one member of the workers' group; eager rebalances, explicit commits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from gate.errors import ConfigError
from gate.kafka.closing import stop_consumer
from gate.kafka.rights import forbidden
from gate.model.wire import Record

METADATA_MAX_AGE_MS: Final = 15_000
"""How soon a partition that was added is seen."""

_NONE = TopicPartition("__none__", 0)  # polling it returns nothing and counts as a poll (KAFKA.md section 4, 7)


class ConsumerTrouble(Exception):
    """The Kafka library raised; the message is its error's name and words."""


class UnreadableRecord(ConsumerTrouble):
    """The library cannot parse a record (a header's name is not UTF-8); it stands at or after the position."""


class ConsumerForbidden(ConsumerTrouble):
    """The broker answers, and refuses us; this lasts until somebody grants the right that the message names."""


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UnreadableRecord(str(error)) from error
    except TopicAuthorizationFailedError as error:
        raise ConsumerForbidden(forbidden("topic", _named(error), "Read")) from error
    except GroupAuthorizationFailedError as error:
        raise ConsumerForbidden(forbidden("group", _named(error), "Read")) from error
    except (KafkaError, OSError) as error:
        raise ConsumerTrouble(f"{type(error).__name__}: {error}") from error


def _named(error: KafkaError) -> str:
    """Return the names that an error of the library is about: it has one as text or several as a set."""
    names = error.args[0] if error.args else "of the attempts"
    return names if isinstance(names, str) else ", ".join(sorted(names))


class RebalanceListener(Protocol):
    """Who is told of rebalances, in this order; both may take as long as the rebalance timeout."""

    async def on_revoked(self) -> None:
        """All partitions are taken away, also those that come back with the next assignment."""

    async def on_assigned(self, partitions: Collection[int]) -> None:
        """These partitions are ours; their positions must be set with `seek` before records of them are used.

        What it raises is logged and lost.
        """


class AttemptsConsumer:
    """The attempts topic seen by one group member. Every method may raise ConsumerTrouble.

    `poll` returns without a step of the event loop between the moment its records are chosen and its caller's next line:
    whatever a rebalance changed before that moment, the caller sees.
    """

    def __init__(
        self, options: Mapping[str, Any], *, topic: str, group_id: str, session_timeout_ms: int, listener: RebalanceListener
    ) -> None:
        self._topic = topic
        self._group_id = group_id
        self._session_timeout_ms = session_timeout_ms
        self._listener = _Listener(listener)
        self._client = AIOKafkaConsumer(
            **options,
            group_id=group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=min(500, session_timeout_ms // 3),
            rebalance_timeout_ms=session_timeout_ms,
            fetch_max_wait_ms=50,
            max_partition_fetch_bytes=1024 * 1024,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            request_timeout_ms=max(30_000, 2 * session_timeout_ms),
        )

    async def start(self) -> None:
        """Connect and join the group; raise ConfigError where the broker does not let us."""
        with _mapped():
            try:
                self._client.subscribe([self._topic], listener=self._listener)
                await self._client.start()
            except InvalidSessionTimeoutError as error:
                await stop_consumer(self._client)
                raise ConfigError(
                    [
                        f"GATE_SESSION_TIMEOUT_MS={self._session_timeout_ms} is not what the broker allows; choose between its "
                        "group.min.session.timeout.ms (6000) and group.max.session.timeout.ms (1800000)"
                    ]
                ) from error
            except GroupAuthorizationFailedError as error:
                await stop_consumer(self._client)
                raise ConfigError([forbidden("group", self._group_id, "Read")]) from error
            except BaseException:
                await stop_consumer(self._client)
                raise

    async def stop(self) -> None:
        """Leave the group, where a broker answers; commit what you want to keep before. Never raises."""
        await stop_consumer(self._client)

    async def poll(self, partitions: Iterable[int], *, max_records: int, timeout_ms: int) -> dict[int, list[Record]]:
        """Return records of these partitions only, as many as `max_records`.

        Whoever cancels it must throw the consumer away (KAFKA.md section 4, 6).
        """
        tps = [TopicPartition(self._topic, number) for number in partitions] or [_NONE]
        with _mapped():
            batches = await self._client.getmany(*tps, timeout_ms=timeout_ms, max_records=max_records)
        return {tp.partition: records for tp, records in batches.items()}

    async def keep_alive(self) -> None:
        """Count as polling while there is no room for records."""
        with _mapped():
            await self._client.getmany(_NONE, timeout_ms=0)

    async def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return where to begin in each partition: the committed offset, else the first there is."""
        tps = [TopicPartition(self._topic, number) for number in partitions]
        with _mapped():
            found = {tp: await self._client.committed(tp) for tp in tps}
            fresh = [tp for tp, offset in found.items() if offset is None]
            first = await self._client.beginning_offsets(fresh) if fresh else {}
        return {tp.partition: first[tp] if offset is None else offset for tp, offset in found.items()}

    def seek(self, partition: int, offset: int) -> None:
        """Set where the next record of an assigned partition comes from."""
        with _mapped():
            self._client.seek(TopicPartition(self._topic, partition), offset)

    async def position(self, partition: int) -> int:
        """Return the offset of the next record of an assigned partition."""
        with _mapped():
            offset: int = await self._client.position(TopicPartition(self._topic, partition))
            return offset

    async def positions(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset of the next record of each partition that is assigned right now."""
        assigned = self._client.assignment()
        tps = [tp for number in partitions if (tp := TopicPartition(self._topic, number)) in assigned]
        with _mapped():
            return {tp.partition: await self._client.position(tp) for tp in tps}

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the high watermark of each partition."""
        with _mapped():
            ends = await self._client.end_offsets([TopicPartition(self._topic, number) for number in partitions])
        return {tp.partition: end for tp, end in ends.items()}

    def known_end(self, partition: int) -> int | None:
        """Return the high watermark as of the last fetch, None before the first."""
        tp = TopicPartition(self._topic, partition)
        return self._client.highwater(tp) if tp in self._client.assignment() else None

    async def commit(self, offsets: Mapping[int, int]) -> Collection[int]:
        """Commit the offsets of those partitions that are ours right now, and return these partitions."""
        assigned = self._client.assignment()
        ours = {tp: offset for number, offset in offsets.items() if (tp := TopicPartition(self._topic, number)) in assigned}
        if ours:
            with _mapped():
                await self._client.commit(ours)
        return [tp.partition for tp in ours]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka's class is untyped
    def __init__(self, listener: RebalanceListener) -> None:
        self._revoked: Callable[[], Awaitable[None]] = listener.on_revoked
        self._assigned: Callable[[Collection[int]], Awaitable[None]] = listener.on_assigned

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's signature
        await self._revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._assigned([tp.partition for tp in assigned])
