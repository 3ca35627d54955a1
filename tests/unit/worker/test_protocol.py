"""The protocol as a whole, on the real decision table and the real scribe, in a world where everything goes wrong.

Several workers share one ledger with a high watermark. A scheduler picks what happens next: which of a worker's awaits ends
and how, which record is replicated, who owns a partition, who crashes, what the clocks say. Nothing runs on an event loop, so
a run is a list of numbers: Hypothesis shrinks it, and a seed repeats it. In the spirit of protocol/model.py.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.ledger import table as table_module
from gate.ledger.answer import Answer, Entry, answer
from gate.ledger.digest import Digester
from gate.ledger.ports import Appended, LogRejected, LogUnavailable, Slice
from gate.ledger.table import LedgerTable
from gate.model import decision
from gate.model.decision import Cause, Scope
from gate.model.wire import LedgerHeaders, Message, encode_ledger, read_ask, read_ledger
from gate.worker import partitions as partitions_module
from gate.worker import scribe as scribe_module
from gate.worker.clock import BrokerClock
from gate.worker.offsets import Commit, OffsetTracker
from gate.worker.partitions import Append, Flight, Partition, Stage, Step, Work
from gate.worker.scribe import LedgerScribe

WINDOW_MS = 400
ALLOWANCE_MS = 40
LONG_MS = 100_000  # a window that never ends
LARGE = b"x" * 2000  # no broker takes it
MAX_BYTES = 1000


class Violation(AssertionError):
    """A promise does not hold."""


@dataclass(frozen=True)
class Question:
    """One ask: its id, what it says, when it is written in real time, and its broker's clock."""

    id: str
    says: str = "a"
    at: int = 0
    skew: int = 0
    large: bool = False  # its decision is too large for the ledger

    @property
    def ts(self) -> int:
        return self.at + self.skew


