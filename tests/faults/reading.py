"""What rule 1 makes of the topics: for every ask its decision, the reply that it must have, and what it has got.

The decision is `gate.ledger.answer.answer()` over the whole ledger partition, the digest `gate.ledger.digest`'s, the reply
`gate.model.wire.encode_reply()`'s: what they mean is said there, once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from gate.chain.texts import load_texts
from gate.ledger.answer import Answer, Entry, answer
from gate.model.decision import Cause
from gate.model.wire import (
    ATTEMPT_ID,
    CORRELATION_IDS,
    INT32,
    INT64,
    Headers,
    Message,
    Record,
    encode_reply,
    read_ledger,
)
from gate.worker.deciding import Decider, answer_document
from gate.worker.partitions import Flight
from gate.worker.replies import Address, AddressBook, Reason

from .evidence import Evidence, Written

Waiter = tuple[str | None, bytes | None, bytes]
"""Whom a reply is for: header and value of the correlation id, and the attempt id. Copies of one ask have one."""

INSTEAD: frozenset[str] = frozenset({Reason.REPLY_REJECTED, Reason.REPLY_FORBIDDEN, Reason.REPLY_UNKNOWN})
"""Reasons of dead letters that stand in the place of a reply that could not be delivered."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """One ledger record: its headers and body, and when it was appended."""

    entry: Entry
    record: Written


@dataclass(kw_only=True)
class Case:
    """One record of the attempts topic, what rule 1 says of it, and what became of it."""

    record: Written
    flight: Flight
    decision: Decided | None  # None: rule 1 gives none
    expected: Message | None  # the reply that it must have; None: no decision
    addresses: tuple[Address, ...]  # where its reply may go, by the partition counts that there were
    reply: Written | None = None  # the first one that can be its own
    letters: list[Written] = field(default_factory=list)

    @property
    def attempt_id(self) -> str:
        """Its attempt id."""
        return self.flight.attempt_id

    @property
    def reasons(self) -> set[Reason | None]:
        """Why it must become a dead letter; None among them: it need not."""
        denial = {} if self.expected is None else dict(self.expected.headers)
        if denial.get("gate-cause") == Cause.INVALID_ATTEMPT.value.encode():
            return {Reason.INVALID_ATTEMPT}
        return {address.fault for address in self.addresses}

    @property
    def done_ms(self) -> int | None:
        """When its decision stood in the ledger and it was answered, dead letter included; None: not yet."""
        if self.decision is None:
            return None
        at = [self.decision.record.timestamp]
        buried = min((letter.timestamp for letter in self.letters), default=None)
        if self.reply is not None:
            at.append(self.reply.timestamp)
        elif all(address.topic is not None for address in self.addresses) and not self.replaced:
            return None
        if buried is not None and (self.reply is None or None not in self.reasons):
            at.append(buried)
        elif buried is None and None not in self.reasons:
            return None
        return max(at)

    @property
    def replaced(self) -> bool:
        """Whether a dead letter stands in the place of its reply."""
        return any(_text(letter.header("gate-dlq-reason")) in INSTEAD for letter in self.letters)

    def __str__(self) -> str:
        return f"{self.attempt_id} ({self.flight.source})"


class Reading:
    """The evidence, read once for all invariants."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        settings = evidence.settings
        self._decider = Decider(settings, chain=None, worker_id="checker", clock=None, texts=load_texts(settings.messages))  # type: ignore[arg-type] # reads only
        self.ledger: dict[tuple[int, str], list[Decided]] = defaultdict(list)
        self.strangers: list[Written] = []  # in the ledger, but no ledger records
        for record in evidence.decisions:
            headers = read_ledger(record.key, _plain(record))
            if headers is None:
                self.strangers.append(record)
            else:
                entry = Entry(record.offset, *headers, record.value)
                self.ledger[record.partition, headers.attempt_id].append(Decided(entry=entry, record=record))
        books = list(_books(evidence))
        self.cases = [self._case(record, books) for record in evidence.attempts]
        self.by_source = {case.flight.source: case for case in self.cases}
        self.by_id: dict[str, list[Case]] = defaultdict(list)
        self.by_waiter: dict[Waiter, list[Case]] = defaultdict(list)
        for case in self.cases:
            ask = case.flight.ask
            self.by_id[ask.attempt_id].append(case)
            header = None if ask.correlation_id is None else ask.correlation_header  # a header may stand there without a value
            self.by_waiter[header, ask.correlation_id, ask.attempt_id.encode()].append(case)
        self.replies: dict[Waiter, list[Written]] = defaultdict(list)  # in time's order
        for reply in sorted(evidence.replies, key=lambda reply: (reply.timestamp, reply.partition, reply.offset)):
            self.replies[waiter_of(reply)].append(reply)
        for waiter, cases in self.by_waiter.items():
            _hand_out(cases, [reply for reply in self.replies.get(waiter, ()) if addressed(reply, cases)])
        self.lone_letters: list[Written] = []  # of no attempt
        for letter in evidence.dead_letters:
            buried = self.by_source.get(source_of(letter) or "")
            (self.lone_letters if buried is None else buried.letters).append(letter)

    def _case(self, record: Written, books: list[AddressBook]) -> Case:
        flight, _ = self._decider.read(cast(Record, record))  # frozen, and a header may be None there, too
        candidates = self.ledger.get((record.partition, flight.attempt_id), [])
        found = answer((decided.entry for decided in candidates), flight, self.evidence.settings.window_ms)
        addresses = tuple(dict.fromkeys(book.find(flight.ask) for book in books))
        if found is None:
            return Case(record=record, flight=flight, decision=None, expected=None, addresses=addresses)
        flight.answer = found
        decision = next(decided for decided in candidates if decided.entry is found.entry)
        return Case(record=record, flight=flight, decision=decision, expected=self.reply_with(flight, found), addresses=addresses)

    def reply_with(self, flight: Flight, given: Answer) -> Message:
        """Return the reply to an ask if `given` were its answer."""
        before, flight.answer = flight.answer, given
        try:
            return encode_reply(flight.ask, answer_document(flight, given.entry.value or b""), flight.user)
        finally:
            flight.answer = before

    def lost(self, case: Case) -> bool:
        """Whether nobody will decide it any more: no decision, and committed."""
        return case.decision is None and case.record.offset < self.evidence.committed(case.record.partition)

    def standing(self) -> list[tuple[Decided, Case]]:
        """Return the ledger records that decide an ask, each once, with the ask that they were written for where it is there."""
        found = {id(case.decision): case.decision for case in self.cases if case.decision is not None}
        return [(decided, case) for decided in found.values() if (case := self.by_source.get(decided.entry.source)) is not None]


