"""Any headers and any body: never an exception, always one answer whose JSON is valid, and an address or a reason."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.headers import OF_AN_ATTEMPT, OF_THE_LEDGER

from .hostile import NOW_MS, TOPICS, Doors, Hostile, strict_json

DOORS = Doors()

EVENT = {
    "connection": {"id": "con_1", "name": "users", "strategy": "auth0"},
    "request": {"ip": "192.0.2.41", "language": "en", "geoip": {"continentCode": "EU"}},
    "user": {"email": "zoe@example.com", "user_metadata": {"old": 1}, "app_metadata": {}},
}
HONEST = json.dumps(EVENT).encode()

bytes_of_any_length = st.binary(max_size=300) | st.sampled_from(
    [b"", b"\0", b"\xff" * 16, b"x" * 200, b"x" * 201, b"\xed\xa0\x80", b"a\nb\x1b[31m"]
)
plausible = st.sampled_from(
    [b"5000", b"-1", b"9" * 10, b"9" * 11, b" 5", "٣".encode(), *(name.encode() for name in TOPICS), b"..", b"a/b"]
) | st.integers(-(2**31), 2**31 - 1).map(lambda number: struct.pack(">i", number))
header_values = st.none() | bytes_of_any_length | plausible


def headers_of(names: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, bytes | None]]]:
    return st.lists(st.tuples(st.sampled_from(names) | st.text(max_size=20), header_values), max_size=8)


numbers = st.integers() | st.floats() | st.sampled_from([2**53, 2**64, -(2**63), 10**400])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=10) | st.sampled_from(["\ud800", "\0", "é" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
PATHS = [
    ("connection",),
    ("connection", "strategy"),
    ("request",),
    ("request", "geoip"),
    ("request", "language"),
    ("user",),
    ("user", "email"),
    ("user", "user_metadata"),
    ("user", "user_metadata", "old"),
    ("client",),
    ("transaction",),
    ("secrets",),
]


def changed(path: tuple[str, ...], value: Any) -> bytes:
    """Return an honest event with another value at a path, as Python writes it: NaN, Infinity and lone surrogates, too."""
    document: dict[str, Any] = json.loads(HONEST)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(document).encode()


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    metadata = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"
    return b'{"connection":{"strategy":"auth0"},"request":{},"user":{"user_metadata":' + metadata + b"}}"


bodies = (
    st.none()
    | st.binary(max_size=200)
    | st.builds(changed, st.sampled_from(PATHS), values)
    | st.builds(lambda cut: HONEST[:cut], st.integers(0, len(HONEST)))
    | st.builds(lambda at, byte: HONEST[:at] + byte + HONEST[at + 1 :], st.integers(0, len(HONEST)), st.binary(max_size=2))
    | st.sampled_from(["utf-8-sig", "utf-16", "utf-32", "utf-7", "cp037"]).map(HONEST.decode().encode)
)


@given(value=bodies, headers=headers_of(OF_AN_ATTEMPT), key=st.none() | st.binary(max_size=30), timestamp=st.integers(-1, 2**62))
@example(value=HONEST, headers=[("gate-attempt-id", b"a" * 200), ("gate-attempt-id", None)], key=None, timestamp=-1)
@example(value=HONEST, headers=[("kafka_replyTopic", b"__consumer_offsets")], key=b"", timestamp=NOW_MS)
@example(value=HONEST.replace(b'"en"', b'"en", "language": 5'), headers=[], key=None, timestamp=NOW_MS)
@example(value=changed(("user", "user_metadata", "old"), float("nan")), headers=[], key=None, timestamp=NOW_MS)
def test_any_attempt_gets_one_answer_that_can_be_read(
    value: bytes | None, headers: list[tuple[str, bytes | None]], key: bytes | None, timestamp: int
) -> None:
    DOORS.take_attempt(Hostile(value, headers, key, timestamp))


@pytest.mark.parametrize("depth", [1, 100, 250, 252, 253, 254, 255, 256, 1020, 1024, 5000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_nesting_of_any_depth_is_answered(depth: int, opening: bytes, closing: bytes) -> None:
    reply = DOORS.take_attempt(Hostile(nested(depth, opening, closing)))

    assert strict_json(reply.value or b"")["status"] in {"approved", "denied"}


@pytest.mark.parametrize(
    "headers",
    [
        [("x", b"y")] * 10_000,
        [("gate-attempt-id", b"a-%d" % number) for number in range(10_000)],
        [("x" * 32_000, b"")],
        [("kafka_correlationId", b"c" * 256 * 1024)],
        [("traceparent", b"t" * 256 * 1024)],
        [("gate-timeout-ms", b"9" * 256 * 1024)],
    ],
    ids=["flood", "flood of ids", "long name", "long correlation id", "long traceparent", "long number"],
)
def test_headers_without_measure_are_answered(headers: list[tuple[str, bytes | None]]) -> None:
    reply = DOORS.take_attempt(Hostile(HONEST, headers))

    assert "approved" == strict_json(reply.value or b"")["status"]


texts = st.text(max_size=5)
ledger_values = (
    st.binary(max_size=60)
    | values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "version": numbers,
            "attempt_id": texts | values,
            "status": st.sampled_from(["approved", "denied"]) | values,
            "changes": st.dictionaries(st.sampled_from(["user_metadata", "app_metadata"]), values) | values,
            "denial": st.fixed_dictionaries({"cause": st.sampled_from(["conflict", "new"]), "reason": texts}) | values,
            "warnings": values,
            "chain": texts | values,
            "decided_at": texts | values,
            "user_metadata": values,
            "user_id": values,
        },
    ).map(lambda value: json.dumps(value).encode())
)
honest_ledger_headers = [("digest", b"c1-x:1"), ("source", b"attempts-3-41"), ("attempt-ts", bytes(8)), ("scope", b"id")]
correlation_ids = st.none() | st.sampled_from([b"inst-1", b"inst-2", b"inst-"]) | st.binary(max_size=9)


@given(
    value=st.none() | ledger_values,
    headers=headers_of(OF_THE_LEDGER).map(lambda more: [*honest_ledger_headers, *more]) | headers_of(OF_THE_LEDGER),
    key=st.none() | st.binary(max_size=10),
)
def test_any_record_in_the_ledger_can_be_read_and_answered_with(
    value: bytes | None, headers: list[tuple[str, bytes | None]], key: bytes | None
) -> None:
    DOORS.take_ledger_record(Hostile(value, headers, key))


@given(value=st.none() | ledger_values, correlation_id=correlation_ids)
def test_any_reply_settles_an_ask_once_by_a_decision_or_an_error_of_ours(
    value: bytes | None, correlation_id: bytes | None
) -> None:
    DOORS.take_reply(Hostile(value, [("kafka_correlationId", correlation_id)]))