@dataclass
class Ask:
    """A record of the attempts topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Op:
    """An await of a worker: the scheduler decides when it ends, and how."""

    def __init__(self, kind: str, *args: Any, early: Any = None) -> None:
        self.kind, self.args, self.early = kind, args, early
        self.base: int | None = None  # where an append landed
        self.slice: Slice | None = None  # what a read saw

    def __await__(self) -> Generator[Op, Any, Any]:
        return (yield self)


class Lock:
    """An asyncio.Lock for the scheduler."""

    def __init__(self) -> None:
        self.held = False

    async def __aenter__(self) -> None:
        while self.held:
            await Op("lock", self)
        self.held = True

    async def __aexit__(self, *_: object) -> None:
        self.held = False


def too_large(batch: Sequence[Message]) -> bool:
    return any(len(message.value or b"") > MAX_BYTES for message in batch)


async def sleep(_: float) -> None:
    await Op("sleep")


class Task:
    """A coroutine of a worker and what it waits for."""

    def __init__(self, coro: Coroutine[Op, Any, None], name: str) -> None:
        self.coro, self.name = coro, name
        self.op: Op | None = None

    def resume(self, value: Any = None, error: BaseException | None = None) -> bool:
        """Go on; True where it ended."""
        try:
            self.op = self.coro.send(value) if error is None else self.coro.throw(error)
        except StopIteration:
            return True
        return False


class Worker:
    """A member of the group: what `gate.worker.{worker,intake,sender}` do around partitions and scribe."""

    def __init__(self, world: World, name: str, skew: int) -> None:
        self.world, self.name = world, name
        self.tasks: list[Task] = []
        self.fresh: deque[Task] = deque()
        self.running: list[tuple[int, Flight]] = []
        self.replying: list[tuple[int, Flight]] = []
        self.commits: list[tuple[int, Commit]] = []
        self.paused: set[int] = set()  # a rebalance began, the assignment has not come yet
        self.held: dict[int, deque[int]] = {}
        self.clock = BrokerClock(own_ms=lambda: world.now + skew)
        nothing = SimpleNamespace(appended=lambda _: None, gap=lambda: None, rewound=lambda: world.count("rewound"))
        self.scribe = LedgerScribe(
            self,  # its Log
            clock=self.clock,
            recorder=nothing,
            spawn=self.spawn,
            max_batch_bytes=4000,
            on_work=self.do,
            on_rejected=self.reject,
        )
        self.parts = [
            Partition(number, window_ms=world.window_ms, bodies_max=world.bodies_max) for number in range(len(world.asks))
        ]
        for part in self.parts:
            part.__dict__["worker"], part.__dict__["world"] = self, world
        self.position = [0] * len(self.parts)

    # The Log

    async def append(self, number: int, batch: Sequence[Message]) -> Appended:
        return await Op("append", number, list(batch))

    async def read(self, number: int, offset: int) -> Slice:
        return await Op("read", number, offset)

    async def bounds(self, number: int) -> tuple[int, int]:
        return await Op("bounds", number, early=self.world.bounds(number))

    async def offset_at(self, number: int, timestamp_ms: int) -> int:
        return await Op("offset_at", number, timestamp_ms, early=self.world.offset_at(number, timestamp_ms))

    # The event loop

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        self.fresh.append(Task(coro, name))

    def run_fresh(self) -> None:
        while self.fresh:
            task = self.fresh.popleft()
            if not task.resume():
                self.tasks.append(task)

    def resume(self, task: Task, value: Any = None, error: BaseException | None = None) -> None:
        if task.resume(value, error):
            self.tasks.remove(task)

    def close(self) -> None:
        for task in (*self.tasks, *self.fresh):
            task.coro.close()

    # The worker

    def take(self, number: int) -> None:
        part, world = self.parts[number], self.world
        offset = self.position[number]
        flight = world.flight(number, offset)
        step = part.take(flight)
        if step is Step.EXTEND:
            self.prepare(number)
            return
        self.position[number] = offset + 1
        if step is Step.RUN:
            self.running.append((number, flight))
        elif step is Step.REPLY:
            self.reply(number, flight)

    def decide(self, number: int, flight: Flight, *, expired: bool) -> None:
        self.running.remove((number, flight))
        self.word(number, flight, Cause.EXPIRED if expired else None)

    def word(self, number: int, flight: Flight, cause: Cause | None) -> None:
        large = self.world.asks[number][flight.offset].large and cause is None
        says = orjson.dumps([self.name, self.world.serial(), cause or "approved"]) + (LARGE if large else b"")
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, decision.SCOPES[cause])
        append = Append(headers, encode_ledger(headers, says), flight)
        if self.parts[number].decided(flight, append, {}):
            self.scribe.append(self.parts[number], append)
            if self.world.at_least_once:
                self.do(self.parts[number], self.parts[number].assume(flight))

    def reject(self, part: Partition, append: Append) -> bool:
        if append.flight.stage is Stage.APPEND and append.flight.append is append:
            self.word(part.number, append.flight, Cause.ACTION_FAILED)
        return True

    def do(self, part: Partition, work: Work) -> None:
        for flight in work.cancelled:
            self.running = [running for running in self.running if running[1] is not flight]
        for flight in work.replies:
            self.reply(part.number, flight)
        self.running += [(part.number, flight) for flight in work.runs]

    def reply(self, number: int, flight: Flight) -> None:
        assert flight.answer is not None
        self.world.check_reply(number, flight)
        self.replying.append((number, flight))

    def prepare(self, number: int) -> None:
        async def since() -> float:
            early = self.clock.now_ms() - partitions_module.CLOCK_ALLOWANCE_MS
            return await Op("since", number, early=early)

        self.spawn(self.scribe.prepare(self.parts[number], since), name=f"prepare {number}")

    def assign(self, number: int) -> None:
        part = self.parts[number]
        self.paused.discard(number)
        self.position[number] = self.world.committed[number]
        part.assign(self.position[number])
        self.prepare(number)

    def lose(self, number: int) -> None:
        self.paused.discard(number)
        self.do(self.parts[number], self.parts[number].lose())


FAULTS = (
    "crash", "move", "zombie", "keep", "rewind", "ack_lost", "ack_late", "ack_doubled", "ghost", "never", "reply_lost", "leader",
    "late_commit", "commit_lost", "read_fails", "drop_table", "slow_first", "sweep", "retention", "unclean",
)  # fmt: skip
SAFE = tuple(name for name in FAULTS if name != "unclean")


class World:
    """Everything: the topics, the group, the workers, and the promises."""

    def __init__(
        self,
        asks: Sequence[Sequence[Question]],
        pick: Callable[[int], int],
        *,
        workers: int = 2,
        faults: dict[str, int],
        window_ms: int = LONG_MS,
        bodies_max: int = 1000,
        expire: bool = False,
        skews: bool = False,
        at_least_once: bool = False,
        acks_one: bool = False,
        checks: frozenset[str] = frozenset({"reply", "commit", "table"}),
    ) -> None:
        self.asks = asks
        self.pick = pick
        self.faults = dict(faults)
        self.window_ms, self.bodies_max, self.expire, self.skews = window_ms, bodies_max, expire, skews
        self.at_least_once, self.acks_one, self.checks = at_least_once, acks_one, checks
        self.now = 0
        self.ledger_skew = 0
        self.log: list[list[tuple[Message, int]]] = [[] for _ in asks]
        self.start = [0] * len(asks)
        self.hw = [0] * len(asks)
        self.committed = [0] * len(asks)
        self.owner = [0] * len(asks)
        self.ghosts: list[tuple[int, list[Message]]] = []
        self.late: list[tuple[Worker, int, int, list[Append]]] = []
        self.replies: dict[str, tuple[bytes, bool]] = {}
        self.acked: set[tuple[int, int]] = set()
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self._serial = itertools.count(1)
        self._digester = Digester(())
        self.workers = [Worker(self, f"w{n}", n * ALLOWANCE_MS // 2 if skews else 0) for n in range(workers)]
        for number in range(len(asks)):
            self.workers[0].assign(number)
        self._run_fresh()

    # -- What is there ----------------------------------------------------------------------------------------------------

    def serial(self) -> int:
        return next(self._serial)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def flight(self, number: int, offset: int) -> Flight:
        question = self.asks[number][offset]
        # every other one is encoded differently: that is no conflict (property 11)
        document = {"says": question.says, "n": 1} if offset % 2 else {"n": 1.0, "says": question.says}
        record = Ask("a", number, offset, question.ts, question.id.encode(), b"", [("gate-attempt-id", question.id.encode())])
        ask = read_ask(record, default_timeout_ms=1, max_timeout_ms=1)
        return Flight(ask, self._digester.of_document(document), document, 0.0)

    def bounds(self, number: int) -> tuple[int, int]:
        return self.start[number], self.hw[number]

    def offset_at(self, number: int, timestamp_ms: int) -> int:
        for offset in range(self.start[number], self.hw[number]):
            if self.log[number][offset][1] >= timestamp_ms:
                return offset
        return self.hw[number]

    def entries(self, number: int, first: int, end: int) -> list[Entry]:
        found = []
        for offset in range(first, end):
            message = self.log[number][offset][0]
            headers = read_ledger(message.key, message.headers)
            if headers is not None:
                found.append(Entry(offset, *headers, message.value))
        return found

    def land(self, number: int, batch: list[Message]) -> int:
        base = len(self.log[number])
        self.log[number] += [(message, self.now + self.ledger_skew) for message in batch]
        return base

    # -- Promises ---------------------------------------------------------------------------------------------------------

    def truth(self, number: int, flight: Flight) -> Answer | None:
        return answer(self.entries(number, 0, self.hw[number]), flight, self.window_ms)

    def check_reply(self, number: int, flight: Flight) -> None:
        """Properties 2, 4, 7, 8, 9, 10, 12, 13: a reply is what the replicated ledger says, and always the same."""
        assert flight.answer is not None
        entry, conflict = flight.answer
        value = entry.value
        if value is None:  # its body is read from the ledger
            value = self.log[number][entry.offset][0].value
        assert value is not None
        before = self.replies.setdefault(flight.source, (value, conflict))
        if "reply" in self.checks:
            if before != (value, conflict):
                raise Violation(f"{flight.source} was answered {before} and now {value!r}")
            truth = self.truth(number, flight)
            if truth is None or (truth.entry.value, truth.conflict) != (value, conflict):
                raise Violation(f"{flight.source} is answered {value!r} conflict={conflict}, the ledger says {truth}")
        if "deadline" in self.checks and orjson.loads(value)[2] == "expired" and entry.source != flight.source:
            raise Violation(f"{flight.source} is told `expired` because of {entry.source}")

    def check_commit(self, number: int, offset: int) -> None:
        """Property 5: nothing unanswered or undecided is committed."""
        if "commit" not in self.checks:
            return
        for source in range(offset):
            if (number, source) not in self.acked:
                raise Violation(f"commit {number}:{offset} passes ask {source} whose reply is not acknowledged")
            if not self.at_least_once and self.truth(number, self.flight(number, source)) is None:
                raise Violation(f"commit {number}:{offset} passes ask {source} that is not decided")

    def check_tables(self) -> None:
        """Property 1: the table is the fold of the ledger's prefix, less what it says that it forgot."""
        if "table" not in self.checks:
            return
        for worker in self.workers:
            for part in worker.parts:
                table = part.table
                if not part.covered:  # a table that is being built anew
                    continue
                if table.next > self.hw[part.number]:
                    raise Violation(f"{part} is ahead of the ledger, which ends at {self.hw[part.number]}")
                held = list(table)
                known = {entry.offset for entry in held}
                for entry in held:
                    there = self.entries(part.number, entry.offset, entry.offset + 1)
                    if entry.offset >= table.next or not there or not there[0].same(entry):
                        raise Violation(f"{part} holds {entry}, the ledger has {there}")
                if held:
                    for entry in self.entries(part.number, held[0].offset, table.next):
                        if entry.offset not in known:
                            raise Violation(f"{part} has not folded {entry}")

    # -- What may happen --------------------------------------------------------------------------------------------------

    def options(self, faults: bool) -> Iterator[tuple[int, str, Callable[[], Any]]]:
        """Everything that may happen next: weight, name, how."""

        def fault(name: str) -> bool:
            return faults and self.faults.get(name, 0) > 0

        for worker in self.workers:
            for task in list(worker.tasks):
                yield from self._awaits(worker, task, fault)
            yield from self._work(worker, fault)
        for number in range(len(self.asks)):
            if self.hw[number] < len(self.log[number]):
                yield 6, f"replicate {number}", lambda number=number: self._replicate(number)
            yield from self._group(number, fault)
        for ghost in self.ghosts:
            yield 1, f"delayed append lands in {ghost[0]}", lambda ghost=ghost: (self.ghosts.remove(ghost), self.land(*ghost))
        for late in self.late:
            yield 1, "late acknowledgement", lambda late=late: self._late(late)
        waiting = [asks[max(w.position[n] for w in self.workers)].at for n, asks in enumerate(self.asks)
                   if max(w.position[n] for w in self.workers) < len(asks)]  # fmt: skip
        if waiting and min(waiting) > self.now:
            yield 3, "time", lambda: setattr(self, "now", min(waiting))
        elif faults:
            yield 1, "time", lambda: setattr(self, "now", self.now + 7)
        if fault("retention"):
            yield 1, "retention", self._retention
        if faults and self.skews:
            yield 1, "the ledger's clock", lambda: setattr(self, "ledger_skew", ALLOWANCE_MS - self.ledger_skew)

    def _awaits(self, worker: Worker, task: Task, fault: Callable[[str], bool]) -> Iterator[tuple[int, str, Any]]:
        op = task.op
        assert op is not None
        name = f"{worker.name} {task.name}: {op.kind}"

        def fails(error: Exception) -> Callable[[], None]:
            return lambda: worker.resume(task, error=error)

        if op.kind == "append":
            number, batch = op.args
            if op.base is None:
                if too_large(batch):
                    yield 5, f"{name} rejected", fails(LogRejected("too large"))
                    return
                yield 8, f"{name} lands", lambda: setattr(op, "base", self.land(number, batch))
                if fault("ghost"):
                    yield 1, f"{name} is delayed", lambda: (
                        self._spend("ghost"), self.ghosts.append((number, batch)), fails(LogUnavailable("slow"))()
                    )  # fmt: skip
                if fault("never"):
                    yield 1, f"{name} is lost", lambda: (self._spend("never"), fails(LogUnavailable("lost"))())
                return
            base = op.base
            if base + len(batch) <= self.hw[number] or self.acks_one:
                stamp = self.log[number][base][1]
                yield 8, f"{name} acknowledged at {base}", lambda: worker.resume(task, Appended(base, stamp))
            appends = self._appends(worker, number, batch)
            if fault("ack_lost"):
                yield 1, f"{name}: ack lost", lambda: (self._spend("ack_lost"), fails(LogUnavailable("no ack"))())
            if fault("ack_late") and appends is not None:
                yield 1, f"{name}: ack late", lambda: (
                    self._spend("ack_late"), self.late.append((worker, number, base, appends)), fails(LogUnavailable("no ack"))()
                )  # fmt: skip
            if fault("ack_doubled") and appends is not None and base + len(batch) <= self.hw[number]:
                yield 1, f"{name}: ack doubled", lambda: (
                    self._spend("ack_doubled"), self.late.append((worker, number, base, appends)),
                    worker.resume(task, Appended(base, self.log[number][base][1])),
                )  # fmt: skip
        elif op.kind == "read":
            number, offset = op.args
            if op.slice is None:
                start, end = self.bounds(number)
                if not start <= offset <= end:
                    yield 4, f"{name} {offset} out of range", lambda: setattr(op, "slice", Slice([], offset, start, end))
                    return
                for stop in {offset + 1, offset + 2, end}:
                    if offset < stop <= end:
                        part = Slice(self.entries(number, offset, stop), stop, start, end)
                        yield 4, f"{name} {offset} to {stop}", lambda part=part: setattr(op, "slice", part)
                if offset == end:
                    yield 1, f"{name} {offset}: nothing", lambda: setattr(op, "slice", Slice([], offset, start, end))
                if fault("read_fails"):
                    yield 1, f"{name} fails", lambda: (self._spend("read_fails"), fails(LogUnavailable("read"))())
            else:
                yield 5, f"{name} returns {op.slice}", lambda: worker.resume(task, op.slice)
        elif op.kind == "bounds":
            yield 3, name, lambda: worker.resume(task, self.bounds(op.args[0]))
            yield 1, f"{name} as it was", lambda: worker.resume(task, op.early)
            if fault("read_fails"):
                yield 1, f"{name} fails", lambda: (self._spend("read_fails"), fails(LogUnavailable("bounds"))())
        elif op.kind == "offset_at":
            yield 3, f"{name} {op.args}", lambda: worker.resume(task, self.offset_at(*op.args))
            yield 1, f"{name} {op.args} as it was", lambda: worker.resume(task, op.early)
        elif op.kind == "since":
            number = op.args[0]
            position = worker.position[number]
            there = position < len(self.asks[number]) and self.asks[number][position].at <= self.now
            first = float(self.asks[number][position].ts) if there else op.early
            yield 4, f"{name} {first}", lambda: worker.resume(task, first)
            if fault("slow_first") and there:
                yield 1, f"{name}: not in time", lambda: (self._spend("slow_first"), worker.resume(task, op.early))
        elif op.kind == "sleep" or not op.args[0].held:
            yield 2, name, lambda: worker.resume(task)

    def _appends(self, worker: Worker, number: int, batch: list[Message]) -> list[Append] | None:
        """What the worker's partition knows the messages of a batch by."""
        known = {
            id(flight.append.message): flight.append
            for flight in worker.parts[number].flying.values()
            if flight.append is not None
        }
        found = [known.get(id(message)) for message in batch]
        return None if None in found else [append for append in found if append is not None]

    def _work(self, worker: Worker, fault: Callable[[str], bool]) -> Iterator[tuple[int, str, Any]]:
        for number, part in enumerate(worker.parts):
            at = worker.position[number]
            if (
                part.ready
                and number not in worker.paused
                and at < len(self.asks[number])
                and self.asks[number][at].at <= self.now
            ):
                yield 5, f"{worker.name} takes {number}:{at}", lambda number=number: worker.take(number)
            offsets = part.offsets
            if offsets.committable() is not None and not worker.commits:
                yield 3, f"{worker.name} commits {number}", lambda number=number: self._commit(worker, number)
            if offsets.owned and self.workers[self.owner[number]] is not worker:
                yield 3, f"{worker.name} notices that {number} is gone", lambda number=number: worker.lose(number)
            if number in worker.paused:
                yield 3, f"{worker.name} keeps {number}", lambda number=number: worker.assign(number)
            if part.unresolved() and (fault("sweep") or not self.faults):
                yield 1, f"{worker.name} appends again", lambda part=part: (self._spend("sweep"), self._sweep(worker, part))
        for number, flight in worker.running:
            yield 5, f"{worker.name} decides {flight}", lambda n=number, f=flight: worker.decide(n, f, expired=False)
            if self.expire:
                yield 2, f"{worker.name} is late for {flight}", lambda n=number, f=flight: worker.decide(n, f, expired=True)
        for item in worker.replying:
            yield 5, f"{worker.name} replied to {item[1].source}", lambda item=item: self._replied(worker, item)
            if fault("reply_lost"):
                yield 1, f"{worker.name} replies to {item[1].source} again", lambda item=item: (
                    self._spend("reply_lost"), self.check_reply(*item)
                )  # fmt: skip
        for commit in worker.commits:
            yield 4, f"{worker.name} committed {commit}", lambda commit=commit: self._committed(worker, commit)
            if fault("commit_lost"):
                yield 1, f"{worker.name} could not commit {commit}", lambda commit=commit: (
                    self._spend("commit_lost"), worker.commits.remove(commit)
                )  # fmt: skip

    def _group(self, number: int, fault: Callable[[str], bool]) -> Iterator[tuple[int, str, Any]]:
        owner = self.workers[self.owner[number]]
        for to, worker in enumerate(self.workers):
            if worker is owner or worker.parts[number].offsets.owned:
                continue
            for kind in ("move", "zombie"):
                if fault(kind):
                    yield (
                        1,
                        f"{kind} {number} from {owner.name} to {worker.name}",
                        lambda kind=kind, to=to: self._move(kind, number, to),
                    )
        if owner.parts[number].offsets.owned and number not in owner.paused:
            if fault("keep"):
                yield 1, f"rebalance, {owner.name} keeps {number}", lambda: self._keep("keep", number)
            if fault("rewind") and self.committed[number]:
                yield 1, f"{number} is set back", lambda: self._keep("rewind", number)
            if fault("crash"):
                yield 1, f"{owner.name} crashes", lambda: self._crash(self.owner[number])
        if fault("leader") and self.hw[number] < len(self.log[number]):
            yield 2, f"leader of {number} changes", lambda: self._leader("leader", number, self.hw[number])
        if fault("unclean") and self.hw[number] > self.start[number]:
            yield 2, f"unclean leader of {number}", lambda: self._leader("unclean", number, self.hw[number] - 1)

    # -- How it happens ---------------------------------------------------------------------------------------------------

    def _spend(self, name: str) -> None:
        if self.faults:
            self.faults[name] -= 1

    def _replicate(self, number: int) -> None:
        self.hw[number] += 1 + self.pick(len(self.log[number]) - self.hw[number])

    def _late(self, late: tuple[Worker, int, int, list[Append]]) -> None:
        worker, number, base, batch = late
        self.late.remove(late)
        if worker in self.workers and base + len(batch) <= self.hw[number]:
            worker.scribe._apply(worker.parts[number], worker.parts[number].acknowledged(base, batch))

    def _replied(self, worker: Worker, item: tuple[int, Flight]) -> None:
        number, flight = item
        worker.replying.remove(item)
        self.acked.add((number, flight.offset))
        worker.parts[number].complete(flight)

    def _commit(self, worker: Worker, number: int) -> None:
        commit = worker.parts[number].offsets.committable()
        assert commit is not None
        self.check_commit(number, commit.offset)
        worker.commits.append((number, commit))

    def _committed(self, worker: Worker, item: tuple[int, Commit]) -> None:
        number, commit = item
        worker.commits.remove(item)
        mine = self.workers[self.owner[number]] is worker and worker.parts[number].offsets.epoch == commit.epoch
        if not mine and self.faults.get("late_commit", 0):
            self._spend("late_commit")
            mine = True
        if mine:
            self.committed[number] = commit.offset
            worker.parts[number].offsets.commit_succeeded(commit)

    def _sweep(self, worker: Worker, part: Partition) -> None:
        scribe_module.time.now += 20.0
        worker.scribe.sweep(part)

    def _move(self, kind: str, number: int, to: int) -> None:
        self._spend(kind)
        owner = self.workers[self.owner[number]]
        if kind == "move":
            owner.parts[number].pause()
            owner.lose(number)
        self.owner[number] = to
        self._drop_table(self.workers[to], number)
        self.workers[to].assign(number)

    def _keep(self, kind: str, number: int) -> None:
        self._spend(kind)
        owner = self.workers[self.owner[number]]
        if kind == "rewind":
            self.committed[number] = self.pick(self.committed[number])
        owner.parts[number].pause()
        owner.paused.add(number)
        self._drop_table(owner, number)

    def _drop_table(self, worker: Worker, number: int) -> None:
        """Property 8: a table may be kept or read anew at any assignment."""
        if self.faults.get("drop_table", 0) and self.pick(2):
            self._spend("drop_table")
            worker.parts[number].covered = False

    def _crash(self, index: int) -> None:
        self._spend("crash")
        old = self.workers[index]
        for task in old.tasks:
            op = task.op
            if op is not None and op.kind == "append" and op.base is None and not too_large(op.args[1]) and self.pick(2):
                self.ghosts.append(op.args)
        old.close()
        self.workers[index] = new = Worker(self, f"{old.name}'", index * ALLOWANCE_MS // 2 if self.skews else 0)
        for number in range(len(self.asks)):
            if self.owner[number] == index:
                new.assign(number)

    def _leader(self, kind: str, number: int, end: int) -> None:
        self._spend(kind)
        del self.log[number][end:]
        self.hw[number] = end
        for worker in self.workers:
            for task in worker.tasks:
                op = task.op
                landed = op is not None and op.kind == "append" and op.args[0] == number and op.base is not None
                if landed and op.base + len(op.args[1]) > end:
                    op.base = None  # no ack was sent: the producer sends it again
        self.late = [late for late in self.late if late[1] != number or late[2] + len(late[3]) <= end]

    def _retention(self) -> None:
        """C4: the ledger keeps what an attempt that may still come needs."""
        self._spend("retention")
        for number, asks in enumerate(self.asks):
            oldest = min((ask.ts for ask in asks[min(self.committed[number], len(asks) - 1) :]), default=0)
            keep = oldest - self.window_ms - 2 * ALLOWANCE_MS - 100
            if self.faults.get("rewind", 0) or self.faults.get("late_commit", 0):
                return
            while self.start[number] < self.hw[number] and self.log[number][self.start[number]][1] < keep:
                self.start[number] += 1

    def _run_fresh(self) -> None:
        for worker in self.workers:
            worker.run_fresh()

    # -- Running it -------------------------------------------------------------------------------------------------------

    def step(self, faults: bool) -> bool:
        options = list(self.options(faults))
        if not options:
            return False
        at = self.pick(sum(weight for weight, _, _ in options))
        for weight, name, happen in options:
            at -= weight
            if at < 0:
                self.trace.append(name)
                happen()
                break
        self._run_fresh()
        self.now += 1
        return True

    def walk(self, steps: int) -> None:
        """Take random steps, then let everything end well (property 6)."""
        try:
            for number in range(steps):
                if not self.step(faults=True):
                    break
                if number % 8 == 0:
                    self.check_tables()
            self.settle()
        except Violation as violation:
            violation.add_note("\n".join(self.trace[-60:]))
            raise
        finally:
            for worker in self.workers:
                worker.close()

    def settle(self) -> None:
        """Property 6: without further faults every ask is answered and committed."""
        self.check_tables()
        self.trace.append("-- no more faults")
        self.faults = {}
        fair = random.Random(1)
        self.pick = fair.randrange
        for step in range(4000):
            if step % 16 == 0 and self.finished():
                break
            if not self.step(faults=False):
                break
        self.check_tables()
        if not self.finished():
            raise Violation(f"answered {sorted(self.acked)}, committed {self.committed}: {[w.parts for w in self.workers]}")

    def finished(self) -> bool:
        everything = {(number, offset) for number, asks in enumerate(self.asks) for offset in range(len(asks))}
        owners = [self.workers[owner].parts[number].offsets for number, owner in enumerate(self.owner)]
        writing = any(task.name.startswith("ledger") for worker in self.workers for task in worker.tasks)
        if writing or self.hw != [len(log) for log in self.log]:
            return False
        # what a late commit of somebody else set back is committed again with the next ask
        return everything <= self.acked and [len(asks) for asks in self.asks] == [tracker.committed for tracker in owners]


# -- Worlds ---------------------------------------------------------------------------------------------------------------


class Shim:
    """asyncio as the scribe sees it in this world."""

    Lock = Lock
    sleep = staticmethod(sleep)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture(autouse=True)
def _scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the scribe under the scheduler, with a clock and an allowance of its own."""
    silent = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error"), lambda *_, **__: None))
    time = SimpleNamespace(now=0.0)
    time.monotonic = lambda: time.now
    monkeypatch.setattr(scribe_module, "asyncio", Shim())
    monkeypatch.setattr(scribe_module, "log", silent)
    monkeypatch.setattr(scribe_module, "time", time)
    monkeypatch.setattr(scribe_module, "CLOCK_ALLOWANCE_MS", ALLOWANCE_MS)
    monkeypatch.setattr(partitions_module, "CLOCK_ALLOWANCE_MS", ALLOWANCE_MS)


def questions(pick: Callable[[int], int], *, partitions: int, windowed: bool) -> list[list[Question]]:
    """Asks of few ids, some of them in conflict, spread over a few windows, stamped by clocks apart."""
    made: list[list[Question]] = []
    for _ in range(partitions):
        at, asks = 0, []
        for _ in range(2 + pick(6)):
            at += pick(WINDOW_MS) if windowed else pick(20)
            asks.append(
                Question(
                    "XYZ"[pick(3)],
                    says="b" if pick(5) == 4 else "a",
                    at=at,
                    skew=pick(ALLOWANCE_MS) if windowed else 0,
                    large=pick(8) == 7,
                )
            )
        made.append(asks)
    return made


def random_world(pick: Callable[[int], int], **changes: Any) -> World:
    """A world of random size in which random things go wrong."""
    windowed = bool(pick(2))
    arguments: dict[str, Any] = {
        "workers": 1 + pick(3),
        "faults": {name: pick(3) for name in SAFE},
        "window_ms": WINDOW_MS if windowed else LONG_MS,
        "bodies_max": (1, 2, 1000)[pick(3)],
        "expire": bool(pick(2)),
        "skews": windowed and bool(pick(2)),
        "checks": frozenset({"reply", "commit", "table", "deadline"}),
    }
    asks = questions(pick, partitions=1 + pick(2), windowed=windowed)
    return World(asks, pick, **{**arguments, **changes})


def walks(first: int, last: int, make: Callable[[Callable[[int], int]], World] = random_world, steps: int = 250) -> Counter[str]:
    """Walk through one world for each seed; say what happened how often."""
    seen: Counter[str] = Counter()
    for seed in range(first, last):
        world = make(random.Random(seed).randrange)
        try:
            world.walk(steps)
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise
        seen += world.counts
    return seen


# -- The right rules ------------------------------------------------------------------------------------------------------


def drawn(choices: list[int]) -> Callable[[int], int]:
    """A scheduler that follows a list, then always takes the first."""
    left = iter(choices)
    return lambda n: next(left, 0) % n


@given(st.lists(st.integers(0, 2**16), max_size=400))
def test_every_promise_holds_in_any_world(choices: list[int]) -> None:
    random_world(drawn(choices)).walk(200)


@pytest.mark.timeout(1200)  # under the profile `faults`
def test_every_promise_holds_on_long_random_walks() -> None:
    seen = walks(0, 6 * settings.default.max_examples)

    assert 0 == seen["rewound"], "a ledger that loses nothing is never taken for a rewound one"


EMPHASIS = {
    "7 acknowledgements late, doubled, lost": ("ack_late", "ack_doubled", "ack_lost", "ghost"),
    "8 tables kept or read anew at any assignment": ("drop_table", "keep", "move", "zombie"),
    "12 the committed offset set back": ("rewind", "late_commit", "slow_first", "keep"),
    "6 crashes": ("crash", "zombie", "reply_lost", "commit_lost"),
    "4 leader changes": ("leader", "never", "read_fails"),
}


@pytest.mark.parametrize("faults", EMPHASIS.values(), ids=EMPHASIS)
def test_every_promise_holds_where_one_thing_goes_wrong_again_and_again(faults: tuple[str, ...]) -> None:
    walks(1000, 1060, lambda pick: random_world(pick, faults=dict.fromkeys(faults, 6)))


def test_clocks_apart_by_the_allowance_change_no_reply() -> None:
    """Property 10: stamps of attempts and ledger and the workers' own clocks are apart, replies are the ledger's all the same."""
    walks(2000, 2100, lambda pick: random_world(pick, window_ms=WINDOW_MS, skews=True))


def test_one_id_in_two_partitions_is_two_attempts() -> None:
    """Property 13: what is said in one partition is said of that partition's ledger alone."""
    asks = [[Question("X"), Question("X")], [Question("X", says="b")]]
    for seed in range(60):
        world = World(asks, random.Random(seed).randrange, faults=dict.fromkeys(("crash", "keep", "zombie", "ghost"), 2))
        world.walk(150)

        assert not any(conflict for _, conflict in world.replies.values())


def test_a_ledger_that_lost_records_is_served_again() -> None:
    """Promise 1 is gone with the records (condition C1); what is left is that every ask is answered and committed."""

    def make(pick: Callable[[int], int]) -> World:
        faults = {name: pick(2) for name in SAFE} | {"unclean": 1 + pick(2)}
        return random_world(pick, faults=faults, bodies_max=1000, checks=frozenset())

    assert 100 < walks(0, 250, make)["rewound"]


def test_at_least_once_answers_everything_and_writes_the_ledger_too() -> None:
    for seed in range(60):
        world = random_world(random.Random(seed).randrange, at_least_once=True, checks=frozenset({"commit", "table"}))
        world.asks = [[replace(ask, large=False) for ask in asks] for asks in world.asks]
        world.walk(250)
        for number, asks in enumerate(world.asks):
            decided = {entry.attempt_id for entry in world.entries(number, 0, world.hw[number])}
            # a crash between reply and append may lose a decision; without one the ledger has them all
            assert {ask.id for ask in asks} == decided or any("crashes" in line for line in world.trace), f"seed {seed}"


def test_clocks_further_apart_than_allowed_stop_nothing() -> None:
    """Condition C5 is broken: promise 1 is gone, but every ask is still answered and committed."""
    for seed in range(60):
        pick = random.Random(seed).randrange
        world = random_world(pick, window_ms=WINDOW_MS, skews=True, checks=frozenset())
        world.asks = [[replace(ask, skew=pick(20 * ALLOWANCE_MS)) for ask in asks] for asks in world.asks]
        world.walk(250)


def outside(pick: Callable[[int], int]) -> World:
    """A world that is only looked at from outside: what is wrong in a table has to do harm."""
    return random_world(pick, checks=frozenset({"reply", "commit", "deadline"}))


# -- Broken rules (property 14) -------------------------------------------------------------------------------------------


def ack_is_the_answer(patch: pytest.MonkeyPatch) -> None:
    right = Partition.acknowledged

    def acknowledged(self: Partition, base_offset: int, batch: Sequence[Append]) -> Work:
        work = Work()
        for append in batch:
            entry = append.at(0)
            self._resolve(append.headers.attempt_id, lambda ask, e=entry: answer((e,), ask, self._window_ms), work)
        later = right(self, base_offset, batch)
        later.replies[:0] = work.replies
        later.runs += work.runs
        later.cancelled += work.cancelled
        return later

    patch.setattr(Partition, "acknowledged", acknowledged)


def next_jumps_over_gap(patch: pytest.MonkeyPatch) -> None:
    right = LedgerTable.acknowledge

    def acknowledge(self: LedgerTable, entry: Entry) -> list[Entry]:
        self.next = max(self.next, entry.offset)
        return right(self, entry)

    patch.setattr(LedgerTable, "acknowledge", acknowledge)


def ack_below_next_has_won(patch: pytest.MonkeyPatch) -> None:
    folded, read, acknowledged = Partition._folded, Partition.read, Partition.acknowledged

    def fold(self: Partition, entry: Entry, work: Work) -> None:
        leader = self._leaders.get(entry.attempt_id)
        if not self.__dict__.get("reads") or leader is None or leader.append is None:
            folded(self, entry, work)  # what is read does not resolve what is being appended: its acknowledgement will

    def reads(self: Partition, part: Slice) -> Work:
        self.__dict__["reads"] = True
        work = read(self, part)
        self.__dict__["reads"] = False
        return work

    def acknowledge(self: Partition, base_offset: int, batch: Sequence[Append]) -> Work:
        next_offset = self.table.next
        work = acknowledged(self, base_offset, batch)
        for offset, append in enumerate(batch, base_offset):
            if offset < next_offset:
                entry = append.at(offset)
                self._resolve(append.headers.attempt_id, lambda ask, e=entry: answer((e,), ask, self._window_ms), work)
        return work

    patch.setattr(Partition, "_folded", fold)
    patch.setattr(Partition, "read", reads)
    patch.setattr(Partition, "acknowledged", acknowledge)


def own_gap_records_are_skipped(patch: pytest.MonkeyPatch) -> None:
    right = Partition.read

    def read(self: Partition, part: Slice) -> Work:
        mine = f'["{self.worker.name.rstrip(chr(39))}'.encode()  # the name outlives a crash
        return right(self, part._replace(entries=[e for e in part.entries if not (e.value or b"").startswith(mine)]))

    patch.setattr(Partition, "read", read)


def next_is_end_on_assign(patch: pytest.MonkeyPatch) -> None:
    right = Partition.aim

    def aim(self: Partition, end: int) -> None:
        self.table.next = max(self.table.next, end)
        right(self, end)

    patch.setattr(Partition, "aim", aim)


def table_before_ack(patch: pytest.MonkeyPatch) -> None:
    right = Worker.word

    def word(self: Worker, number: int, flight: Flight, cause: Cause | None) -> None:
        right(self, number, flight, cause)
        if flight.stage is Stage.APPEND and flight.append is not None and not self.world.asks[number][flight.offset].large:
            self.do(self.parts[number], self.parts[number].assume(flight))

    patch.setattr(Worker, "word", word)


def replies_above_the_high_watermark(patch: pytest.MonkeyPatch) -> None:
    right = World.__init__

    def init(self: World, *args: Any, **kwargs: Any) -> None:
        right(self, *args, **{**kwargs, "acks_one": True})

    patch.setattr(World, "__init__", init)


def window_by_the_clock(patch: pytest.MonkeyPatch) -> None:
    def evict(self: Partition) -> None:
        self.table.evict(self.world.now - self._window_ms, 2**62)

    patch.setattr(Partition, "_evict", evict)


def any_hit_counts(patch: pytest.MonkeyPatch) -> None:
    def counts(entry: Entry, ask: Flight, window_ms: int) -> bool:
        return entry.scope is Scope.ID or entry.source == ask.source

    patch.setattr(table_module, "counts", counts)


def kept_table_forgets_what_it_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LedgerTable, "remembers", lambda self, timestamp_ms: True)


