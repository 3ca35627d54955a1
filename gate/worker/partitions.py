"""The decision table of one attempts partition and its ledger twin: what to do next with every ask.

Pure: methods change all state at once and return the work to do, which `gate.worker.worker` then does. The rules are those
of protocol/README.md, named by their number. Only an answer found in the folded table ever becomes a reply (rule 2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gate.ledger.answer import Answer, Entry, answer
from gate.ledger.ports import Slice
from gate.ledger.table import NEVER, LedgerTable, Rewound
from gate.model.decision import Texts
from gate.model.wire import Ask, LedgerHeaders, Message
from gate.worker.offsets import OffsetTracker

CLOCK_ALLOWANCE_MS = 60_000
"""How far apart clocks may be: S of the protocol."""


class Stage(Enum):
    """Where an ask in flight is."""

    RUN = "run"  # its chain runs
    APPEND = "append"  # its decision is on the way to the ledger
    WAIT = "wait"  # another ask of its id runs or appends
    REPLY = "reply"  # answered, the reply is on its way
    GONE = "gone"  # cancelled and deregistered, or complete


class Flight:
    """One ask in flight: the mutable side of an `Ask`."""

    __slots__ = (
        "answer",
        "append",
        "appended_at",
        "ask",
        "attempt_id",
        "digest",
        "document",
        "event",
        "offset",
        "source",
        "stage",
        "started_at",
        "task",
        "texts",
        "timestamp_ms",
        "user",
    )

    def __init__(
        self, ask: Ask, digest: bytes, event: dict[str, Any] | None, started_at: float, texts: Texts | None = None
    ) -> None:
        self.ask = ask
        self.attempt_id = ask.attempt_id
        self.timestamp_ms = ask.record.timestamp
        self.offset = ask.record.offset
        self.source = ask.source
        self.digest = digest
        self.event = event  # the parsed attempt until it is decided; None where it cannot be read
        user = None if event is None else event.get("user")
        self.user: dict[str, Any] = user if type(user) is dict else {}  # its `user`, whose metadata the reply merges
        self.started_at = started_at  # monotonic seconds
        self.texts = texts  # fixed texts in the person's language; None: the built-in ones
        self.stage = Stage.GONE
        self.answer: Answer | None = None
        self.append: Append | None = None  # what was decided here and is being appended
        self.document: dict[str, Any] | None = None  # the decision that `append` carries
        self.appended_at = 0.0
        self.task: Any = None  # the chain's task, where it waits for something

    def __repr__(self) -> str:
        return f"<Flight {self.attempt_id} of {self.source}: {self.stage.value}>"


@dataclass(frozen=True, slots=True)
class Append:
    """A decision on its way to the ledger."""

    headers: LedgerHeaders
    message: Message
    flight: Flight
    body: bytes = b""  # the decision as replies begin with it

    @property
    def is_needed(self) -> bool:
        """Whether its ask still waits for it: not dropped, not answered but by assuming it, nothing decided in its place."""
        flight = self.flight
        if flight.answer is not None and flight.answer.entry.offset < 0:  # assumed: the ledger is still to have it
            return True
        return flight.append is self and flight.stage is Stage.APPEND

    def at(self, offset: int) -> Entry:
        """Return the record as it stands in the ledger."""
        return Entry(offset, *self.headers, self.message.value)


class Step(Enum):
    """What to do with an ask that was just taken."""

    RUN = "run"  # decide it
    REPLY = "reply"  # its answer is known
    WAIT = "wait"  # nothing: another ask of its id is being decided
    SKIP = "skip"  # nothing: complete, or in flight already and adopted (rule 10)
    EXTEND = "extend"  # not taken: the table must reach further back first (rule 11)


@dataclass(slots=True)
class Work:
    """What a change of state asks for, in the order to do it."""

    cancelled: list[Flight] = field(default_factory=list)  # stop their chains
    dropped: list[Flight] = field(default_factory=list)  # deregistered; not ours any more
    replies: list[Flight] = field(default_factory=list)  # answered: send the reply
    runs: list[Flight] = field(default_factory=list)  # waited for another ask, run themselves now (rule 13)
    rewound: bool = False  # rebuild the table, then append what is unresolved again (rule 7)


class Partition:
    """Everything one worker knows of one partition. The ledger side lives on when the partition is taken away (rule 22)."""

    def __init__(self, number: int, *, window_ms: int, bodies_max: int) -> None:
        self.number = number
        self.offsets = OffsetTracker()
        self.table = LedgerTable(window_ms=window_ms, bodies_max=bodies_max)
        self.covered = False  # the table is the fold of something
        self.ready = False  # owned, and the table reaches `target`
        self.target: int | None = None  # None: not known yet for this assignment
        self.held: deque[Any] = deque()  # records delivered before the partition was ready
        self._window_ms = window_ms
        self.flying: dict[int, Flight] = {}
        self._leaders: dict[str, Flight] = {}  # per id, the one ask in RUN or APPEND
        self._waiters: dict[str, list[Flight]] = {}

    def __repr__(self) -> str:
        state = "ready" if self.ready else "not ready"
        return f"<Partition {self.number} {state}, {len(self.flying)} in flight, {self.offsets!r}, {self.table!r}>"

    @property
    def wants_ledger(self) -> bool:
        """Whether the ledger must be read: to become ready, or up to an acknowledged record of ours (rules 8, 20)."""
        behind = self.offsets.owned and self.target is not None and self.table.next < self.target
        return self.covered and (behind or bool(self.table.acked))

    # -- Assignment (rules 18 to 22) --------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop taking: a rebalance begins."""
        self._stop_taking()
        self.held.clear()

    def assign(self, position: int) -> None:
        """Begin an assignment at the committed offset; not ready until `cover` and the reads after it say so."""
        self.offsets.assign(position)
        self.pause()

    def keeps_table(self, since_ms: int) -> bool:
        """Whether the table has all that may answer an attempt of that time (rules 11, 19)."""
        return self.covered and self.table.covers(since_ms, CLOCK_ALLOWANCE_MS) and self.table.remembers(since_ms)

    def read_back_from(self, since_ms: int, now_ms: int) -> int:
        """Return the time from which the ledger must be read for an intake that begins with an attempt of `since_ms`."""
        return min(now_ms, since_ms) - self._window_ms - 2 * CLOCK_ALLOWANCE_MS

    def rebuild(self, offset: int, *, from_ms: int, at_start: bool, keep_acked: bool) -> None:
        """Drop the table and begin it anew at `offset` (rules 7, 9, 19)."""
        self.table.restart(offset, from_ts=NEVER if at_start else from_ms, keep_acked=keep_acked)
        self.covered = True
        self.ready = False
        self._become_ready()

    def aim(self, end: int) -> None:
        """Set what must be read before anything is taken (rule 20)."""
        self.target = end
        self._become_ready()

    def aims_beyond(self, end: int) -> bool:
        """Whether more is to be read before anything is taken than a ledger that ends there holds."""
        return self.target is not None and self.target > end

    def lower_aim(self, end: int) -> None:
        """Take back a target that the ledger does not reach any more."""
        if self.aims_beyond(end):
            self.aim(end)

    def lose(self) -> Work:
        """End an assignment that was not renewed: what runs is cancelled and deregistered, what is published goes on."""
        self.offsets.revoke()
        self.pause()
        work = Work()
        for flight in list(self.flying.values()):
            leader = self._leaders.get(flight.attempt_id)
            behind_append = leader is not None and leader.stage is Stage.APPEND
            if flight.stage is Stage.RUN:
                work.cancelled.append(flight)
            elif flight.stage is not Stage.WAIT or behind_append:
                continue
            self._deregister(flight)
            work.dropped.append(flight)
        self.let_go()
        return work

    def let_go(self) -> None:
        """Forget the table of a partition that is not ours, once nothing of ours is in flight there.

        Nobody follows the ledger from there on: when the partition comes back, all that was written since would have to be
        read. Reading the window back is always right (rule 19).
        """
        if self.offsets.owned or self.flying:
            return
        if not self.covered:
            self.table.acked.clear()  # nobody reads up to them any more; a new table is read back
        elif not self.table.acked:
            self.covered = False
            self.table.restart(0, from_ts=NEVER)

    def _stop_taking(self) -> None:
        self.ready = False
        self.target = None  # an acknowledgement that arrives before `aim` must not make it ready again

    def _become_ready(self) -> None:
        if self.offsets.owned and self.covered and self.target is not None and self.table.next >= self.target:
            self.ready = True

    # -- Taking an ask (rules 10 to 13) -----------------------------------------------------------------------------------

    def take(self, flight: Flight) -> Step:
        """Take one ask in; the partition must be ready."""
        if not self.keeps_table(flight.timestamp_ms):
            self.offsets.expect(flight.timestamp_ms)
            self._stop_taking()
            return Step.EXTEND
        if not self.offsets.receive(flight.offset, flight.timestamp_ms) or flight.offset in self.flying:
            return Step.SKIP  # a redelivered ask in flight is adopted: it is received in this epoch now and completes in it
        self._evict()
        self.flying[flight.offset] = flight
        flight.answer = self.table.answer(flight)
        if flight.answer is not None:
            flight.stage = Stage.REPLY
            return Step.REPLY
        if flight.attempt_id in self._leaders:
            flight.stage = Stage.WAIT
            self._waiters.setdefault(flight.attempt_id, []).append(flight)
            return Step.WAIT
        self._lead(flight)
        return Step.RUN

    def decided(self, flight: Flight, append: Append, document: dict[str, Any]) -> bool:
        """Move an ask whose chain ended to its append; False if it was resolved or dropped meanwhile.

        Called again to append another decision for it, where the first cannot be written (rule 15).
        """
        if flight.stage is not Stage.RUN and not (flight.stage is Stage.APPEND and flight.append is not None):
            return False
        flight.stage = Stage.APPEND
        flight.append = append
        flight.document = document
        return True

    def assume(self, flight: Flight) -> Work:
        """Answer an ask by what was decided here, before the ledger has it: mode `at_least_once` only."""
        assert flight.append is not None
        entry = flight.append.at(-1)
        return self._resolve(flight.attempt_id, lambda ask: answer((entry,), ask, self._window_ms))

    def complete(self, flight: Flight) -> None:
        """End an ask whose reply, or dead letter, is acknowledged (rule 16)."""
        self._deregister(flight)
        self.offsets.complete(flight.offset)

    def unresolved(self) -> list[Flight]:
        """Return the asks whose append is not known to be in the ledger."""
        return [flight for flight in self._leaders.values() if flight.stage is Stage.APPEND]

    # -- The ledger (rules 3 to 9) ----------------------------------------------------------------------------------------

    def acknowledged(self, base_offset: int, batch: Iterable[Append]) -> Work:
        """Take in the acknowledgement of a batch of appends: its records stand from base_offset on."""
        work = Work()
        if base_offset < 0:  # written, but nobody says where: the timer appends again
            return work
        try:
            for offset, append in enumerate(batch, base_offset):
                for entry in self.table.acknowledge(append.at(offset)):
                    self._folded(entry, work)
        except Rewound:
            return self.rewound(work)
        self._become_ready()
        return work

    def read(self, part: Slice) -> Work:
        """Take in what was read from `table.next` on."""
        work = Work()
        try:
            for entry in self.table.read(part.entries, part.next_offset):
                self._folded(entry, work)
        except Rewound:
            return self.rewound(work)
        self._become_ready()
        return work

    def rewound(self, work: Work | None = None) -> Work:
        """Drop a table that is not the fold of the ledger any more: nothing is answered until it is built anew (rule 7)."""
        self.table.restart(0, from_ts=NEVER)
        self.covered = False
        self._stop_taking()
        work = work or Work()
        work.rewound = True
        return work

    def _folded(self, entry: Entry, work: Work) -> None:
        if entry.attempt_id in self._leaders:
            self._resolve(entry.attempt_id, self.table.answer, work)
        self._evict()

    def _resolve(self, attempt_id: str, find: Callable[[Flight], Answer | None], work: Work | None = None) -> Work:
        """Answer the asks of an id that can be answered.

        Where the leader ended without an answer for a waiter, that one leads (rule 13).
        """
        work = work or Work()
        leader = self._leaders.get(attempt_id)
        if leader is not None and self._answer(leader, find, work):
            del self._leaders[attempt_id]
            leader = None
        waiters = self._waiters.pop(attempt_id, None)
        if waiters:
            waiting = [flight for flight in waiters if not self._answer(flight, find, work)]
            if waiting and leader is None:
                first = waiting.pop(0)
                self._lead(first)
                work.runs.append(first)
            if waiting:
                self._waiters[attempt_id] = waiting
        return work

    def _answer(self, flight: Flight, find: Callable[[Flight], Answer | None], work: Work) -> bool:
        found = find(flight)
        if found is None:
            return False
        if flight.stage is Stage.RUN:
            work.cancelled.append(flight)
        flight.stage = Stage.REPLY
        flight.answer = found
        work.replies.append(flight)
        return True

    def _lead(self, flight: Flight) -> None:
        flight.stage = Stage.RUN
        self._leaders[flight.attempt_id] = flight

    def _deregister(self, flight: Flight) -> None:
        flight.stage = Stage.GONE
        flight.append = None  # it refers back to the flight: a cycle would keep all of an attempt until the collector comes
        if self.flying.get(flight.offset) is flight:
            del self.flying[flight.offset]
        if self._leaders.get(flight.attempt_id) is flight:
            del self._leaders[flight.attempt_id]
        waiters = self._waiters.get(flight.attempt_id)
        if waiters and flight in waiters:
            waiters.remove(flight)
            if not waiters:
                del self._waiters[flight.attempt_id]

    def _evict(self) -> None:
        # the next attempts may be stamped by a broker whose clock is behind: without the allowance each would be an EXTEND
        if self.offsets.owned:
            before_ms = self.offsets.committed_ms - self._window_ms - CLOCK_ALLOWANCE_MS
            self.table.evict(before_ms, self.offsets.committed)
