"""Read dead letters back: the attempt as it came, and why it could not be served as asked (DESIGN.md section 2).

They are written by `gate.model.wire.encode_dead_letter()`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self

from gate.model.wire import INT32, INT64, Headers, PlainRecord, Record

PREFIX: Final = "gate-dlq-"
_FIRST: Final = f"{PREFIX}reason"  # of the headers that we append
_NUMBER: Final = re.compile("[0-9]{1,18}")


class Place(NamedTuple):
    """Where a record stands in the dead letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `partition:offset`; raise ValueError for anything else."""
        partition, _, offset = text.partition(":")
        if not (_NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset)):
            raise ValueError(f"{text!r} is not partition:offset, as `gate dlq list` prints it")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter; key, value and headers are the attempt's own."""

    place: Place
    reason: str  # of gate.worker.replies.Reason, unless another version wrote it
    topic: str  # where the attempt stood
    partition: int
    offset: int
    at: str  # when it was buried, as it says; ISO 8601
    at_ms: int  # the same, or the record's own time where that cannot be read
    truncated_bytes: int | None  # how large the value was that was not kept; None: it was kept
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def source(self) -> str:
        """Where the attempt stood: topic-partition-offset, as the ledger has it."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    @property
    def unmarked(self) -> Headers:
        """The attempt's headers without any that speak of dead letters."""
        return [(name, value) for name, value in self.headers if not name.startswith(PREFIX)]

    def attempt(self, *, timestamp: int, value: bytes | None) -> PlainRecord:
        """Return the attempt as it stood in its topic."""
        return PlainRecord(
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            timestamp=timestamp,
            key=self.key,
            value=value,
            headers=self.headers,
        )

    def is_of(self, record: Record) -> bool:
        """Tell whether this is the dead letter of that attempt: a topic made anew has others at the same offsets."""
        same = (self.key, self.headers) == (record.key, list(record.headers))
        return same and (self.truncated_bytes is not None or self.value == record.value)


def read_dead_letter(record: Record) -> DeadLetter | None:
    """Read a record of the dead letter topic; None if it is not one of ours (somebody else wrote to the topic)."""
    headers = list(record.headers)
    first = next((at for at in range(len(headers) - 1, -1, -1) if headers[at][0] == _FIRST), None)
    if first is None:
        return None
    # Ours stand behind the attempt's own, which may have the same names: whoever asks chooses those.
    ours: dict[str, bytes | None] = {name: value for name, value in headers[first:] if name.startswith(PREFIX)}
    reason, topic, partition, offset = (ours.get(f"{PREFIX}{name}") for name in ("reason", "topic", "partition", "offset"))
    if not reason or not topic or len(partition or b"") != INT32.size or len(offset or b"") != INT64.size:
        return None
    at = _text(ours.get(f"{PREFIX}at"))
    at_ms = _milliseconds(at)
    truncated = _text(ours.get(f"{PREFIX}truncated"))
    return DeadLetter(
        place=Place(record.partition, record.offset),
        reason=_text(reason),
        topic=_text(topic),
        partition=INT32.unpack(partition or b"")[0],
        offset=INT64.unpack(offset or b"")[0],
        at=at if at_ms is not None else iso(record.timestamp),
        at_ms=record.timestamp if at_ms is None else at_ms,
        truncated_bytes=int(truncated) if record.value is None and _NUMBER.fullmatch(truncated) else None,
        key=record.key,
        value=record.value,
        headers=headers[:first],
    )


def iso(timestamp_ms: int) -> str:
    """Return a record's time as ISO 8601 in UTC; what no calendar has is said as it is."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _milliseconds(at: str) -> int | None:
    try:
        moment = datetime.fromisoformat(at)
        return round(moment.timestamp() * 1000) if moment.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):
        return None
