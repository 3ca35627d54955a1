"""From an attempt's bytes to the decision that is appended to the ledger."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any

import orjson

from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.config import Settings
from gate.errors import InvalidEvent
from gate.ledger.digest import Digester
from gate.model.decision import SCOPES, Cause, Outcome, fixed_denial, localised
from gate.model.event import Event
from gate.model.wire import (
    LedgerHeaders,
    Record,
    conflict_document,
    decision_document,
    encode_ledger,
    extended,
    read_ask,
    read_document,
    warning,
)
from gate.worker.clock import BrokerClock
from gate.worker.partitions import Append, Flight


class Decider:
    """Reads attempts, runs the chain on them, and words what comes of it. Does no I/O but what actions do."""

    def __init__(
        self, settings: Settings, *, chain: Chain, worker_id: str, clock: BrokerClock, texts: FixedTexts | None = None
    ) -> None:
        self.chain = chain
        self._settings = settings
        self._worker_id = worker_id
        self._clock = clock
        self._digester = Digester(settings.volatile_paths)
        self._texts = texts

    def read(self, record: Record) -> tuple[Flight, list[str]]:
        """Read an attempt; never raises. Returned with it are the fields that only we set and that were dropped from it."""
        settings = self._settings
        ask = read_ask(record, default_timeout_ms=settings.default_timeout_ms, max_timeout_ms=settings.max_timeout_ms)
        texts = None
        try:
            event, dropped = read_document(record.value, max_bytes=settings.max_event_bytes)
            if self._texts is not None:
                texts = self._texts.for_document(event)
            digest = self._digester.of_document(event)
        except InvalidEvent as fault:
            ask.warnings.append(warning("invalid_attempt", str(fault)))
            return Flight(ask, self._digester.of_bytes(record.value), None, time.monotonic(), texts), []
        return Flight(ask, digest, event, time.monotonic(), texts), dropped

    def run(self, flight: Flight) -> Outcome | Coroutine[Any, Any, Outcome]:
        """Decide an ask: at once where nothing has to be waited for, else by the coroutine that is returned."""
        ask = flight.ask
        if flight.event is None:
            return self.chain.not_run(Cause.INVALID_ATTEMPT)
        late = self.late(flight)
        if late is not None:
            return self.chain.not_run(late)
        try:
            event = Event.from_document(flight.event)
        except InvalidEvent as fault:
            ask.warnings.append(warning("invalid_attempt", str(fault)))
            return self.chain.not_run(Cause.INVALID_ATTEMPT)
        left_s = (ask.deadline_ms - self._clock.now_ms()) / 1000
        return self.chain.run(event, attempt_id=flight.attempt_id, patience_s=max(0.0, left_s - ask.reserve_s))

    def late(self, flight: Flight) -> Cause | None:
        """Return why the chain is not to run any more: it waited too long, by the broker's time as it is known now."""
        if flight.ask.deadline_ms <= self._clock.now_ms():
            return Cause.EXPIRED
        if self._settings.max_queue_ms is not None and self.queue_ms(flight) > self._settings.max_queue_ms:
            return Cause.OVERLOADED
        return None

    def queue_ms(self, flight: Flight) -> float:
        """How long an attempt has waited since the broker stamped it; never negative."""
        return max(0.0, self._clock.now_ms() - flight.timestamp_ms)

    def word(self, flight: Flight, outcome: Outcome) -> tuple[Append, dict[str, Any]]:
        """Return the ledger record of a decision, and the decision as replies carry it."""
        now_ms = self._clock.now_ms()
        waited_ms = (time.monotonic() - flight.started_at) * 1000
        document = decision_document(
            attempt_id=flight.attempt_id,
            outcome=outcome,
            warnings=flight.ask.warnings,
            chain=outcome.chain or self.chain.hash,
            decided_at=self._clock.text(now_ms),
            texts=flight.texts,
        )
        body = orjson.dumps(document)
        value = extended(
            body,
            {
                "source": flight.source,
                "worker": self._worker_id,
                "received_at": self._clock.text(now_ms - waited_ms),
                "queue_ms": round(max(0.0, now_ms - waited_ms - flight.timestamp_ms), 3),
                "trace": [entry.to_json() for entry in outcome.trace],
            },
        )
        cause = None if outcome.denial is None else outcome.denial.cause
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, SCOPES[cause])
        return Append(headers, encode_ledger(headers, value), flight, body), document


def answer_document(flight: Flight, value: bytes) -> dict[str, Any]:
    """Return the decision that answers an ask: what was worded here if that became the record, else what the record says.

    `value` is the body of the ledger record that decides it.
    """
    assert flight.answer is not None
    mine = flight.append is not None and flight.append.message.value is value
    document: dict[str, Any] = flight.document if mine and flight.document is not None else orjson.loads(value)
    if flight.answer.conflict:
        return conflict_document(document, localised(fixed_denial(Cause.CONFLICT), flight.texts).to_json())
    return document