def table_reaches_far_enough_always(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LedgerTable, "covers", lambda self, timestamp_ms, allowance_ms: True)


def read_back_without_allowance(patch: pytest.MonkeyPatch) -> None:
    def read_back_from(self: Partition, since_ms: int, now_ms: int) -> int:
        return min(now_ms, since_ms) - self._window_ms

    patch.setattr(Partition, "read_back_from", read_back_from)
    patch.setattr(Partition, "keeps_table", lambda self, since_ms: self.covered)


def read_back_from_now(patch: pytest.MonkeyPatch) -> None:
    def read_back_from(self: Partition, since_ms: int, now_ms: int) -> int:
        return now_ms - self._window_ms

    patch.setattr(Partition, "read_back_from", read_back_from)
    patch.setattr(Partition, "keeps_table", lambda self, since_ms: self.covered)


def results_of_an_old_epoch_are_dropped(patch: pytest.MonkeyPatch) -> None:
    take, complete = Partition.take, Partition.complete
    epochs: dict[int, int] = {}

    def taken(self: Partition, flight: Flight) -> Step:
        epochs[id(flight)] = self.offsets.epoch
        return take(self, flight)

    def completed(self: Partition, flight: Flight) -> None:
        if epochs.get(id(flight)) == self.offsets.epoch:
            complete(self, flight)
        else:
            self._deregister(flight)

    patch.setattr(Partition, "take", taken)
    patch.setattr(Partition, "complete", completed)


