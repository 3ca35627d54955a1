"""The bytes on the four topics: attempts in, replies, ledger records and dead letters out (DESIGN.md section 2).

Headers are lists of `(name, bytes)`, the form aiokafka takes. Where a header is repeated the last one counts, as in
Spring's `lastHeader`.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import orjson

from gate.errors import InvalidEvent
from gate.model.decision import DOCUMENT_VERSION, Cause, Outcome, Scope, Status, Texts, localised

Headers = list[tuple[str, bytes]]

ATTEMPT_ID: Final = "gate-attempt-id"
TIMEOUT_MS: Final = "gate-timeout-ms"
STATUS: Final = "gate-status"
CAUSE: Final = "gate-cause"
TRACEPARENT: Final = "traceparent"

SPRING_CORRELATION_ID: Final = "kafka_correlationId"
SMALLRYE_CORRELATION_ID: Final = "REPLY_CORRELATION_ID"
CORRELATION_IDS: Final = frozenset({SPRING_CORRELATION_ID, SMALLRYE_CORRELATION_ID})
REPLY_TOPICS: Final = frozenset({"kafka_replyTopic", "REPLY_TOPIC"})
REPLY_PARTITIONS: Final = frozenset({"kafka_replyPartition", "REPLY_PARTITION"})

MAX_ID_BYTES: Final = 200
MAX_RESERVE_S: Final = 0.25
OURS: Final = ("secrets", "config", "attempt_id")
"""Event fields that only the gate sets; dropped from what arrives."""

INT32 = struct.Struct(">i")
INT64 = struct.Struct(">q")
LEGAL_TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")  # Kafka: org.apache.kafka.common.internals.Topic

_JSON_TYPE: Final = ("content-type", b"application/json")
_DIGITS = re.compile(rb"[0-9]{1,10}")
_APPROVED: Final = (STATUS, Status.APPROVED.value.encode())
_DENIED: Final = (STATUS, Status.DENIED.value.encode())
_METADATA: Final = ("user_metadata", "app_metadata")
_CAUSE_HEADERS: Final = {cause.value: (CAUSE, cause.value.encode()) for cause in Cause}
_SCOPE_HEADERS: Final = {scope: ("scope", scope.value.encode()) for scope in Scope}


class Record(Protocol):
    """One record as a consumer returns it; aiokafka's ConsumerRecord is one."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True, kw_only=True)
class PlainRecord:
    """A record put together from what is known of it: the `Record` where no consumer returned one."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Message(NamedTuple):
    """One record to be produced."""

    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every attempt, and frozen costs 2 µs more
class Ask:
    """One record of the attempts topic, headers read and the value untouched. Nobody writes to it after `read_ask`."""

    record: Record
    attempt_id: str
    deadline_ms: int  # record timestamp plus the asker's patience, in broker time
    timeout_ms: int  # the asker's whole patience
    correlation_header: str | None  # the name it came under
    correlation_id: bytes | None  # opaque, echoed byte for byte
    reply_topic: str | None  # None: the default; "" for a name that is not UTF-8
    reply_partition: int | None  # None: by key; -1 for a value that is not four bytes
    traceparent: bytes | None
    named: bool  # the asker gave `gate-attempt-id`
    warnings: list[dict[str, str]]

    @property
    def reserve_s(self) -> float:
        """What is kept back of the asker's patience so that the answer arrives in time (DESIGN.md section 3, rule 7)."""
        return min(MAX_RESERVE_S, self.timeout_ms / 10_000)

    @property
    def source(self) -> str:
        """Where it stands: topic-partition-offset."""
        return f"{self.record.topic}-{self.record.partition}-{self.record.offset}"


def warning(code: str, message: str, action: str | None = None) -> dict[str, str]:
    """Return a warning of a reply."""
    entry = {"code": code, "message": message}
    if action is not None:
        entry["action"] = action
    return entry


def id_from_correlation(correlation_id: bytes) -> str | None:
    """Return the attempt id that a correlation id stands for; None if it is too long to be one.

    16 bytes are a UUID as Spring writes it (most significant long first), printable ASCII is taken as it is, anything
    else becomes hex.
    """
    if len(correlation_id) == 16:
        return str(uuid.UUID(bytes=correlation_id))
    text = correlation_id.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        text = correlation_id.hex()
    return text if len(text) <= MAX_ID_BYTES else None


