"""The ledger on Kafka: the `Log` that decisions are appended to and read back from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from gate.kafka.closing import stop_consumer
from gate.kafka.producer import BatchProducer
from gate.ledger.answer import Entry
from gate.ledger.ports import Appended, LogUnavailable, Slice
from gate.model.wire import Message, read_ledger

_READ_WAIT_MS = 200
_FETCH_WAIT_MS = 20  # with another partition long-polling a read takes as long as this (protocol/README.md)
_TURN_S = 15.0  # longer than one request may take
_FETCH_BYTES = 4 * 1024 * 1024


class KafkaLedger:
    """One topic, one producer, one group-less reader that is assigned once to all partitions, all paused.

    A read is seek, resume, fetch, pause: 3-7 ms (protocol/README.md). Reads take turns. Partitions that the topic gets later
    are served, too: the reader is made anew when there are more than it knows.
    """

    def __init__(
        self, options: Mapping[str, Any], *, topic: str, count: Callable[[], int], on_restart: Callable[[str], None]
    ) -> None:
        self._options = dict(options)
        self._topic = topic
        self._on_restart = on_restart
        self._producer = BatchProducer(options, on_restart=lambda: on_restart("ledger_producer"))
        self._reader: AIOKafkaConsumer | None = None
        self._turn = asyncio.Lock()
        self._count = count  # how many partitions the topic has, 0 if it does not exist
        self._assigned = 0  # how many of them the reader has

    async def start(self) -> None:
        """Connect; raise LogUnavailable where no broker answers."""
        await self._producer.start()
        async with self._client():
            pass

    async def stop(self) -> None:
        """Close the connections."""
        await self._producer.stop()
        async with self._turn:
            await self._disconnect()

    async def append(self, partition: int, batch: Sequence[Message]) -> Appended:
        """Append a batch as a whole, durably; raise LogRejected if it can never be written."""
        return await self._producer.send(self._topic, partition, batch)

    async def read(self, partition: int, offset: int) -> Slice:
        """Return records from `offset` on, below the high watermark; wait a little where there is none yet."""
        async with self._client() as reader:
            tp = TopicPartition(self._topic, partition)
            reader.seek(tp, offset)
            reader.resume(tp)
            try:
                records = (await reader.getmany(tp, timeout_ms=_READ_WAIT_MS)).get(tp, [])
                position = await reader.position(tp)
            except OffsetOutOfRangeError:
                start, end = await self._bounds(reader, tp)
                return Slice([], offset, start, end)
            finally:
                reader.pause(tp)
            entries = [
                Entry(record.offset, *headers, record.value)
                for record in records
                if (headers := read_ledger(record.key, record.headers)) is not None
            ]
            return Slice(entries, position, min(offset, position), max(position, reader.highwater(tp) or 0))

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset and the high watermark."""
        async with self._client() as reader:
            return await self._bounds(reader, TopicPartition(self._topic, partition))

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record is not older than `timestamp_ms`; the high watermark if there is none."""
        async with self._client() as reader:
            tp = TopicPartition(self._topic, partition)
            found = (await reader.offsets_for_times({tp: max(0, timestamp_ms)}))[tp]
            offset: int = found.offset if found is not None else (await reader.end_offsets([tp]))[tp]
            return offset

    async def _bounds(self, reader: AIOKafkaConsumer, tp: TopicPartition) -> tuple[int, int]:
        return (await reader.beginning_offsets([tp]))[tp], (await reader.end_offsets([tp]))[tp]

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AIOKafkaConsumer]:
        """Take a turn with the reader; after an error that is not about offsets it is made anew."""
        async with self._turn:
            try:
                async with asyncio.timeout(_TURN_S):  # a reader that hangs is thrown away: its calls may be cancelled
                    if self._count() > self._assigned:
                        await self._disconnect()
                    if self._reader is None:
                        await self._connect()
                    assert self._reader is not None
                    yield self._reader
            except (KafkaError, TimeoutError, OSError) as error:
                await self._disconnect()
                self._on_restart("ledger_reader")
                raise LogUnavailable(type(error).__name__) from error

    async def _connect(self) -> None:
        reader = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=_FETCH_WAIT_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
            max_poll_records=None,
            request_timeout_ms=10_000,
        )
        try:
            await reader.start()
            self._assigned = self._count()
            tps = [TopicPartition(self._topic, number) for number in range(self._assigned)]
            reader.assign(tps)
            reader.pause(*tps)
        except BaseException:
            await stop_consumer(reader)
            raise
        self._reader = reader

    async def _disconnect(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await stop_consumer(reader)
