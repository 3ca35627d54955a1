"""Which offsets of one attempts partition are complete, and which one may be committed.

Kept are the offsets that were really received, in order, so that gaps left by compaction or transaction markers need no
code. What may be committed is the lowest incomplete one, else the highest *completed* one plus one: committing the
highest seen was a message loss elsewhere (confluentinc/parallel-consumer #826).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gate.ledger.table import NEVER


class Commit(NamedTuple):
    """One immutable snapshot of what may be committed (parallel-consumer #894: never compute it twice)."""

    offset: int  # the next offset to be processed after a crash
    timestamp_ms: int  # of the attempt there, or of the newest received if none is incomplete
    epoch: int


class OffsetTracker:
    """Offsets of one partition over its assignments; every method changes all state at once."""

    def __init__(self) -> None:
        self.owned = False
        self.epoch = 0  # counts assignments
        self.base = 0  # lowest offset that is not complete (rule 17)
        self.position = 0  # one above the highest offset received in this epoch
        self.committed = 0
        self.committed_ms = NEVER  # timestamp of the lowest uncommitted attempt (rule 23)
        self._newest_ms = NEVER
        self._received: deque[tuple[int, int]] = deque()  # (offset, timestamp), ascending, from base on
        self._done: set[int] = set()

    def __repr__(self) -> str:
        state = "owned" if self.owned else "not owned"
        return f"<OffsetTracker {state}, epoch {self.epoch}, base {self.base}, position {self.position}, {len(self._done)} done>"

    @property
    def span(self) -> int:
        """How far intake is ahead of the oldest incomplete offset."""
        return self.position - self.base

    def assign(self, position: int) -> None:
        """Begin an assignment at the committed offset, even if it is lower than before (rule 18)."""
        self.owned = True
        self.epoch += 1
        self.base = self.position = self.committed = position
        self.committed_ms = self._newest_ms = NEVER  # what an earlier assignment received says nothing about this one
        self._received.clear()
        self._done = {offset for offset in self._done if offset >= position}

    def revoke(self) -> None:
        """End an assignment that was not renewed (rule 22)."""
        self.owned = False
        self._done.clear()
        self._received.clear()

    def expect(self, timestamp_ms: int) -> None:
        """Note that an attempt so old is still to be received: what may answer it must not be evicted meanwhile."""
        self.committed_ms = min(self.committed_ms, timestamp_ms)

    def receive(self, offset: int, timestamp_ms: int) -> bool:
        """Note an offset that was received; tell whether it is still to be done (rule 10)."""
        if offset < self.position:  # below base, or delivered twice in one epoch
            return False
        self.position = offset + 1
        self._received.append((offset, timestamp_ms))
        self._newest_ms = max(self._newest_ms, timestamp_ms)
        if self.committed_ms == NEVER:
            self.committed_ms = timestamp_ms
        self._advance()
        return offset >= self.base and offset not in self._done

    def complete(self, offset: int) -> None:
        """Note that an offset's reply (or dead letter) is acknowledged. Idempotent; ignored where it is not ours any more."""
        if self.owned and offset >= self.base:
            self._done.add(offset)
            self._advance()

    def committable(self) -> Commit | None:
        """Return what may be committed now; None if that is committed already or the partition is not ours."""
        if not self.owned or self.base <= self.committed:
            return None
        return Commit(self.base, self._received[0][1] if self._received else self._newest_ms, self.epoch)

    def commit_succeeded(self, commit: Commit) -> None:
        """Note that a snapshot is committed; one of an earlier assignment says nothing about this one."""
        if commit.epoch == self.epoch and commit.offset > self.committed:
            self.committed = commit.offset
            self.committed_ms = commit.timestamp_ms

    def _advance(self) -> None:
        received, done = self._received, self._done
        while received and received[0][0] in done:
            offset = received.popleft()[0]
            done.discard(offset)
            self.base = offset + 1
        if received:
            self.base = received[0][0]
