"""Redrive dead letters: send the decision that was made once more, or have the attempt decided where nothing binds it.

Every dead letter was decided before it was buried. Producing its attempt anew would let the chain decide a second time as
soon as the window is over, so a decision of the ledger is sent again from here. Only an attempt that has none which binds
its id (`invalid_attempt`, `expired`, `overloaded` bind one ask) is asked again under its id.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import orjson

from gate.config import Settings
from gate.errors import InvalidEvent
from gate.kafka.partitioner import partition_of
from gate.ledger.answer import Entry
from gate.model.decision import Scope
from gate.model.event import Event
from gate.model.wire import ATTEMPT_ID, MAX_ID_BYTES, Headers, Message, read_document
from gate.tools.decided import Case, Reply, reply_of
from gate.tools.dlq import MEANINGS, STRANGER, Found
from gate.worker.partitions import CLOCK_ALLOWANCE_MS
from gate.worker.replies import AddressBook, Reason

ANEW: Final = "--decide-again gives it a new id and a new decision"


class Deed(StrEnum):
    """What becomes of a dead letter."""

    SENT = "decision_sent"  # the decision that the ledger has
    ASKED = "asked_again"  # its attempt, under its own id
    ASKED_ANEW = "asked_anew"  # its attempt, under a new id
    REPEATED = "repeated"  # nothing: another letter of the same attempt was taken before
    LEFT = "left"  # nothing, for a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one dead letter, and the record to produce for it."""

    found: Found
    deed: Deed
    why: str | None = None  # it is left
    topic: str | None = None  # where the record goes
    partition: int | None = None
    message: Message | None = None
    new_attempt_id: str | None = None
    status: str | None = None  # of the decision
    cause: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is left to do."""
        return self.deed is not Deed.LEFT

    def to_json(self) -> dict[str, Any]:
        """Return it without the record."""
        letter = self.found.letter
        facts = {
            "place": str(self.found.place),
            "attempt_id": self.found.attempt_id,
            "reason": None if letter is None else letter.reason,
            "source": None if letter is None else letter.source,
            "deed": self.deed.value,
            "why": self.why,
            "topic": self.topic,
            "partition": self.partition,
            "new_attempt_id": self.new_attempt_id,
            "status": self.status,
            "cause": self.cause,
        }
        return {name: value for name, value in facts.items() if value is not None}


def left(found: Found, why: str) -> Outcome:
    """Return that nothing is done about a dead letter."""
    return Outcome(found=found, deed=Deed.LEFT, why=why)


class Planner:
    """Decides what is to become of each dead letter. Does no I/O; `partitions` are the counts of all topics there are."""

    def __init__(
        self,
        settings: Settings,
        partitions: Mapping[str, int],
        *,
        decide_again: bool,
        now_ms: Callable[[], float] = lambda: time.time() * 1000,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._settings = settings
        self._partitions = partitions
        self._addresses = AddressBook.from_settings(settings, partitions.get)
        self._decide_again = decide_again
        self._now_ms = now_ms
        self._new_id = new_id

    def refused(self, found: Found) -> str | None:
        """Return why a record can be left without a look at its attempt; None where it cannot."""
        letter, ours = found.letter, self._settings.attempts_topic
        if letter is None:
            return f"it is {STRANGER}"
        if letter.topic != ours:
            return f"it is of {letter.topic}, and GATE_ATTEMPTS_TOPIC is {ours}: redrive it with the settings of its own gate"
        return None

    def plan(self, found: Found, case: Case) -> Outcome:
        """Return what is to be done about a dead letter of our attempts topic, looked up in the ledger unless decided anew."""
        letter, ask = case.letter, case.flight.ask
        if not case.whole:
            size, gone = letter.truncated_bytes, f"{letter.topic} does not have it any more"
            return left(found, f"its value of {size} bytes was too large to keep, and {gone}: only the asker can ask again")
        address = self._addresses.find(ask)
        if address.topic is None and address.fault is not None:
            named = f" ({ask.reply_topic})" if ask.reply_topic else ""
            return left(found, f"there is still no way to its asker, {address.fault}{named}: {MEANINGS[address.fault].mend}")
        if address.fault is not None and address.fault == letter.reason:
            return left(found, f"it still names a reply partition that cannot be: {MEANINGS[address.fault].mend}")
        if self._decide_again:
            return self._ask_anew(found, case)
        if letter.partition >= self._partitions.get(self._settings.decisions_topic, 0):
            return left(found, f"{self._settings.decisions_topic} has no partition {letter.partition} to look in; {ANEW}")
        if not case.reached:
            return left(found, f"the ledger does not go back to it any more, so nobody knows what was decided; {ANEW}")
        decided = case.answer(self._settings.window_ms)
        if decided is not None and decided.entry.scope is Scope.ID:
            return _send(found, reply_of(case, decided), address.topic or "", address.partition)
        return self._ask_again(found, case)

    def _ask_again(self, found: Found, case: Case) -> Outcome:
        """Ask again under the same id, unless that could lead to a second decision on it."""
        letter, ask, topic = case.letter, case.flight.ask, self._settings.attempts_topic
        # The worker sends a decision again that is within the window of the new ask. Of one that is older, or will be
        # when the broker stamps the ask by a clock of its own, it would know nothing.
        since_ms = self._now_ms() - self._settings.window_ms + CLOCK_ALLOWANCE_MS
        if case.decisions and all(entry.attempt_ts < since_ms for entry in case.decisions):
            return left(found, f"its id was decided already, {_told(case.decisions[0])} for another attempt; {ANEW}")
        if len(ask.attempt_id.encode()) > MAX_ID_BYTES:
            return left(found, f"its id is where it stood, which is too long to be asked for; {ANEW}")
        if letter.partition >= self._partitions.get(topic, 0):
            return left(found, f"{topic} has no partition {letter.partition} any more; {ANEW}")
        if (problem := self._unreadable(case)) is not None:
            return left(found, problem)
        headers = letter.unmarked if ask.named else _with_id(letter.unmarked, ask.attempt_id)
        message = Message(letter.key, ask.record.value, headers)
        return Outcome(found=found, deed=Deed.ASKED, topic=topic, partition=letter.partition, message=message)

    def _ask_anew(self, found: Found, case: Case) -> Outcome:
        """Ask under a new id, as another attempt."""
        topic = self._settings.attempts_topic
        if not (count := self._partitions.get(topic, 0)):
            return left(found, f"topic {topic} does not exist: make it with `gate topics create`")
        if (problem := self._unreadable(case)) is not None:
            return left(found, problem)
        attempt_id = self._new_id()
        key = attempt_id.encode()
        message = Message(key, case.flight.ask.record.value, _with_id(case.letter.unmarked, attempt_id))
        return Outcome(
            found=found,
            deed=Deed.ASKED_ANEW,
            topic=topic,
            partition=partition_of(key, count),
            message=message,
            new_attempt_id=attempt_id,
        )

    def _unreadable(self, case: Case) -> str | None:
        """Return why the value would be denied as invalid again; None where it would not."""
        try:
            document, _ = read_document(case.flight.ask.record.value, max_bytes=self._settings.max_event_bytes)
            Event.from_document(document)
        except InvalidEvent as fault:
            return f"it would be invalid_attempt again, {fault}: {MEANINGS[Reason.INVALID_ATTEMPT].mend}"
        return None


def _send(found: Found, reply: Reply, topic: str, partition: int) -> Outcome:
    denial = reply.decision.denial
    return Outcome(
        found=found,
        deed=Deed.SENT,
        topic=topic,
        partition=partition,
        message=reply.message,
        status=reply.decision.status.value,
        cause=None if denial is None else denial.cause.value,
    )


def _with_id(headers: Headers, attempt_id: str) -> Headers:
    return [*((name, value) for name, value in headers if name != ATTEMPT_ID), (ATTEMPT_ID, attempt_id.encode())]


def _told(entry: Entry) -> str:
    """Return what a ledger record says, as in `denied (access_denied) at 2026-01-02T03:04:05.678Z`."""
    try:
        document = orjson.loads(entry.value or b"")
        cause = f" ({document['denial']['cause']})" if "denial" in document else ""
        return f"{document['status']}{cause} at {document['decided_at']}"
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return "unreadably"


def rejected(outcome: Outcome) -> Outcome:
    """Return the outcome of a record that the broker finds too large."""
    return _failed(outcome, f"it is larger than {outcome.topic} takes: raise max.message.bytes of the topic")


def forbidden(outcome: Outcome) -> Outcome:
    """Return the outcome of a record whose topic the broker refuses us."""
    return _failed(outcome, f"Kafka does not let us write to {outcome.topic}: grant WRITE on the topic")


def unacknowledged(outcome: Outcome, error: str) -> Outcome:
    """Return the outcome of a record that may have been written or not."""
    mend = "see that the topic has leaders and enough replicas in sync, and redrive it once more"
    return _failed(outcome, f"{outcome.topic} did not acknowledge it ({error}), so it may have arrived or not: {mend}")


def _failed(outcome: Outcome, why: str) -> Outcome:
    return replace(outcome, deed=Deed.LEFT, why=why, message=None)
