"""Read every reply on a topic from now on, without a consumer group.

A group would move a partition, and the replies on it, away from the one who waits for them (KAFKA.md section 5, mode D).
So each reader is assigned all partitions, starts at their ends, and never commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError

from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.closing import stop_consumer
from gate.model.wire import Record

_log = logging.getLogger(__name__)  # the client lives in other people's processes: they say where log lines go

POLL_MS: Final = 500
"""How long one poll waits for a reply; a reply that comes ends the wait."""

METADATA_MAX_AGE_MS: Final = 5_000
"""How soon a new partition of the reply topic is seen; a reply on it waits so long."""

STALL_CHECK_S: Final = 5.0
"""How often a reader asks the brokers whether there is something that it should have delivered by now."""

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to build a consumer anew; the last one repeats."""


class ReplyReader:
    """Hands every record that arrives on a topic after `start` to `deliver`, in partition order.

    `deliver` is called in the event loop; it must neither block nor raise. A consumer that fails or stalls is replaced by
    one that goes on at the same offsets, so an outage of the brokers delays replies and loses none.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, deliver: Callable[[Record], None]) -> None:
        self._options = options  # of gate.kafka.connection.client_options
        self._topic = topic
        self._deliver = deliver
        self._positions: dict[int, int] = {}  # next offset by partition; what a new consumer goes on with
        self._consumer: AIOKafkaConsumer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self.restarts = 0

    def __repr__(self) -> str:
        state = "stopped" if self._stopping.is_set() else "reading" if self.ready else "not reading"
        return f"<ReplyReader {self._topic}: {state}, {len(self._positions)} partitions, {self.restarts} restarts>"

    @property
    def ready(self) -> bool:
        """Whether replies are being read; false while a consumer is built anew."""
        return self._consumer is not None and not self._stopping.is_set()

    async def start(self) -> None:
        """Stand at the end of every partition; what is appended after this returns is delivered.

        Raises ConfigError where the topic does not exist, KafkaUnavailable where the brokers do not do their part.
        """
        consumer = self._new_consumer()
        try:
            ends = await self._ends(consumer)
        except KafkaError as error:
            await stop_consumer(consumer)
            address = self._options["bootstrap_servers"]
            raise KafkaUnavailable(f"{address} does not let us read {self._topic}: {type(error).__name__}: {error}") from error
        except BaseException:
            await stop_consumer(consumer)
            raise
        self._positions = ends
        self._assign(consumer, set(ends))
        self._consumer = consumer
        self._tasks = [
            asyncio.create_task(self._read(consumer), name=f"reply reader {self._topic}"),
            asyncio.create_task(self._watch(), name=f"reply reader watch {self._topic}"),
        ]

    async def stop(self) -> None:
        """Stop delivering; nothing is delivered after this returns. Idempotent."""
        self._stopping.set()
        if self._consumer is not None:
            await stop_consumer(self._consumer)  # ends a poll that is waiting
        for task in self._tasks:
            task.cancel()  # no poll is cancelled by this: that of a closed consumer has returned
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                await self._poll(consumer)
            except ConsumerStoppedError:
                reason = "stalled"  # only `_watch` and `stop` stop a consumer
            except Exception as error:  # noqa: BLE001 - the top of the task: whatever broke the consumer, a new one is the mend
                reason = f"{type(error).__name__}: {error}"
            if self._stopping.is_set():
                return
            _log.warning("reply reader of %s restarted: %s", self._topic, reason)
            self._consumer = None
            await stop_consumer(consumer)
            self.restarts += 1
            rebuilt = await self._rebuild()
            if rebuilt is None:
                return
            self._consumer = consumer = rebuilt

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            for tp, records in batches.items():
                for record in records:
                    self._deliver(record)
                self._positions[tp.partition] = records[-1].offset + 1
            partitions = consumer.partitions_for_topic(self._topic) or set()
            if not partitions <= self._positions.keys():
                self._assign(consumer, partitions)

    async def _rebuild(self) -> AIOKafkaConsumer | None:
        """Return a consumer that goes on where the last one stood, when the brokers are back; None if we stop before."""
        attempt = 0
        while not self._stopping.is_set():
            consumer = self._new_consumer()
            try:
                await consumer.start()
                self._assign(consumer, await self._partitions(consumer))
            except Exception:  # noqa: BLE001 - whatever it is, replies are waited for, and nobody else would try again
                await stop_consumer(consumer)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1
            except BaseException:
                await stop_consumer(consumer)
                raise
            else:
                return consumer
        return None

    async def _watch(self) -> None:
        """Stop a consumer that stands still although there is something to read: some states never heal (KAFKA.md section 4)."""
        before: dict[int, int] = {}
        while True:
            await asyncio.sleep(STALL_CHECK_S)
            consumer = self._consumer
            if consumer is None:
                continue
            try:
                async with asyncio.timeout(STALL_CHECK_S):
                    behind = await self._behind(consumer)
            except Exception:  # noqa: BLE001, S112 - an outage, or a consumer that `_read` is replacing: neither is a stall
                continue
            if before.items() & behind.items() and consumer is self._consumer:
                await stop_consumer(consumer)
            before = behind

    async def _behind(self, consumer: AIOKafkaConsumer) -> dict[int, int]:
        """Return the positions of the partitions that have more to read.

        The consumer's own positions: ours do not move over the markers that transactions leave in a partition.
        """
        ends = await consumer.end_offsets(list(consumer.assignment()))
        positions = {tp: await consumer.position(tp) for tp in ends}
        return {tp.partition: position for tp, position in positions.items() if position < ends[tp]}

    def _new_consumer(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # out of range after an outage: what is left must not be skipped
            fetch_max_wait_ms=100,  # one fetch per broker at a time; a long one would delay partitions that join it
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            request_timeout_ms=10_000,
        )

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[int, int]:
        await consumer.start()
        if self._topic not in await consumer.topics():  # asks for all topics: naming a missing one could create it
            raise ConfigError([f"reply topic {self._topic} does not exist: make it with `gate topics create`"])
        partitions = await self._partitions(consumer)
        ends = await consumer.end_offsets([TopicPartition(self._topic, partition) for partition in partitions])
        return {tp.partition: offset for tp, offset in ends.items()}

    async def _partitions(self, consumer: AIOKafkaConsumer) -> set[int]:
        first = TopicPartition(self._topic, 0)
        consumer.assign([first])
        await consumer.end_offsets([first])  # the cheapest public call that waits for the topic's metadata
        return consumer.partitions_for_topic(self._topic) or {0}

    def _assign(self, consumer: AIOKafkaConsumer, partitions: set[int]) -> None:
        """Read all of `partitions`, known ones on from their position, new ones from their beginning."""
        consumer.assign([TopicPartition(self._topic, partition) for partition in sorted(partitions)])  # forgets all positions
        for partition in partitions:
            consumer.seek(TopicPartition(self._topic, partition), self._positions.setdefault(partition, 0))
