"""From an attempt's bytes to the decision that is appended to the ledger."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, Final

import orjson

from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.config import Settings
from gate.errors import InvalidEvent
from gate.ledger.digest import Digester
from gate.model.decision import SCOPES, ActionOutcome, ActionTrace, Cause, Outcome, fixed_denial, localised
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


class AttemptReader:
    """Reads attempts as the worker takes them; whoever asks the ledger for an attempt's decision reads it by this, too."""

    def __init__(self, settings: Settings, *, texts: FixedTexts | None = None) -> None:
        self._settings = settings
        self._texts = texts
        self._digester = Digester(settings.volatile_paths)

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


class Decider:
    """Reads attempts, runs the chain on them, and words what comes of it. Does no I/O but what actions do."""

    def __init__(
        self, settings: Settings, *, chain: Chain, worker_id: str, clock: BrokerClock, texts: FixedTexts | None = None
    ) -> None:
        self.chain = chain
        self._settings = settings
        self._worker_id = worker_id
        self._clock = clock
        self._reader = AttemptReader(settings, texts=texts)

    def read(self, record: Record) -> tuple[Flight, list[str]]:
        """Read an attempt as `AttemptReader` does."""
        return self._reader.read(record)

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

    def word(self, flight: Flight, outcome: Outcome, *, decided_at: str | None = None) -> tuple[Append, dict[str, Any]]:
        """Return the ledger record of a decision, and the decision as replies carry it; it is made now, unless told when."""
        now_ms = self._clock.now_ms()
        waited_ms = (time.monotonic() - flight.started_at) * 1000
        document = decision_document(
            attempt_id=flight.attempt_id,
            outcome=outcome,
            warnings=flight.ask.warnings,
            chain=outcome.chain or self.chain.hash,
            decided_at=decided_at or self._clock.text(now_ms),
            texts=flight.texts,
        )
        more = {
            "source": flight.source,
            "worker": self._worker_id,
            "received_at": self._clock.text(now_ms - waited_ms),
            "queue_ms": round(max(0.0, now_ms - waited_ms - flight.timestamp_ms), 3),
            "trace": [entry.to_json() for entry in outcome.trace],
        }
        return self._append(flight, document, more), document

    def word_smaller(self, flight: Flight, refused: Append) -> tuple[Append, dict[str, Any]] | None:
        """Return what to append in place of a record that the ledger refuses for its size; None where nothing is smaller.

        First the same decision without what its actions have printed; then `action_failed`, decided at the same time and with
        the same trace, which names the action that made it so large as far as that is known; then the same without a trace.
        """
        record = orjson.loads(refused.message.value or b"{}")
        document = flight.document or {}
        trace = record["trace"]
        if any("logs" in entry for entry in trace):
            more = {name: record[name] for name in record if name not in document}
            more["trace"] = [{name: entry[name] for name in entry if name != "logs"} for entry in trace]
            return self._append(flight, document, more), document
        action: str | None = document.get("denial", {}).get("action")
        if document.get("denial", {}).get("cause") == Cause.ACTION_FAILED and document["denial"]["reason"] == Cause.ACTION_FAILED:
            if not trace:
                return None
            trace = []
        elif action is None:
            ran = [entry["name"] for entry in trace if entry["outcome"] == ActionOutcome.RAN]
            action = ran[0] if len(ran) == 1 else None
        entries = [_entry(entry, too_large=entry["name"] == action) for entry in trace]
        outcome = Outcome(denial=fixed_denial(Cause.ACTION_FAILED, action=action), chain=document["chain"], trace=entries)
        return self.word(flight, outcome, decided_at=document["decided_at"])

    def _append(self, flight: Flight, document: dict[str, Any], more: dict[str, Any]) -> Append:
        body = orjson.dumps(document)
        value = extended(body, more)
        denial = document.get("denial")
        cause = None if denial is None else denial["cause"]
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, SCOPES[cause])
        return Append(headers, encode_ledger(headers, value), flight, body)


TOO_LARGE: Final = "DecisionTooLarge"
"""Stands in a trace as the error of the action that made a decision too large for the ledger."""


def _entry(entry: dict[str, Any], *, too_large: bool) -> ActionTrace:
    """Return the trace of one action as it was, unless it is the one that failed afterwards."""
    return ActionTrace(
        entry["name"],
        entry["version"],
        ActionOutcome.FAILED if too_large else ActionOutcome(entry["outcome"]),
        entry["duration_ms"],
        TOO_LARGE if too_large else entry.get("error"),
        None if too_large else entry.get("error_at"),
        tries=entry.get("tries", 1),
    )


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
