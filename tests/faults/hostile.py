"""What must hold for any bytes at the three doors: an attempt, a record of the ledger, a reply at the client.

Each `take_…` brings one input through the code that takes such bytes and asserts what is promised; whatever it raises is a
finding. Nothing here knows where the bytes come from: Hypothesis (`tests/unit/worker/test_fuzz.py`) or atheris (`fuzz.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gate import Api, Event
from gate.chain.action import Action
from gate.chain.python import read_entry
from gate.chain.runner import Chain
from gate.client import Arrival, Waiters, correlation_id_of, read_reply
from gate.config import Settings
from gate.errors import GateError
from gate.ledger.answer import Answer, Entry
from gate.model.decision import Cause, Decision, Denial, Outcome, Status, fixed_denial
from gate.model.readonly import Secrets, freeze_object
from gate.model.wire import (
    ATTEMPT_ID,
    CORRELATION_IDS,
    LEGAL_TOPIC,
    MAX_ID_BYTES,
    Message,
    encode_dead_letter,
    encode_reply,
    read_ledger,
)
from gate.worker.clock import BrokerClock
from gate.worker.deciding import Decider, answer_document
from gate.worker.replies import AddressBook, Reason

NOW_MS = 1_767_323_045_678
TOPICS = {"registration.replies": 4, "registration.replies.eu": 1, "registration.attempts": 4, "__consumer_offsets": 50}
OURS = ("registration.attempts", "registration.decisions", "registration.attempts.dlq")

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Hostile:
    """A record as aiokafka hands it out."""

    value: bytes | None
    headers: Headers = ()
    key: bytes | None = b"k"
    timestamp: int = NOW_MS
    topic: str = "registration.attempts"
    partition: int = 3
    offset: int = 41


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    """Touch what actions touch, and give back what the person wrote."""
    seen = [event.user.email, event.user.nickname, event.request.language, event.request.geoip.continent_code]
    seen += [event.connection.name, event.client.name if event.client else None]
    if isinstance(event.user.email, str) and event.user.email.startswith("no"):
        api.access.deny(event.user.email, event.user.name)
    for name in event.user.user_metadata:
        api.user.set_user_metadata("first", event.user.user_metadata[name])
        break
    api.user.set_app_metadata("seen", [str(value) for value in seen])


class Doors:
    """The code behind the doors, as a worker and a client put it together, without Kafka."""

    def __init__(self) -> None:
        entry = read_entry(on_execute_pre_user_registration, file=__file__)
        action = Action(name="look", code=entry, file=None, timeout_s=20.0, secrets=Secrets({}), config=freeze_object({}))  # type: ignore[arg-type]
        settings = Settings()
        self.decider = Decider(settings, chain=Chain([action]), worker_id="w", clock=BrokerClock(lambda: float(NOW_MS)))
        self.book = AddressBook(default_topic=settings.replies_topic, patterns=("*",), forbidden=OURS, partitions=TOPICS.get)

    def take_attempt(self, record: Hostile) -> Message:
        """Decide an attempt and return its reply: whatever came, there is one decision that can be written and sent."""
        flight, _ = self.decider.read(record)  # type: ignore[arg-type]
        outcome = self.decider.run(flight)
        assert isinstance(outcome, Outcome), "the chain does not wait"
        try:
            append, document = self.decider.word(flight, outcome)
        except orjson.JSONEncodeError:  # as the worker does
            failed = Outcome(denial=fixed_denial(Cause.ACTION_FAILED), chain=outcome.chain)
            append, document = self.decider.word(flight, failed)

        assert 0 < len(flight.attempt_id.encode()) <= max(MAX_ID_BYTES, len(flight.source))
        assert append.headers == read_ledger(append.message.key, append.message.headers)
        in_ledger = append.message.value
        assert in_ledger is not None

        reply = encode_reply(flight.ask, document, flight.user, append.body)
        flight.append, flight.document = None, None  # as any other worker finds it
        flight.answer = Answer(Entry(7, *append.headers, in_ledger), conflict=False)
        assert reply == encode_reply(flight.ask, answer_document(flight, in_ledger), flight.user), (
            "not the same reply from the ledger"
        )

        self._check_reply(record, reply)
        self._check_address(flight.ask.reply_topic, self.book.find(flight.ask))
        letter = encode_dead_letter(record, reason=Reason.INVALID_ATTEMPT, at="now", max_bytes=1000)  # type: ignore[arg-type]
        assert letter.value in {record.value, None}
        assert list(record.headers) == letter.headers[: len(record.headers)]
        return reply

    def _check_reply(self, record: Hostile, reply: Message) -> None:
        assert reply.value is not None
        document = strict_json(reply.value)
        decision = Decision.from_json(document)
        assert (decision.status is Status.DENIED) == (decision.denial is not None)
        assert decision.denial is None or not (decision.denial.cause is Cause.INVALID_ATTEMPT and decision.denial.action)
        names = [name for name, _ in reply.headers]
        assert len(set(names)) == len(names)
        assert all(isinstance(value, bytes) for _, value in reply.headers)
        came = [value for name, value in record.headers if name in CORRELATION_IDS]
        sent = [value for name, value in reply.headers if name in CORRELATION_IDS]
        assert sent == ([came[-1]] if came and came[-1] else [])
        assert document["attempt_id"].encode() == dict(reply.headers)[ATTEMPT_ID]

    def _check_address(self, asked: str | None, address: Any) -> None:
        if address.topic is None:
            assert address.fault in {Reason.REPLY_TOPIC_ILLEGAL, Reason.REPLY_TOPIC_NOT_ALLOWED, Reason.REPLY_TOPIC_UNKNOWN}
            return
        assert address.topic == (asked or "registration.replies")
        assert LEGAL_TOPIC.fullmatch(address.topic)
        assert address.topic not in OURS
        assert not address.topic.startswith("__")
        assert 0 <= address.partition < TOPICS[address.topic]

    def take_ledger_record(self, record: Hostile) -> None:
        """Read a record that stands in the ledger, and answer an honest ask with it."""
        headers = read_ledger(record.key, record.headers)  # type: ignore[arg-type]
        if headers is None or record.value is None:
            return
        honest = Hostile(b'{"connection": {"strategy": "auth0"}, "request": {}, "user": {}}', ((ATTEMPT_ID, b"a"),))
        flight, _ = self.decider.read(honest)  # type: ignore[arg-type]
        for conflict in (False, True):
            flight.answer = Answer(Entry(7, *headers, record.value), conflict=conflict)
            reply = encode_reply(flight.ask, answer_document(flight, record.value), flight.user)
            assert reply.value is not None
            Decision.from_json(strict_json(reply.value))

    def take_reply(self, record: Hostile) -> None:
        """Let a reply arrive at a client with one ask in flight: it is settled once, by a decision or by our own error."""
        waiters: Waiters[list[Decision | GateError]] = Waiters("inst")
        settled: list[Decision | GateError] = []
        waiters.open(b"inst-1", settled)
        for _ in range(3):
            correlation_id = correlation_id_of(record)  # type: ignore[arg-type]
            if correlation_id is None:
                return
            arrival, waiter = waiters.arrive(correlation_id, record.value or b"")
            assert (arrival is Arrival.ANSWER) == (waiter is not None)
            if waiter is not None:
                try:
                    waiter.append(read_reply(record.value or b""))
                except GateError as error:
                    waiter.append(error)
        assert len(settled) == (correlation_id == b"inst-1")
        for decision in settled:
            if isinstance(decision, Decision):
                check_decision(decision)


def check_decision(decision: Decision) -> None:
    """A signup service can use it by its declared types, whoever sent it."""
    assert isinstance(decision.attempt_id, str)
    assert all(isinstance(value, dict) for value in (decision.user_metadata, decision.app_metadata, decision.changes))
    assert decision.approved == (decision.denial is None)
    if decision.denial is not None:
        assert isinstance(decision.denial, Denial)
        assert isinstance(decision.denial.reason, str)
        assert isinstance(decision.denial.user_message, str | None)
        assert all(isinstance(error, dict) for error in decision.denial.errors)
    assert all(isinstance(warning, dict) for warning in decision.warnings)
    assert all(isinstance(value, str | None) for value in (decision.user_id, decision.chain, decision.decided_at))


def strict_json(value: bytes) -> dict[str, Any]:
    """Parse JSON as a parser in another language would: UTF-8 without a BOM, no NaN, an object."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(value.decode("utf-8", "strict"), parse_constant=refuse)
    assert isinstance(document, dict)
    return document
