"""Read any stretch of a topic, without a group, for those who look at what is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.closing import stop_consumer
from gate.kafka.connection import REQUEST_TIMEOUT_MS, client_options, mapped_errors
from gate.model.wire import PlainRecord, Record

_WAIT_MS: Final = 200
_SILENCE_S: Final = 20.0
"""How long nothing may come of a stretch that is there; two requests' time."""


class TopicReader:
    """Reads by offset: every call says where, so that readings of several topics may alternate.

    Every method may raise KafkaUnavailable. Topics and partitions that do not exist must not be named: asking for one may
    create it, or wait for ever. A record that the library cannot parse (a header's name is not UTF-8) comes without key,
    value and headers.
    """

    def __init__(self, settings: Settings, bootstrap: str, *, silence_s: float = _SILENCE_S) -> None:
        self._bootstrap = bootstrap
        self._silence_s = silence_s
        self._options: Mapping[str, Any] = client_options(settings, bootstrap)
        self._consumer: AIOKafkaConsumer | None = None
        self._at: tuple[TopicPartition, int] | None = None  # where the consumer stands

    def __repr__(self) -> str:
        return f"<TopicReader at {self._at}>" if self._at else "<TopicReader>"

    async def __aenter__(self) -> Self:
        self._consumer = consumer = AIOKafkaConsumer(
            **self._options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # retention may pass by what is being read
            fetch_max_wait_ms=20,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            with mapped_errors(self._bootstrap, "read topics"):
                await consumer.start()
        except BaseException:
            await stop_consumer(consumer)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._consumer is not None
        await stop_consumer(self._consumer)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset and the high watermark."""
        assert self._consumer is not None
        tp = TopicPartition(topic, partition)
        with mapped_errors(self._bootstrap, f"read {topic}"):
            return (await self._consumer.beginning_offsets([tp]))[tp], (await self._consumer.end_offsets([tp]))[tp]

    async def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record is not older than `timestamp_ms`; the high watermark if there is none."""
        assert self._consumer is not None
        tp = TopicPartition(topic, partition)
        with mapped_errors(self._bootstrap, f"read {topic}"):
            found = (await self._consumer.offsets_for_times({tp: max(0, timestamp_ms)}))[tp]
            offset: int = found.offset if found is not None else (await self._consumer.end_offsets([tp]))[tp]
            return offset

    async def records_at(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, Record]:
        """Return the records at these offsets; those that are not there, or not any more, are left out."""
        start, end = await self.bounds(topic, partition)
        wanted = {offset for offset in offsets if start <= offset < end}
        found: dict[int, Record] = {}
        following = start
        for offset in sorted(wanted):
            if offset >= following:  # else it came with the one before
                records, following = await self._next(TopicPartition(topic, partition), offset)
                found |= {record.offset: record for record in records if record.offset in wanted}
        return found

    async def scan(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[Record]:
        """Yield the records of [start, end) in order."""
        offset = start
        while offset < end:
            records, offset = await self._next(TopicPartition(topic, partition), offset)
            for record in records:
                if record.offset >= end:
                    return
                yield record

    async def _next(self, tp: TopicPartition, offset: int) -> tuple[list[Record], int]:
        """Return records from `offset` on, below the high watermark, and where to read on, which is further."""
        deadline = time.monotonic() + self._silence_s
        while True:
            records, following = await self._read(tp, offset)
            if following > offset:
                return records, following
            if time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"Kafka at {self._bootstrap} has not let us read {tp.topic} partition {tp.partition} from offset {offset} on "
                    f"for {self._silence_s:g} s: check that the partition has a leader, and run it again"
                )

    async def _read(self, tp: TopicPartition, offset: int) -> tuple[list[Record], int]:
        """Return the next records and where to read on; no record that stands below `offset`."""
        consumer = self._consumer
        assert consumer is not None
        with mapped_errors(self._bootstrap, f"read {tp.topic}"):
            if self._at is None or self._at[0] != tp:
                consumer.assign([tp])
            if self._at != (tp, offset):
                consumer.seek(tp, offset)
            self._at = None  # not known, if this fails
            try:
                records = await self._some(consumer, tp, offset)
                following = await self._position(consumer, tp)
            except UnicodeDecodeError:  # the one at `offset`
                consumer.seek(tp, offset + 1)
                records, following = [_unparsed(tp, offset)], offset + 1
        self._at = tp, following
        return records, following

    async def _some(self, consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> list[Record]:
        try:
            return list((await consumer.getmany(tp, timeout_ms=_WAIT_MS)).get(tp, []))
        except UnicodeDecodeError:  # somewhere in what was fetched: one at a time, then
            consumer.seek(tp, offset)
        return list((await consumer.getmany(tp, timeout_ms=_WAIT_MS, max_records=1)).get(tp, []))

    async def _position(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> int:
        async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):  # it waits for a reset that a broker must answer
            position: int = await consumer.position(tp)
            return position


def _unparsed(tp: TopicPartition, offset: int) -> PlainRecord:
    return PlainRecord(topic=tp.topic, partition=tp.partition, offset=offset, timestamp=-1, key=None, value=None, headers=[])
