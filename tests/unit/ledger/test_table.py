"""The folded table: it says what a list of all records says, whatever came in which way, whatever was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from gate.ledger.answer import Entry, answer
from gate.ledger.table import NEVER, LedgerTable, Rewound, source_offset
from gate.model.decision import Scope

WINDOW_MS = 10


@dataclass(frozen=True)
class Asked:
    attempt_id: str
    timestamp_ms: int
    source: str
    digest: bytes


@dataclass(frozen=True)
class Record:
    """What of a ledger record is not its offset."""

    attempt_id: str
    digest: bytes
    source: str
    attempt_ts: int
    scope: Scope

    def at(self, offset: int) -> Entry:
        return Entry(offset, self.attempt_id, self.digest, self.source, self.attempt_ts, self.scope, repr(self).encode())


IDS = st.sampled_from("XYZ")
SOURCES = st.integers(0, 5).map("a-0-{}".format)
DIGESTS = st.sampled_from([b"c1:a", b"c1:b"])
TIMES = st.integers(80, 120)
RECORDS = st.builds(Record, IDS, DIGESTS, SOURCES, TIMES, st.sampled_from(Scope))
ASKS = st.builds(Asked, IDS, TIMES, SOURCES, DIGESTS)


def new_table(**changes: int) -> LedgerTable:
    return LedgerTable(**{"window_ms": WINDOW_MS, "bodies_max": 1000, **changes})


def folded(records: list[Record], **changes: int) -> LedgerTable:
    table = new_table(**changes)
    table.read([record.at(offset) for offset, record in enumerate(records)], len(records))
    return table


def offset_of(found: object) -> object:
    return None if found is None else (found.entry.offset, found.conflict)  # type: ignore[attr-defined]


@given(st.lists(RECORDS), st.lists(ASKS), st.integers(1, 4))
def test_the_table_says_what_the_list_says(records: list[Record], asks: list[Asked], bodies_max: int) -> None:
    entries = [record.at(offset) for offset, record in enumerate(records)]
    table = folded(records, bodies_max=bodies_max)

    for ask in asks:
        assert offset_of(answer(entries, ask, WINDOW_MS)) == offset_of(table.answer(ask))


@given(st.lists(RECORDS), st.integers(1, 4))
def test_only_the_newest_bodies_are_kept(records: list[Record], bodies_max: int) -> None:
    table = folded(records, bodies_max=bodies_max)

    assert [offset >= len(records) - bodies_max for offset in range(len(records))] == [e.value is not None for e in table]


@given(st.lists(RECORDS), st.lists(ASKS), st.integers(80, 130), st.integers(0, 6))
def test_forgetting_changes_no_answer_within_the_window_of_what_is_remembered(
    records: list[Record], asks: list[Asked], before_ms: int, base: int
) -> None:
    entries = [record.at(offset) for offset, record in enumerate(records)]
    table = folded(records)
    table.evict(before_ms, base)

    for ask in asks:
        if table.remembers(ask.timestamp_ms):
            assert offset_of(answer(entries, ask, WINDOW_MS)) == offset_of(table.answer(ask))
        if ask.timestamp_ms - WINDOW_MS >= before_ms:
            assert table.remembers(ask.timestamp_ms), "what is not before the horizon is never forgotten"


@given(st.lists(RECORDS), st.integers(80, 130), st.integers(0, 6))
def test_what_is_not_complete_is_not_forgotten(records: list[Record], before_ms: int, base: int) -> None:
    table = folded(records)
    table.evict(before_ms, base)
    left = {entry.offset for entry in table}

    for offset, record in enumerate(records):
        if record.attempt_ts >= before_ms or source_offset(record.source) >= base:
            assert offset in left


@given(st.lists(RECORDS), st.integers(80, 130))
def test_what_is_old_and_complete_is_forgotten_where_nothing_older_stands_before_it(
    records: list[Record], before_ms: int
) -> None:
    records.sort(key=lambda record: record.attempt_ts)
    table = folded(records)
    table.evict(before_ms, 2**62)

    assert [record for record in records if record.attempt_ts >= before_ms] == [records[entry.offset] for entry in table]


class Fold(RuleBasedStateMachine):
    """Property 1: whatever is read and acknowledged in whichever order, the table is the fold of the ledger's prefix.

    Property 7: acknowledgements come late, doubled, in any order.
    """

    mine = Bundle("mine")

    @initialize(start=st.integers(0, 3))
    def begin(self, start: int) -> None:
        self.log: list[Record | None] = []  # None: a record of somebody who knows nothing of us
        self.acknowledged: set[int] = set()
        self.start = start
        self.table = new_table()
        self.table.restart(start, from_ts=NEVER)
        self.log += [None] * start

    @rule(record=RECORDS, target=mine)
    def append(self, record: Record) -> int:
        self.log.append(record)
        return len(self.log) - 1

    @rule(record=st.none() | RECORDS)
    def somebody_else_appends(self, record: Record | None) -> None:
        self.log.append(record)

    @rule(offset=mine)
    def acknowledge(self, offset: int) -> None:
        record = self.log[offset]
        assert record is not None
        before = self.table.next
        new = [entry.offset for entry in self.table.acknowledge(record.at(offset))]
        self.acknowledged.add(offset)

        assert sorted(set(range(before, self.table.next))) == new

    @rule(count=st.integers(1, 4), back=st.integers(0, 2))
    def read(self, count: int, back: int) -> None:
        """Read on; by the time it comes, acknowledgements may have brought the table further."""
        first = max(self.start, self.table.next - back)
        stop = min(first + count, len(self.log))
        entries = [record.at(at) for at in range(first, stop) if (record := self.log[at]) is not None]
        before = self.table.next
        new = [entry.offset for entry in self.table.read(entries, stop)]

        assert [at for at in range(before, self.table.next) if self.log[at] is not None] == new

    @precondition(lambda self: self.table.next > self.start)
    @rule(back=st.integers(1, 3), keep=st.booleans())
    def begin_anew(self, back: int, keep: bool) -> None:
        """Property 8: the table may be read anew from further back at any time."""
        kept = {at for at in self.table.acked if keep}
        self.start = max(self.start - 1, self.table.next - back, 0)
        self.table.restart(self.start, from_ts=NEVER, keep_acked=keep)

        assert kept == set(self.table.acked)

    @invariant()
    def the_table_is_the_fold_of_the_prefix(self) -> None:
        if hasattr(self, "table"):
            expected = [(at, record) for at in range(self.start, self.table.next) if (record := self.log[at]) is not None]
            assert expected == [(entry.offset, self.log[entry.offset]) for entry in self.table]
            assert all(self.log[entry.offset].at(entry.offset).same(entry) for entry in self.table)  # type: ignore[union-attr]

    @invariant()
    def what_waits_is_beyond(self) -> None:
        if hasattr(self, "table"):
            assert all(offset > self.table.next or self.table.next == self.start for offset in self.table.acked)

    @rule(ask=ASKS)
    def answers_are_those_of_the_prefix(self, ask: Asked) -> None:
        prefix = [record.at(at) for at in range(self.start, self.table.next) if (record := self.log[at]) is not None]

        assert offset_of(answer(prefix, ask, WINDOW_MS)) == offset_of(self.table.answer(ask))


TestFold = Fold.TestCase

X = Record("X", b"c1:a", "a-0-0", 100, Scope.ID)
Y = Record("Y", b"c1:a", "a-0-1", 100, Scope.ID)


def test_an_acknowledgement_that_is_next_needs_no_reading() -> None:
    table = new_table()

    assert [0, 1] == [entry.offset for at in (0, 1) for entry in table.acknowledge((X, Y)[at].at(at))]
    assert (2, {}) == (table.next, table.acked)


def test_an_acknowledgement_beyond_a_gap_waits_for_the_gap() -> None:
    table = new_table()

    assert [] == table.acknowledge(Y.at(1))
    assert (0, [1]) == (table.next, list(table.acked))
    assert [0, 1] == [entry.offset for entry in table.read([X.at(0)], 1)]


@pytest.mark.parametrize("there", [X, Record("Y", b"c1:a", "a-0-9", 100, Scope.ID)])
def test_another_record_where_mine_was_acknowledged_is_a_rewind(there: Record) -> None:
    table = new_table()
    table.acknowledge(Y.at(1))

    with pytest.raises(Rewound):
        table.read([X.at(0), there.at(1)], 2)


def test_two_acknowledgements_of_one_offset_are_a_rewind() -> None:
    table = new_table()
    table.acknowledge(Y.at(1))

    with pytest.raises(Rewound):
        table.acknowledge(X.at(1))


def test_nothing_where_mine_was_acknowledged_is_a_rewind() -> None:
    table = new_table()
    table.acknowledge(Y.at(1))

    with pytest.raises(Rewound):
        table.read([X.at(0)], 2)


def test_an_acknowledgement_below_next_of_a_record_that_is_not_held_is_a_rewind() -> None:
    table = folded([X])

    with pytest.raises(Rewound):
        table.acknowledge(Y.at(0))


def test_an_acknowledgement_below_next_of_a_later_record_than_mine_is_a_rewind() -> None:
    table = folded([Y, X])

    with pytest.raises(Rewound):
        table.acknowledge(X.at(0))


@pytest.mark.parametrize("scope", Scope)
def test_a_late_acknowledgement_of_what_is_held_or_forgotten_changes_nothing(scope: Scope) -> None:
    mine = Record("X", b"c1:a", "a-0-0", 100, scope)
    table = folded([mine, Y])

    assert [] == table.acknowledge(mine.at(0))
    table.evict(101, 10)
    assert [] == table.acknowledge(mine.at(0))


@given(st.integers(-200, 200), st.integers(0, 50))
def test_a_table_covers_a_window_and_clocks_apart(from_ts: int, allowance_ms: int) -> None:
    table = new_table()
    table.restart(0, from_ts=from_ts)
    edge = from_ts + WINDOW_MS + 2 * allowance_ms

    assert table.covers(edge, allowance_ms)
    assert not table.covers(edge - 1, allowance_ms)


def test_a_table_from_the_log_s_start_covers_all_times() -> None:
    assert new_table().covers(-(2**40), 10**6)


@given(st.lists(RECORDS, min_size=1))
def test_a_new_table_has_forgotten_nothing(records: list[Record]) -> None:
    table = folded(records)
    table.evict(1000, 1000)
    assume(not table.remembers(0))
    table.restart(0, from_ts=NEVER)

    assert table.remembers(-(2**40))
    assert 0 == len(table)


@pytest.mark.parametrize(("source", "offset"), [("a-0-17", 17), ("my-topic-3-0", 0), ("nothing", -1), ("a-0-x", -1), ("", -1)])
def test_a_source_ends_in_its_offset(source: str, offset: int) -> None:
    assert offset == source_offset(source)


def test_it_says_its_state_in_one_line() -> None:
    table = folded([X])
    table.acknowledge(Y.at(2))

    assert "<LedgerTable next 1, 1 entries, 1 acked>" == repr(table)