def read_ask(record: Record, *, default_timeout_ms: int, max_timeout_ms: int) -> Ask:
    """Read the headers of an attempt. Never raises: what cannot be read is replaced by its default, with a warning."""
    correlation_header = correlation_id = reply_topic = reply_partition = traceparent = None
    named = timeout = None
    warnings: list[dict[str, str]] = []

    for name, value in record.headers:
        if name in CORRELATION_IDS:
            correlation_header, correlation_id = name, value
        elif name in REPLY_TOPICS:
            reply_topic = value
        elif name in REPLY_PARTITIONS:
            reply_partition = value
        elif name == ATTEMPT_ID:
            named = value
        elif name == TIMEOUT_MS:
            timeout = value
        elif name == TRACEPARENT:
            traceparent = value

    attempt_id = None
    given = False

    if named is not None:
        attempt_id = _text(named) if 0 < len(named) <= MAX_ID_BYTES else None
        given = attempt_id is not None

        if not given:
            warnings.append(warning("attempt_id_unreadable", f"{ATTEMPT_ID} is not UTF-8 of 1 to {MAX_ID_BYTES} bytes"))

    if correlation_id is not None and not correlation_id:
        warnings.append(warning("correlation_id_empty", f"{correlation_header} is empty"))
        correlation_header = correlation_id = None

    if attempt_id is None and correlation_id is not None:
        attempt_id = id_from_correlation(correlation_id)

        if attempt_id is None:
            warnings.append(warning("correlation_id_too_long", f"{correlation_header} is too long for an attempt id"))

    if attempt_id is None:
        attempt_id = f"{record.topic}-{record.partition}-{record.offset}"

    timeout_ms = default_timeout_ms

    if timeout is not None:
        if _DIGITS.fullmatch(timeout):
            timeout_ms = int(timeout)
        else:
            warnings.append(warning("timeout_unreadable", f"{TIMEOUT_MS} is not a number of milliseconds"))

    timeout_ms = min(timeout_ms, max_timeout_ms)
    return Ask(
        record=record,
        attempt_id=attempt_id,
        deadline_ms=record.timestamp + timeout_ms,
        timeout_ms=timeout_ms,
        correlation_header=correlation_header,
        correlation_id=correlation_id,
        reply_topic=_reply_topic(reply_topic) if reply_topic else None,
        reply_partition=None if reply_partition is None else _int32(reply_partition),
        traceparent=traceparent,
        named=given,
        warnings=warnings,
    )


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _reply_topic(value: bytes) -> str:
    name = _text(value)
    return name if name is not None and LEGAL_TOPIC.fullmatch(name) else ""


def _int32(value: bytes) -> int:
    return max(-1, INT32.unpack(value)[0]) if len(value) == INT32.size else -1


# -- The value of an attempt --------------------------------------------------------------------------------------------


def read_document(value: bytes | None, *, max_bytes: int) -> tuple[dict[str, Any], list[str]]:
    """Return the JSON object of an attempt and the names of our own fields that were dropped from it.

    Raises InvalidEvent where the value is empty, too large, not JSON or not an object.
    """
    if not value:
        raise InvalidEvent("$", "the value is empty")
    if len(value) > max_bytes:
        raise InvalidEvent("$", f"the value has {len(value)} bytes, more than {max_bytes}")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidEvent("$", f"not JSON, at character {error.pos}") from None
    if type(document) is not dict:
        raise InvalidEvent("$", "not a JSON object")
    dropped = [name for name in OURS if name in document]
    for name in dropped:
        del document[name]
    return document, dropped


# -- Replies ------------------------------------------------------------------------------------------------------------


def decision_document(
    *,
    attempt_id: str,
    outcome: Outcome,
    warnings: list[dict[str, str]],
    chain: str,
    decided_at: str,
    texts: Texts | None = None,
) -> dict[str, Any]:
    """Return the decision as it stands in the ledger and, with the merged metadata, in replies.

    `warnings` are the ask's own; they come before those of the chain. `texts` are the fixed texts in the person's
    language, where they are not the built-in ones.
    """
    denial = outcome.denial
    document: dict[str, Any] = {"version": DOCUMENT_VERSION, "attempt_id": attempt_id, "status": outcome.status.value}
    if denial is None:
        document["changes"] = outcome.changes
        if outcome.user_id is not None:
            document["user_id"] = outcome.user_id
    else:
        document["denial"] = localised(denial, texts).to_json()
    document["warnings"] = warnings + outcome.warnings
    document["chain"] = chain
    document["decided_at"] = decided_at
    return document


def conflict_document(document: Mapping[str, Any], denial: dict[str, Any]) -> dict[str, Any]:
    """Return the decision on an ask whose content differs from that of the decision `document` (protocol rule 1)."""
    return {
        "version": DOCUMENT_VERSION,
        "attempt_id": document["attempt_id"],
        "status": Status.DENIED.value,
        "denial": denial,
        "warnings": [],
        "chain": document["chain"],
        "decided_at": document["decided_at"],
    }