def cancelled_but_still_registered(patch: pytest.MonkeyPatch) -> None:
    right = Partition.lose

    def lose(self: Partition) -> Work:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(Partition, "_deregister", lambda self, flight: None)
            return right(self)

    patch.setattr(Partition, "lose", lose)


def a_waiter_never_leads(patch: pytest.MonkeyPatch) -> None:
    right = Partition._resolve

    def resolve(self: Partition, attempt_id: str, find: Any, work: Work | None = None) -> Work:
        work = right(self, attempt_id, find, work)
        work.runs.clear()
        return work

    patch.setattr(Partition, "_resolve", resolve)


def commit_the_highest_done(patch: pytest.MonkeyPatch) -> None:
    right = OffsetTracker.committable

    def committable(self: OffsetTracker) -> Commit | None:
        if self.owned and self._done:
            return Commit(max(self._done) + 1, self._newest_ms, self.epoch)
        return right(self)

    patch.setattr(OffsetTracker, "committable", committable)


def commit_the_highest_received(patch: pytest.MonkeyPatch) -> None:
    def committable(self: OffsetTracker) -> Commit | None:
        if self.owned and self.position > self.committed:
            return Commit(self.position, self._newest_ms, self.epoch)
        return None

    patch.setattr(OffsetTracker, "committable", committable)


