"""The table of one ledger partition: the fold of its records from some offset on.

Invariant (protocol/README.md): the table is the fold of `ledger[start, next)` less what was evicted, whether the
partition is owned or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from gate.ledger.answer import Answer, Asked, Entry, counts
from gate.ledger.digest import conflicts
from gate.model.decision import Scope

Key = TypeVar("Key", bound=Hashable)

NEVER = -(2**62)
"""A time before all times: the table reaches back to the log's start, or has forgotten nothing."""


class Rewound(Exception):
    """The ledger is not what it was: records that were acknowledged are gone or others stand in their place."""


class LedgerTable:
    """Folds records in offset order, finds the answer to an ask, forgets what no ask can need any more."""

    def __init__(self, *, window_ms: int, bodies_max: int) -> None:
        self._window_ms = window_ms
        self._bodies_max = bodies_max
        self.restart(0, from_ts=NEVER)

    def restart(self, offset: int, *, from_ts: int, keep_acked: bool = False) -> None:
        """Begin anew at `offset`, which holds the first record not older than `from_ts` (NEVER: the log's first)."""
        self.start = offset
        self.next = offset  # every ledger offset from start up to below it is folded
        self.from_ts = from_ts
        self.forgot = NEVER  # the newest attempt time that was evicted
        kept = {at: entry for at, entry in self.acked.items() if at >= offset} if keep_acked else {}
        self.acked: dict[int, Entry] = kept  # my acknowledged records at or above next
        self._first: dict[str, Entry] = {}  # per id, the first record that decides it; more hang on `later`
        self._of_ask: dict[tuple[str, str], Entry] = {}  # the same for records that decide one ask, per id and source
        self._order: deque[Entry] = deque()
        self._bodies: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def __repr__(self) -> str:
        return f"<LedgerTable next {self.next}, {len(self._order)} entries, {len(self.acked)} acked>"

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._order)

    def answer(self, ask: Asked) -> Answer | None:
        """Return the answer to an ask by rule 1; None while the folded records hold none."""
        found = self._first_that_counts(self._first.get(ask.attempt_id), ask)
        if self._of_ask:
            own = self._first_that_counts(self._of_ask.get((ask.attempt_id, ask.source)), ask)
            if own is not None and (found is None or own.offset < found.offset):
                found = own
        return None if found is None else Answer(found, conflicts(found.digest, ask.digest))

    def _first_that_counts(self, entry: Entry | None, ask: Asked) -> Entry | None:
        while entry is not None and not counts(entry, ask, self._window_ms):
            entry = entry.later
        return entry

    def covers(self, timestamp_ms: int, allowance_ms: int) -> bool:
        """Whether every record that may decide an ask of that time was folded, clocks being apart by the allowance (rule 11)."""
        return timestamp_ms - self._window_ms - 2 * allowance_ms >= self.from_ts

    def remembers(self, timestamp_ms: int) -> bool:
        """Whether nothing was evicted that an ask of that time may need (rule 19)."""
        return timestamp_ms - self._window_ms > self.forgot

    # -- Folding (rules 3 to 9) -------------------------------------------------------------------------------------------

    def fold(self, entry: Entry) -> None:
        """Take in the record at `next` (or further, where the log skipped)."""
        self.next = entry.offset + 1
        if entry.scope is Scope.ID:
            held = self._first.setdefault(entry.attempt_id, entry)
        else:
            held = self._of_ask.setdefault((entry.attempt_id, entry.source), entry)
        if held is not entry:
            while held.later is not None:
                held = held.later
            held.later = entry
        self._order.append(entry)
        if entry.value is not None:
            self._bodies.append(entry)
            if len(self._bodies) > self._bodies_max:
                self._bodies.popleft().value = None

    def acknowledge(self, entry: Entry) -> list[Entry]:
        """Take in my record, acknowledged at its offset; return what was folded. Raise Rewound (rules 4 to 7).

        Folding an acknowledged record that is next reads nothing back. One that is further on waits in `acked` until
        the gap before it is read.
        """
        if entry.offset < self.next:
            if entry.offset >= self.start and not self._held_or_evicted(entry):
                raise Rewound  # what lies below start says nothing: it was not folded (rule 9)
            return []
        held = self.acked.get(entry.offset)
        if held is not None and not held.same(entry):
            raise Rewound
        self.acked[entry.offset] = entry
        return self._drain()

    def read(self, entries: Iterable[Entry], next_offset: int) -> list[Entry]:
        """Take in records read from `next` on; return what was folded, my acknowledged records included. Raise Rewound."""
        folded = []
        for entry in entries:
            if entry.offset < self.next:
                continue
            mine = self.acked.pop(entry.offset, None)
            if mine is not None and not mine.same(entry):
                raise Rewound
            self.fold(entry)
            folded.append(entry)
        self.next = max(self.next, next_offset)  # the log skips what is not a record for us
        if any(offset < self.next for offset in self.acked):
            raise Rewound
        folded += self._drain()
        return folded

    def _drain(self) -> list[Entry]:
        folded = []
        while (entry := self.acked.pop(self.next, None)) is not None:
            self.fold(entry)
            folded.append(entry)
        return folded

    def _held_or_evicted(self, entry: Entry) -> bool:
        """Whether the id of my record below `next` is known from a record at or before it, or may have been evicted."""
        if entry.attempt_ts <= self.forgot:
            return True
        by_ask = (entry.attempt_id, entry.source)
        held = self._first.get(entry.attempt_id) if entry.scope is Scope.ID else self._of_ask.get(by_ask)
        return held is not None and held.offset <= entry.offset

    # -- Forgetting (rule 23) ---------------------------------------------------------------------------------------------

    def evict(self, before_ms: int, base: int) -> None:
        """Forget the oldest records: of attempts before `before_ms` whose offset is below `base`, the committed one."""
        while self._order:
            entry = self._order[0]
            if entry.attempt_ts >= before_ms or source_offset(entry.source) >= base:
                return
            self._order.popleft()
            if self._bodies and self._bodies[0] is entry:
                self._bodies.popleft()
            self.forgot = max(self.forgot, entry.attempt_ts)
            if entry.scope is Scope.ID:
                _shift(self._first, entry.attempt_id, entry.later)
            else:
                _shift(self._of_ask, (entry.attempt_id, entry.source), entry.later)


def _shift(index: dict[Key, Entry], key: Key, later: Entry | None) -> None:
    if later is None:
        del index[key]
    else:
        index[key] = later


def source_offset(source: str) -> int:
    """Return the offset of topic-partition-offset; -1 where it has none."""
    tail = source.rpartition("-")[2]
    return int(tail) if tail.isdigit() else -1
