"""Which ledger record is the decision: rule 1 of the protocol, the only place that says so.

The worker asks its folded table (`gate.ledger.table`), which keeps an index; readers of a whole partition (`explain`,
`tail`, `replay`) and the property tests use `answer()`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from gate.ledger.digest import conflicts, unreadable
from gate.model.decision import Scope


class Entry:
    """One ledger record as it stands in the log.

    `value` is the body, or None where only the headers are kept and the body must be read from the ledger at `offset`.
    `later` is the next record of the same id in the table.
    """

    __slots__ = ("attempt_id", "attempt_ts", "digest", "later", "offset", "scope", "source", "value")

    def __init__(
        self, offset: int, attempt_id: str, digest: bytes, source: str, attempt_ts: int, scope: Scope, value: bytes | None
    ) -> None:
        self.offset = offset
        self.attempt_id = attempt_id
        self.digest = digest
        self.source = source  # topic-partition-offset of the ask it was written for
        self.attempt_ts = attempt_ts  # timestamp of that ask, ms
        self.scope = scope
        self.value = value
        self.later: Entry | None = None

    def __repr__(self) -> str:
        return f"<Entry {self.offset} {self.attempt_id} of {self.source} at {self.attempt_ts}, scope {self.scope.value}>"

    def same(self, other: Entry) -> bool:
        """Whether both are one record: what is at an offset cannot change unless the log was rewound."""
        return (
            self.attempt_id == other.attempt_id
            and self.source == other.source
            and self.digest == other.digest
            and self.scope is other.scope
            and (self.value is None or other.value is None or self.value == other.value)
        )


class Asked(Protocol):
    """What of an ask its answer depends on."""

    attempt_id: str
    timestamp_ms: int
    source: str
    digest: bytes


class Answer(NamedTuple):
    """The record that decides an ask; `conflict` where the ask's content is not that record's."""

    entry: Entry
    conflict: bool


def counts(entry: Entry, ask: Asked, window_ms: int) -> bool:
    """Tell whether a record of the ask's id may decide it.

    A value that cannot be read says nothing that could be compared, so it gets no decision that was made for another:
    who knows an id and not its content learns nothing.
    """
    if entry.attempt_ts < ask.timestamp_ms - window_ms:
        return False
    return entry.source == ask.source if entry.scope is Scope.ASK or unreadable(ask.digest) else True


def answer(entries: Iterable[Entry], ask: Asked, window_ms: int) -> Answer | None:
    """Return the answer to one ask from a partition's records in ledger order; None while there is none."""
    for entry in entries:
        if entry.attempt_id == ask.attempt_id and counts(entry, ask, window_ms):
            return Answer(entry, conflicts(entry.digest, ask.digest))
    return None
