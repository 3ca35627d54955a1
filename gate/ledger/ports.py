"""The log that decisions are written to and read from.

Kafka (`gate.kafka.ledger`) and the in-memory log (`gate.testing`) both implement `Log`; one contract suite holds them
to the same behaviour (`tests/contract/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gate.ledger.answer import Entry
from gate.model.wire import Message


class Slice(NamedTuple):
    """What one read returned."""

    entries: list[Entry]  # ascending by offset; what is not a ledger record is left out
    next_offset: int  # where to read on; beyond the last entry where the log skips
    start: int  # the log's first offset: where it is above the offset asked for, nothing was read
    end: int  # the high watermark: where it is below the offset asked for, nothing was read


class Appended(NamedTuple):
    """An acknowledged batch: its records stand at base_offset, base_offset + 1 and so on."""

    base_offset: int
    timestamp_ms: int  # the broker's LogAppendTime


class LogRejected(Exception):
    """The batch can never be written as it is (a record is too large)."""


class LogUnavailable(Exception):
    """The outcome is unknown: the batch may have been written, or be written later."""


class LogForbidden(LogUnavailable):
    """The broker refuses us the topic; this lasts until somebody grants the right."""


class Log(Protocol):
    """One append-only topic, partition by partition. Every method may raise LogUnavailable."""

    async def append(self, partition: int, batch: Sequence[Message]) -> Appended:
        """Append a batch as a whole, durably; raise LogRejected if it can never be written."""

    async def read(self, partition: int, offset: int) -> Slice:
        """Return records from `offset` on, below the high watermark; wait a little where there is none yet."""

    async def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset and the high watermark."""

    async def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset whose record is not older than `timestamp_ms`; the high watermark if there is none."""
