"""The words in which the checker says what is there and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gate.ledger.answer import Answer
from gate.ledger.digest import conflicts
from gate.model.decision import Cause
from gate.model.wire import STATUS, Message

from .evidence import Asked, Written
from .reading import Case, Reading, is_message

_SHOWN: Final = 160  # characters of a value in a sentence


def what_is_wrong(reading: Reading, case: Case, reply: Written) -> str:
    """Say in what a reply is not the one that rule 1 gives for its ask."""
    if case.decision is None or case.expected is None:
        return f"says {shown(reply.header(STATUS))}; the ledger has no decision on it"
    for other in reading.ledger[case.record.partition, case.attempt_id]:
        losing = Answer(other.entry, conflicts(other.entry.digest, case.flight.digest))
        if other is not case.decision and is_message(reply, reading.reply_with(case.flight, losing)):
            return f"carries {other.record.place}, which lost to {case.decision.record.place}"
    return f"{_difference(case.expected, reply)} (the decision is {case.decision.record.place})"


def _difference(expected: Message, reply: Written) -> str:
    """Say the first thing in which a reply is not what it must be."""
    if reply.key != expected.key:
        return f"has the key {shown(reply.key)}; expected {shown(expected.key)}"
    if list(reply.headers) != expected.headers:
        wanted = dict(expected.headers)
        for name, value in reply.headers:
            if wanted.pop(name, None) != value:
                return f"has the header {name} {shown(value)}; expected {shown(dict(expected.headers).get(name))}"
        return f"lacks headers or has them in another order; expected {[name for name, _ in expected.headers]}"
    there, right = body_of(reply.value), body_of(expected.value)
    for name in (*right, *there):
        if there.get(name) != right.get(name) or (name in there) != (name in right):
            return f"says {name} {shown(there.get(name))}; expected {shown(right.get(name))}"
    return f"has the bytes {shown(reply.value)}; expected {shown(expected.value)}"


def what_is_undone(case: Case) -> str:
    """Say what an attempt still lacks."""
    if case.decision is None:
        return "it has no decision"
    deliverable = all(address.topic is not None for address in case.addresses)
    if deliverable and case.reply is None and not case.replaced:
        return f"the decision {case.decision.record.place} has no reply and no dead letter in its place"
    reasons = ", ".join(sorted(str(reason) for reason in case.reasons))
    return f"it has no dead letter, and needs one for {reasons}"


def name_of(ask: Asked) -> str:
    """Name an ask of the client's history."""
    return f"{ask.attempt_id} (correlation {shown(ask.correlation_id)})"


def shown(value: object) -> str:
    """Return a value as text, cut where it is long."""
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def body_of(value: bytes | None) -> dict[str, Any]:
    """Return the JSON object of a reply or ledger record; empty where it is none."""
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return document if type(document) is dict else {}


def cause_of(body: Mapping[str, Any]) -> Cause | None:
    """Return the cause of a denial; None for an approval, and for what is no decision."""
    denial = body.get("denial")
    try:
        return Cause(denial["cause"]) if denial else None
    except (KeyError, TypeError, ValueError):
        return None
