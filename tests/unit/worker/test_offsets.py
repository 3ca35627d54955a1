"""The offset tracker against a naive model that keeps sets of everything."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gate.ledger.table import NEVER
from gate.worker.offsets import Commit, OffsetTracker


class Offsets(RuleBasedStateMachine):
    """Asks are records of a log with gaps; what is received, done and committed is kept in plain sets."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.times: dict[int, int] = {}  # the log: offset -> timestamp, for all time
        self.received: set[int] = set()  # in this assignment
        self.done: set[int] = set()  # in this worker's assignments, as far as they are known to it
        self.position = 0  # where this assignment began
        self.snapshots: list[Commit] = []

    def time_of(self, offset: int, jitter: int) -> int:
        return self.times.setdefault(offset, offset * 10 + jitter)

    @property
    def open(self) -> list[int]:
        return sorted(self.received - self.done)

    @rule(position=st.integers(0, 30))
    def assign(self, position: int) -> None:
        epoch = self.tracker.epoch
        # what was complete below base is forgotten: delivered again, it is answered again, from the ledger
        forgotten = {offset for offset in self.received if offset < self.tracker.base}
        self.done = {offset for offset in self.done - forgotten if offset >= position}
        self.tracker.assign(position)
        self.received, self.position = set(), position

        assert epoch + 1 == self.tracker.epoch
        assert self.tracker.committable() is None

    @precondition(lambda self: self.tracker.owned)
    @rule()
    def revoke(self) -> None:
        self.tracker.revoke()
        self.received, self.done = set(), set()

        assert self.tracker.committable() is None

    @precondition(lambda self: self.tracker.owned)
    @rule(gap=st.integers(0, 3), jitter=st.integers(-30, 30))
    def receive_the_next(self, gap: int, jitter: int) -> None:
        offset = max(self.received, default=self.position - 1) + 1 + gap
        expected = offset not in self.done
        self.received.add(offset)

        assert expected == self.tracker.receive(offset, self.time_of(offset, jitter))

    @precondition(lambda self: self.tracker.owned and self.received)
    @rule(data=st.data())
    def receive_again(self, data: st.DataObject) -> None:
        """What lies below the position was delivered before, or never will be."""
        offset = data.draw(st.integers(0, max(self.received)))

        assert not self.tracker.receive(offset, self.time_of(offset, 0))

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Any offset at any time: in time, twice, after the partition is gone, before it is delivered again."""
        offset = data.draw(st.sampled_from(sorted(self.received)) if self.received else st.integers(0, 35))
        if self.tracker.owned and offset >= self.tracker.base:
            self.done.add(offset)
        self.tracker.complete(offset)
        self.tracker.complete(offset)

    @rule(offset=st.integers(0, 40))
    def complete_anything(self, offset: int) -> None:
        if self.tracker.owned and offset >= self.tracker.base:
            self.done.add(offset)
        self.tracker.complete(offset)

    @precondition(lambda self: self.tracker.committable() is not None)
    @rule()
    def snapshot(self) -> None:
        commit = self.tracker.committable()
        assert commit is not None
        self.snapshots.append(commit)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Snapshots succeed in any order and as late as they like; those of an earlier assignment change nothing."""
        snapshot = data.draw(st.sampled_from(self.snapshots))
        before = (self.tracker.committed, self.tracker.committed_ms)
        self.tracker.commit_succeeded(snapshot)

        if snapshot.epoch != self.tracker.epoch or snapshot.offset <= before[0]:
            assert before == (self.tracker.committed, self.tracker.committed_ms)
        else:
            assert snapshot[:2] == (self.tracker.committed, self.tracker.committed_ms)

    @invariant()
    def no_commit_passes_an_incomplete_offset(self) -> None:
        commit = self.tracker.committable()
        if commit is not None:
            assert all(offset >= commit.offset for offset in self.open)
            assert all(offset in self.done for offset in self.received if offset < commit.offset)

    @invariant()
    def what_is_complete_can_be_committed(self) -> None:
        if self.tracker.owned and self.received:
            expected = min(self.open, default=max(self.received) + 1)
            assert expected == self.tracker.base

    @invariant()
    def a_commit_says_when_the_lowest_incomplete_was_asked(self) -> None:
        commit = self.tracker.committable()
        if commit is not None:
            newest = max(self.times[offset] for offset in self.received)
            expected = self.times[min(self.open)] if self.open else newest
            assert expected == commit.timestamp_ms

    @invariant()
    def the_span_is_what_intake_is_ahead(self) -> None:
        if self.tracker.owned:
            assert self.tracker.position - self.tracker.base == self.tracker.span
            assert 0 <= self.tracker.span


TestOffsets = Offsets.TestCase


def test_nothing_can_be_committed_where_nothing_was_completed() -> None:
    tracker = OffsetTracker()
    tracker.assign(5)
    tracker.receive(5, 100)

    assert tracker.committable() is None


def test_an_offset_that_was_completed_while_the_partition_was_kept_is_not_done_again() -> None:
    tracker = OffsetTracker()
    tracker.assign(0)
    tracker.receive(0, 1)
    tracker.receive(1, 2)
    tracker.complete(1)
    tracker.assign(0)

    assert tracker.receive(0, 1)
    assert not tracker.receive(1, 2)


def test_an_offset_that_was_completed_elsewhere_is_done_again_after_the_partition_was_away() -> None:
    tracker = OffsetTracker()
    tracker.assign(0)
    tracker.receive(0, 1)
    tracker.complete(0)
    tracker.revoke()
    tracker.assign(0)

    assert tracker.receive(0, 1)


def test_the_timestamp_of_a_commit_is_of_this_assignment() -> None:
    tracker = OffsetTracker()
    tracker.assign(0)
    tracker.receive(9, 1000)
    tracker.complete(9)
    tracker.assign(0)
    tracker.receive(0, 0)
    tracker.complete(0)

    assert Commit(offset=1, timestamp_ms=0, epoch=2) == tracker.committable()


def test_a_late_commit_of_an_earlier_assignment_says_nothing_about_this_one() -> None:
    tracker = OffsetTracker()
    tracker.assign(0)
    tracker.receive(0, 1)
    tracker.complete(0)
    old = tracker.committable()
    assert old is not None
    tracker.assign(0)
    tracker.commit_succeeded(old)

    assert (0, NEVER) == (tracker.committed, tracker.committed_ms)


def test_an_attempt_that_is_still_expected_keeps_its_time_from_being_forgotten() -> None:
    tracker = OffsetTracker()
    tracker.assign(0)
    tracker.receive(0, 1000)
    tracker.expect(900)

    assert 900 == tracker.committed_ms


def test_it_says_its_state_in_one_line() -> None:
    tracker = OffsetTracker()
    tracker.assign(3)
    tracker.receive(3, 1)
    tracker.receive(5, 1)
    tracker.complete(5)

    assert "<OffsetTracker owned, epoch 1, base 3, position 6, 1 done>" == repr(tracker)