def merge(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata after an action's changes: top-level keys replaced whole, None removes (DESIGN.md section 3, 5)."""
    return {key: value for key, value in {**before, **changes}.items() if value is not None or key not in changes}


_LEDGER_ONLY: Final = frozenset({"source", "worker", "received_at", "queue_ms", "trace"})


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a decision as replies begin with it, whether it was made here or read from the ledger."""
    return orjson.dumps({name: value for name, value in document.items() if name not in _LEDGER_ONLY})


def extended(body: bytes, more: Mapping[str, Any]) -> bytes:
    """Return an encoded JSON object with more members behind its own; neither may be empty."""
    return body[:-1] + b"," + orjson.dumps(more)[1:]


def encode_reply(ask: Ask, document: Mapping[str, Any], user: Mapping[str, Any], body: bytes | None = None) -> Message:
    """Return the reply to one ask: the same bytes whether `document` was made here or read from the ledger.

    `user` is the `user` object of the ask's own event (empty where that cannot be read); an approval carries its
    metadata merged with the changes. `body` is the encoded document, where somebody has it already.
    """
    if body is None:
        body = encode_document(document)
    headers: Headers = []
    if ask.correlation_id is not None and ask.correlation_header is not None:
        headers.append((ask.correlation_header, ask.correlation_id))
    headers.append((ATTEMPT_ID, ask.attempt_id.encode()))
    denial = document.get("denial")
    if denial is None:
        body = extended(body, {scope: _merged(user, document["changes"], scope) for scope in _METADATA})
        headers.append(_APPROVED)
    else:
        headers.append(_DENIED)
        headers.append(_CAUSE_HEADERS[denial["cause"]])
    headers.append(_JSON_TYPE)
    if ask.traceparent is not None:
        headers.append((TRACEPARENT, ask.traceparent))
    return Message(ask.record.key, body, headers)


def _merged(user: Mapping[str, Any], changes: Mapping[str, Any], scope: str) -> dict[str, Any]:
    before = user.get(scope)
    changed = changes.get(scope)
    if type(before) is not dict:
        before = {}
    return merge(before, changed) if changed else before


# -- Ledger -------------------------------------------------------------------------------------------------------------


class LedgerHeaders(NamedTuple):
    """What a reader needs to fold a ledger record without parsing its value."""

    attempt_id: str
    digest: bytes
    source: str
    attempt_ts: int  # timestamp of the attempt that was decided, ms
    scope: Scope


def encode_ledger(headers: LedgerHeaders, value: bytes) -> Message:
    """Return the ledger record of a decision."""
    return Message(
        headers.attempt_id.encode(),
        value,
        [
            ("digest", headers.digest),
            ("source", headers.source.encode()),
            ("attempt-ts", INT64.pack(headers.attempt_ts)),
            _SCOPE_HEADERS[headers.scope],
        ],
    )


def read_ledger(key: bytes | None, headers: Iterable[tuple[str, bytes]]) -> LedgerHeaders | None:
    """Read the headers of a ledger record; None if it is not one (somebody else wrote to the topic)."""
    found = dict(headers)
    try:
        return LedgerHeaders(
            (key or b"").decode(),
            bytes(found["digest"]),
            found["source"].decode(),
            INT64.unpack(found["attempt-ts"])[0],
            Scope(found["scope"].decode()),
        )
    except (KeyError, ValueError, AttributeError, TypeError, struct.error):  # a header's value may be None, too
        return None


# -- Dead letters -------------------------------------------------------------------------------------------------------


def encode_dead_letter(record: Record, *, reason: str, at: str, max_bytes: int) -> Message:
    """Return the dead letter of an attempt: key, value and headers as they came, and why and whence in `gate-dlq-*`.

    A value larger than `max_bytes` is left out and `gate-dlq-truncated` holds its size.
    """
    headers = [
        *record.headers,
        ("gate-dlq-reason", reason.encode()),
        ("gate-dlq-topic", record.topic.encode()),
        ("gate-dlq-partition", INT32.pack(record.partition)),
        ("gate-dlq-offset", INT64.pack(record.offset)),
        ("gate-dlq-at", at.encode()),
    ]
    value = record.value
    if value is not None and len(value) > max_bytes:
        headers.append(("gate-dlq-truncated", str(len(value)).encode()))
        value = None
    return Message(record.key, value, headers)
