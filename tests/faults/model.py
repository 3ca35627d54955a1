"""A gate in memory that keeps the rules, to have evidence in which nothing is wrong: redelivery, losing records and all.

It plays a scenario on a clock of its own. Of the real gate it has the words (`gate.model.wire`) and rule 1, nothing else:
who decides when, who waits, what is committed and who was there to see it are written here again, in a few lines.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any, Final

import orjson

from gate.config import Settings
from gate.kafka.partitioner import partition_of
from gate.ledger.answer import Entry, answer
from gate.model.decision import SCOPES, ActionOutcome, ActionTrace, Cause, Denial, Outcome, fixed_denial
from gate.model.wire import (
    LedgerHeaders,
    Message,
    conflict_document,
    decision_document,
    encode_dead_letter,
    encode_ledger,
    encode_reply,
    extended,
)
from gate.worker.clock import BrokerClock
from gate.worker.deciding import Decider
from gate.worker.partitions import Flight

from .evidence import Asked, Commit, Crash, Evidence, InFlight, SideEffect, Written
from .evidence import Outcome as Told

SETTINGS: Final = Settings(
    attempts_topic="attempts",
    decisions_topic="decisions",
    replies_topic="replies",
    dlq_topic="dlq",
    reply_topics=("replies*",),
    group_id="gate",
    window_ms=1000,
    max_in_flight=8,
)
PARTITIONS: Final = {"attempts": 2, "decisions": 2, "replies": 2, "replies.own": 1, "dlq": 1, "elsewhere": 1}
START_MS: Final = 1_767_323_045_000
PATIENCE_MS: Final = 300
FIRST, SECOND = ("worker-a",), ("worker-a", "worker-b")  # the group before and after a crash


class Fate(Enum):
    """What happens to an ask besides being answered."""

    PLAIN = auto()
    LATE = auto()  # the chain is cut by the asker's deadline
    DENIED = auto()
    KILLED_RUNNING = auto()  # the worker dies with the chain; another one runs it again
    KILLED_APPENDED = auto()  # the worker dies after the append; another one answers from the ledger
    KILLED_REPLIED = auto()  # the worker dies before the commit; another one answers again
    ZOMBIE = auto()  # another worker appends a decision, too, and loses
    SENT_TWICE = auto()  # an acknowledgement gets lost: the attempt stands there twice, with one correlation id
    IMPATIENT = auto()  # the asker waits less long than the gate is told
    LOST = auto()  # never arrives, and the asker does not know
    REFUSED = auto()  # never arrives, and the asker knows
    REJECTED = auto()  # the reply is too large for its topic


class To(Enum):
    """Where the asker wants its reply."""

    DEFAULT = None
    OWN = "replies.own"
    FORBIDDEN = "elsewhere"
    MISSING = "replies.missing"
    ILLEGAL = "?"
    OUT_OF_RANGE = "replies"  # on a partition that there is not


@dataclass(frozen=True, kw_only=True)
class Step:
    """One ask of a scenario."""

    id: str = "a"
    says: str = "x"  # content; "{" is not readable, "!" lacks its user
    after_ms: int = 10  # since the step before
    takes_ms: int = 10  # the chain
    fate: Fate = Fate.PLAIN
    to: To = To.DEFAULT
    correlated: bool = True


@dataclass(kw_only=True)
class Taking:
    """An attempt record on its way through the model."""

    step: Step
    flight: Flight
    number: int


def play(steps: Sequence[Step]) -> Evidence:
    """Return what a run of these asks leaves behind."""
    return _Run(steps).evidence()


class _Run:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.topics: dict[str, list[Written]] = defaultdict(list)
        self.decider = Decider(SETTINGS, chain=None, worker_id="model", clock=None)  # type: ignore[arg-type] # reads only
        self.clock = BrokerClock()
        self.now = START_MS
        self.order = itertools.count()
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.leaders: dict[tuple[int, str], Taking] = {}
        self.waiters: dict[tuple[int, str], list[Taking]] = defaultdict(list)
        self.entries: dict[int, list[Entry]] = defaultdict(list)
        self.undone: dict[int, set[int]] = defaultdict(set)
        self.commits: list[Commit] = []
        self.effects: list[SideEffect] = []
        self.crashes: list[Crash] = []
        self.in_flight: list[InFlight] = []
        self.asks: dict[int, Asked] = {}
        self.members: tuple[str, ...] = FIRST
        self.look()
        at = START_MS
        for number, step in enumerate(steps):
            at += step.after_ms
            self.at(at, partial(self.ask, step, number))
        while self.events:
            when, _, do = heapq.heappop(self.events)
            self.now = max(self.now, when)  # some steps take a moment themselves
            do()
            self.look()

    def at(self, when: int, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), do))

    def write(self, topic: str, partition: int, message: Message) -> Written:
        records = self.topics[topic]
        offset = sum(record.partition == partition for record in records)
        record = Written(
            topic=topic,
            partition=partition,
            offset=offset,
            timestamp=self.now,
            key=message.key,
            value=message.value,
            headers=tuple(message.headers),
        )
        records.append(record)
        return record

    # -- Asking ---------------------------------------------------------------------------------------------------------

    def ask(self, step: Step, number: int) -> None:
        correlation_id = f"c-{number}".encode() if step.correlated else None
        self.asks[number] = Asked(
            attempt_id=step.id,
            correlation_id=correlation_id,
            outcome=Told.FAILED if step.fate is Fate.REFUSED else Told.UNKNOWN,
            sent_ms=self.now,
            ended_ms=self.now + PATIENCE_MS,
        )
        if step.fate in {Fate.LOST, Fate.REFUSED}:
            return
        for _ in range(2 if step.fate is Fate.SENT_TWICE else 1):
            message = Message(step.id.encode(), _value(step), list(_headers(step, correlation_id)))
            record = self.write("attempts", partition_of(step.id.encode(), PARTITIONS["attempts"]), message)
            self.undone[record.partition].add(record.offset)
            self.asks[number] = replace(self.asks[number], written=record.place)
            flight, _ = self.decider.read(record)  # type: ignore[arg-type] # frozen
            taking = Taking(step=step, flight=flight, number=number)
            self.at(self.now + 1, partial(self.take, taking))

    def told(self, taking: Taking, reply: Written) -> None:
        ask = self.asks[taking.number]
        in_time = self.now <= ask.sent_ms + PATIENCE_MS and taking.step.fate is not Fate.IMPATIENT
        if in_time and not ask.completions and ask.correlation_id is not None and reply.topic == "replies":
            self.asks[taking.number] = replace(ask, outcome=Told.OK, ended_ms=self.now, completions=(reply.place,))

    # -- Deciding -------------------------------------------------------------------------------------------------------

    def take(self, taking: Taking) -> None:
        flight = taking.flight
        partition = flight.ask.record.partition
        key = (partition, flight.attempt_id)
        flight.answer = answer(self.entries[partition], flight, SETTINGS.window_ms)
        if flight.answer is not None:
            self.at(self.now + 1, lambda: self.reply(taking))
        elif key in self.leaders:
            self.waiters[key].append(taking)
        else:
            self.leaders[key] = taking
            self.run(taking)

    def run(self, taking: Taking) -> None:
        step, flight = taking.step, taking.flight
        cause, ran = self.cause(taking)
        if ran:
            self.effect(flight)
            if step.fate is Fate.KILLED_RUNNING:
                self.crash()
                self.effect(flight)
        takes_ms = step.takes_ms if ran else 0
        if cause is Cause.EXPIRED and ran:
            takes_ms = max(0, flight.ask.deadline_ms - self.now - 5)
        self.at(self.now + takes_ms, lambda: self.append(taking, cause, ran=ran))

    def cause(self, taking: Taking) -> tuple[Cause | None, bool]:
        """Return what an ask is decided for, and whether its chain runs."""
        if taking.step.says in "{!":
            return Cause.INVALID_ATTEMPT, False
        left_ms = taking.flight.ask.deadline_ms - self.now
        if left_ms <= 0:
            return Cause.EXPIRED, False
        if taking.step.fate is Fate.LATE or taking.step.takes_ms >= left_ms - 5:
            return Cause.EXPIRED, True
        return (Cause.ACCESS_DENIED if taking.step.fate is Fate.DENIED else None), True

    def append(self, taking: Taking, cause: Cause | None, *, ran: bool) -> None:
        partition = taking.flight.ask.record.partition
        self.decide(taking.flight, cause, ran=ran, by="worker-a")
        if taking.step.fate is Fate.ZOMBIE and ran:
            self.effect(taking.flight, by="worker-z")
            self.crashes.append(Crash(at_ms=self.now, worker="worker-z", how="SIGSTOP"))
            self.now += 2
            self.decide(taking.flight, Cause.ACCESS_DENIED, ran=ran, by="worker-z")
        if taking.step.fate is Fate.KILLED_APPENDED:
            self.crash()
        key = (partition, taking.flight.attempt_id)
        del self.leaders[key]
        for flying in (taking, *self.waiters.pop(key, ())):
            self.take(flying)

    def decide(self, flight: Flight, cause: Cause | None, *, ran: bool, by: str) -> None:
        denial = None if cause is None else fixed_denial(cause) if cause is not Cause.ACCESS_DENIED else _DENIAL
        changes: dict[str, dict[str, Any]] = (
            {} if denial else {"user_metadata": {"plan": "free", "old": None}, "app_metadata": {"by": by}}
        )
        trace = [ActionTrace("note", "sha256:1", ActionOutcome.RAN if ran else ActionOutcome.NOT_REACHED)]
        document = decision_document(
            attempt_id=flight.attempt_id,
            outcome=Outcome(denial=denial, changes=changes),
            warnings=flight.ask.warnings,
            chain="sha256:c",
            decided_at=self.clock.text(self.now),
        )
        more = {"source": flight.source, "worker": by, "trace": [entry.to_json() for entry in trace]}
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, SCOPES[cause])
        partition = flight.ask.record.partition
        written = self.write("decisions", partition, encode_ledger(headers, extended(orjson.dumps(document), more)))
        self.entries[partition].append(Entry(written.offset, *headers, written.value))

    def effect(self, flight: Flight, *, by: str = "worker-a") -> None:
        self.effects.append(SideEffect(at_ms=self.now, worker=by, action="note", attempt_id=flight.attempt_id))
        self.in_flight.append(InFlight(at_ms=self.now, worker=by, attempts=min(8, sum(map(len, self.undone.values())))))

    # -- Replying -------------------------------------------------------------------------------------------------------

    def reply(self, taking: Taking) -> None:
        step, flight = taking.step, taking.flight
        assert flight.answer is not None
        document: dict[str, Any] = orjson.loads(flight.answer.entry.value or b"")
        if flight.answer.conflict:
            document = conflict_document(document, fixed_denial(Cause.CONFLICT).to_json())
        message = encode_reply(flight.ask, document, flight.user)
        reason = "invalid_attempt" if document.get("denial", {}).get("cause") == "invalid_attempt" else _REASONS.get(step.to)
        topic = {To.DEFAULT: "replies", To.OUT_OF_RANGE: "replies", To.OWN: "replies.own"}.get(step.to)
        if topic is not None and step.fate is Fate.REJECTED:
            reason = "reply_rejected"
        elif topic is not None:
            reply = self.write(topic, partition_of(step.id.encode(), PARTITIONS[topic]), message)
            self.told(taking, reply)
            if step.fate is Fate.KILLED_REPLIED:
                self.crash()
                self.now += 3
                self.write(topic, reply.partition, message)
        if reason is not None:
            letter = encode_dead_letter(flight.ask.record, reason=reason, at=self.clock.text(self.now), max_bytes=10_000)
            self.now += 1
            self.write("dlq", 0, letter)
        self.undone[flight.ask.record.partition].discard(flight.offset)

    # -- The group ------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Lose a worker: the next one begins where the first one committed, or before."""
        self.crashes.append(Crash(at_ms=self.now, worker="worker-a", how="SIGKILL"))
        self.members = SECOND if self.members is FIRST else FIRST
        last = next(commit for commit in reversed(self.commits) if commit.partition == 0)
        behind = max(0, (last.offset or 0) - 1)
        self.commits.append(replace(last, seen_ms=self.now, offset=behind, members=self.members))

    def look(self) -> None:
        """Commit what is done, and see it."""
        for partition in range(PARTITIONS["attempts"]):
            end = sum(record.partition == partition for record in self.topics["attempts"])
            offset = min(self.undone[partition], default=end)
            self.commits.append(Commit(seen_ms=self.now, partition=partition, offset=offset, members=self.members))

    def evidence(self) -> Evidence:
        def of(*names: str) -> tuple[Written, ...]:
            return tuple(sorted((r for name in names for r in self.topics[name]), key=lambda r: (r.topic, r.partition, r.offset)))

        ends = Counter(record.partition for record in self.topics["attempts"])
        return Evidence(
            settings=SETTINGS,
            partitions={topic: (count,) for topic, count in PARTITIONS.items()},
            ends={partition: ends[partition] for partition in range(PARTITIONS["attempts"])},
            attempts=of("attempts"),
            decisions=of("decisions"),
            replies=of("replies", "replies.own"),
            dead_letters=of("dlq"),
            commits=tuple(self.commits),
            asks=tuple(self.asks.values()),
            side_effects=tuple(self.effects),
            crashes=tuple(self.crashes),
            in_flight=tuple(self.in_flight),
            slack_ms=50,
            clocks_apart_ms=0,
        )