def _books(evidence: Evidence) -> Iterator[AddressBook]:
    """Return an address book for each state that the topic list has been in: all old counts, …, all new ones."""
    settings = evidence.settings

    def book(back: int) -> AddressBook:
        counts = {topic: seen[max(0, len(seen) - 1 - back)] for topic, seen in evidence.partitions.items()}
        return AddressBook(
            default_topic=settings.replies_topic,
            patterns=settings.reply_topics,
            forbidden=(settings.attempts_topic, settings.decisions_topic, settings.dlq_topic),
            partitions=counts.get,
        )

    return map(book, range(max((len(seen) for seen in evidence.partitions.values()), default=1)))


def _plain(record: Written) -> Headers:
    return [(name, b"" if value is None else value) for name, value in record.headers]


def waiter_of(reply: Written) -> Waiter:
    """Return whom a reply is for, as its headers say."""
    name, value = next(((name, value) for name, value in reply.headers if name in CORRELATION_IDS), (None, None))
    return name, value, reply.header(ATTEMPT_ID) or b""


def source_of(letter: Written) -> str | None:
    """Return the attempt that a dead letter is of, as topic-partition-offset; None where it does not say."""
    topic, partition, offset = (letter.header(f"gate-dlq-{name}") for name in ("topic", "partition", "offset"))
    if topic is None or partition is None or offset is None or len(partition) != INT32.size or len(offset) != INT64.size:
        return None
    return f"{_text(topic)}-{INT32.unpack(partition)[0]}-{INT64.unpack(offset)[0]}"


def addressed(reply: Written, cases: Iterable[Case]) -> bool:
    """Tell whether a reply stands where one to these asks may stand."""
    return any(
        (address.topic, address.partition) == (reply.topic, reply.partition) for case in cases for address in case.addresses
    )


def is_message(reply: Written, message: Message | None) -> bool:
    """Tell whether a record is this message, byte for byte."""
    return message is not None and (reply.key, reply.value, list(reply.headers)) == (
        message.key,
        message.value,
        message.headers,
    )


def fits(reply: Written, case: Case) -> bool:
    """Tell whether a record is the reply that rule 1 gives for an ask, where it may stand."""
    return is_message(reply, case.expected) and addressed(reply, [case])


def _hand_out(cases: list[Case], replies: list[Written]) -> None:
    """Give each copy of an ask the reply that can be its own: an equal one where there is one left, else one that is no one's.

    Which of two equal replies is whose cannot be seen from outside; the earlier ask is given the earlier one.
    """
    spare = list(replies)
    for case in cases:
        case.reply = next((reply for reply in spare if fits(reply, case)), None)
        if case.reply is not None:
            spare.remove(case.reply)
    wrong = [reply for reply in spare if not any(fits(reply, case) for case in cases)]
    for case in cases:
        if case.reply is None:
            case.reply = next((reply for reply in wrong if addressed(reply, [case])), None)
            if case.reply is not None:
                wrong.remove(case.reply)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
