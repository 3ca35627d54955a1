"""A ledger in memory: what the project tests itself with, for the tests of users, too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gate.ledger.answer import Entry
from gate.ledger.ports import Appended, LogRejected, Slice
from gate.model.wire import Message, read_ledger

_WAIT_S = 0.02


class InMemoryLog:
    """A `Log` in memory, held to the behaviour of the real one by the contract suite.

    `now_ms` stamps what is appended (LogAppendTime); records larger than `max_bytes` are rejected.
    """

    def __init__(self, *, partitions: int = 1, now_ms: Callable[[], int] = lambda: 0, max_bytes: int = 1_000_000) -> None:
        self.partitions = partitions
        self._now_ms = now_ms
        self._max_bytes = max_bytes
        self._starts = [0] * partitions
        self._records: list[list[tuple[Message, int]]] = [[] for _ in range(partitions)]
        self._appended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<InMemoryLog {[len(records) for records in self._records]} records>"

    async def append(self, partition: int, batch: Sequence[Message]) -> Appended:
        """Append a batch as a whole; raise LogRejected if a record is too large."""
        if any(len(message.value or b"") > self._max_bytes for message in batch):
            raise LogRejected("a record is too large")
        now_ms = self._now_ms()
        base_offset = self._starts[partition] + len(self._records[partition])
        self._records[partition] += [(message, now_ms) for message in batch]
        self._appended.set()
        return Appended(base_offset, now_ms)

    async def read(self, partition: int, offset: int) -> Slice:
        """Return records from `offset` on; wait a little where there is none yet."""
        start, end = await self.bounds(partition)
        if not start <= offset <= end:
            return Slice([], offset, start, end)
        if offset == end:
            self._appended.clear()
            try:
                async with asyncio.timeout(_WAIT_S):
                    await self._appended.wait()
            except TimeoutError:
                pass
            end = (await self.bounds(partition))[1]
        entries = [
            Entry(at, *headers, message.value)
            for at, (message, _) in enumerate(self._records[partition][offset - start :], offset)
            if (headers := read_ledger(message.key, message.headers)) is not None
        ]
        return Slice(entries, end, start, end)

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset and the high watermark."""
        start = self._starts[partition]
        return start, start + len(self._records[partition])

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record is not older than `timestamp_ms`; the high watermark if there is none."""
        start, end = await self.bounds(partition)
        stamped = enumerate(self._records[partition], start)
        return next((offset for offset, (_, at_ms) in stamped if at_ms >= timestamp_ms), end)

    def forget(self, partition: int, before: int) -> None:
        """Drop the records below an offset, as retention does."""
        start = self._starts[partition]
        if before > start:
            del self._records[partition][: before - start]
            self._starts[partition] = before
