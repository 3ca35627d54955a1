"""Say everything about one dead letter, without what may name a person unless that is asked for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Final

from gate.model.decision import Decision
from gate.model.wire import ATTEMPT_ID, CORRELATION_IDS, INT32, REPLY_PARTITIONS, REPLY_TOPICS, TIMEOUT_MS, TRACEPARENT
from gate.tools.dlq import Found, meaning_of
from gate.tools.redrive import Outcome

_OURS: Final = CORRELATION_IDS | REPLY_PARTITIONS | REPLY_TOPICS | {ATTEMPT_ID, TIMEOUT_MS, TRACEPARENT}
"""Headers that are part of the protocol; any other may hold anything, a person's address too."""

HIDDEN: Final = "--show-personal-data shows it"


def describe(
    found: Found, *, value: bytes | None, decision: Decision | None, outcome: Outcome | None, personal: bool
) -> dict[str, Any]:
    """Return what is known of a record of the dead letter topic.

    `value` is the attempt's, where it is known; `decision` what the ledger has for it; `outcome` what a redrive would do.
    """
    document = found.to_json()
    letter = found.letter
    if letter is None:
        return document
    meaning = meaning_of(letter.reason)
    key_is_id = letter.key is not None and letter.key == (found.attempt_id or "").encode()
    document |= {
        "meaning": meaning.what,
        "mend": meaning.mend,
        "key": _told(letter.key, personal or key_is_id),
        "headers": [{"name": name, "value": legible(name, given, personal=personal)} for name, given in letter.headers],
        "decision": None if decision is None else _decided(decision, personal=personal),
    }
    if personal:
        document["value"] = None if value is None else _text(value)
    if outcome is not None:
        document["redrive"] = outcome.to_json()
    return document


def legible(name: str, value: bytes | None, *, personal: bool) -> str:
    """Return a header's value as a person reads it."""
    if value is not None and name in CORRELATION_IDS and len(value) == 16:
        return str(uuid.UUID(bytes=value))
    if value is not None and name in REPLY_PARTITIONS and len(value) == INT32.size:
        return str(INT32.unpack(value)[0])
    return _told(value, personal or name in _OURS)


def _told(value: bytes | None, whole: bool) -> str:
    if value is None:
        return "none"
    return _text(value) if whole else f"{len(value)} bytes ({HIDDEN})"


def _text(value: bytes) -> str:
    """Return bytes as text where they are, else as hex."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return text if all(each.isprintable() or each in "\n\r\t" for each in text) else value.hex()


def _decided(decision: Decision, *, personal: bool) -> dict[str, Any]:
    """Return a decision; what actions set may name a person."""
    return dict(_facts(decision, personal=personal))


def _facts(decision: Decision, *, personal: bool) -> Iterator[tuple[str, Any]]:
    yield "status", decision.status.value
    if decision.denial is not None:
        yield "denial", decision.denial.to_json()
    elif personal:
        yield "changes", decision.changes
        if decision.user_id is not None:
            yield "user_id", decision.user_id
    else:
        yield "changes", {scope: sorted(changes) for scope, changes in decision.changes.items()}  # the names alone
    yield "warnings", list(decision.warnings)
    yield "chain", decision.chain
    yield "decided_at", decision.decided_at