_DENIAL = Denial(cause=Cause.ACCESS_DENIED, reason="no", user_message="No.", action="note")
_REASONS = {
    To.FORBIDDEN: "reply_topic_not_allowed",
    To.MISSING: "reply_topic_unknown",
    To.ILLEGAL: "reply_topic_illegal",
    To.OUT_OF_RANGE: "reply_partition_invalid",
}


def _value(step: Step) -> bytes:
    event: dict[str, Any] = {
        "connection": {"strategy": "auth0"},
        "request": {"ip": "192.0.2.1"},
        "user": {"email": f"{step.says}@example.com", "user_metadata": {"old": 1, "mine": step.says}, "app_metadata": {}},
    }
    if step.says == "{":
        return b"{"
    return orjson.dumps({name: part for name, part in event.items() if step.says != "!" or name != "user"})


def _headers(step: Step, correlation_id: bytes | None) -> Iterator[tuple[str, bytes]]:
    yield "gate-attempt-id", step.id.encode()
    yield "gate-timeout-ms", str(PATIENCE_MS).encode()
    if correlation_id is not None:
        yield "kafka_correlationId", correlation_id
    if step.to.value is not None:
        yield "kafka_replyTopic", step.to.value.encode()
    if step.to is To.OUT_OF_RANGE:
        yield "kafka_replyPartition", b"\0\0\0\7"