def expired_is_final_for_the_id(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(decision.SCOPES, Cause.EXPIRED, Scope.ID)


def a_gap_answers_nobody(patch: pytest.MonkeyPatch) -> None:
    right = LedgerTable.read

    def read(self: LedgerTable, entries: list[Entry], next_offset: int) -> list[Entry]:
        right(self, entries, next_offset)
        return []

    patch.setattr(LedgerTable, "read", read)
    patch.setattr(LedgerScribe, "sweep", lambda self, partition: None)  # which would append it again


def made_up_offsets(patch: pytest.MonkeyPatch) -> None:
    right = Partition.acknowledged

    def acknowledged(self: Partition, base_offset: int, batch: Sequence[Append]) -> Work:
        return right(self, self.table.next, batch)

    patch.setattr(Partition, "acknowledged", acknowledged)


def a_rejected_batch_is_not_tried_record_by_record(patch: pytest.MonkeyPatch) -> None:
    right = LedgerScribe._append_batch

    async def append_batch(self: LedgerScribe, number: int, batch: list[Append]) -> None:
        if len(batch) == 1 or not too_large([append.message for append in batch]):
            await right(self, number, batch)

    patch.setattr(LedgerScribe, "_append_batch", append_batch)


BROKEN = [
    ack_is_the_answer,
    next_jumps_over_gap,
    ack_below_next_has_won,
    own_gap_records_are_skipped,
    next_is_end_on_assign,
    table_before_ack,
    replies_above_the_high_watermark,
    window_by_the_clock,
    any_hit_counts,
    kept_table_forgets_what_it_dropped,
    table_reaches_far_enough_always,
    read_back_without_allowance,
    read_back_from_now,
    results_of_an_old_epoch_are_dropped,
    cancelled_but_still_registered,
    a_waiter_never_leads,
    commit_the_highest_done,
    commit_the_highest_received,
    expired_is_final_for_the_id,
    a_gap_answers_nobody,
    made_up_offsets,
    a_rejected_batch_is_not_tried_record_by_record,
]


FIRST_SEED = {ack_below_next_has_won: 320, table_reaches_far_enough_always: 410}  # where the search was short


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_rule_breaks_a_promise(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)

    with pytest.raises(Violation):
        walks(FIRST_SEED.get(broken, 0), 2000, outside)
