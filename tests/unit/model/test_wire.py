"""What stands on the four topics, byte by byte (DESIGN.md section 2)."""

from __future__ import annotations

import base64
import json
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gate.errors import InvalidEvent
from gate.model.decision import DOCUMENT_VERSION, SCOPES, Cause, Denial, Outcome, Scope, fixed_denial
from gate.model.wire import (
    MAX_ID_BYTES,
    Ask,
    LedgerHeaders,
    Message,
    conflict_document,
    decision_document,
    encode_dead_letter,
    encode_ledger,
    encode_reply,
    id_from_correlation,
    merge,
    read_ask,
    read_document,
    read_ledger,
    warning,
)
from tests.headers import OF_AN_ATTEMPT

DATA = Path(__file__).parents[2] / "data"
CORRELATION = uuid.UUID("1b4e28ba-2fa1-41d2-883f-0016d3cca427")


@dataclass
class Attempt:
    """A record as a consumer returns it."""

    headers: tuple[tuple[str, bytes], ...] = ()
    key: bytes | None = b"a-1"
    value: bytes | None = b"{}"
    topic: str = "attempts"
    partition: int = 3
    offset: int = 41
    timestamp: int = 1_000_000


def read(*headers: tuple[str, Any], **record: Any) -> Ask:
    return read_ask(Attempt(headers, **record), default_timeout_ms=30_000, max_timeout_ms=120_000)


def codes(ask: Ask) -> list[str]:
    return [entry["code"] for entry in ask.warnings]


# -- Recorded frames ----------------------------------------------------------------------------------------------------


def frames(name: str) -> list[Any]:
    found = json.loads((DATA / name).read_text())
    return [pytest.param(frame, id=frame["name"]) for frame in found]


def record_of(frame: dict[str, Any]) -> Attempt:
    record = frame["record"]
    return Attempt(
        headers=tuple((name, bytes.fromhex(value)) for name, value in record["headers"]),
        key=None if record["key"] is None else bytes.fromhex(record["key"]),
        value=None if record["value"] is None else base64.b64decode(record["value"]),
        topic=record["topic"],
        partition=record["partition"],
        offset=record["offset"],
        timestamp=record["timestamp"],
    )


def message_of(frame: dict[str, Any]) -> Message:
    return Message(
        None if frame["key"] is None else bytes.fromhex(frame["key"]),
        None if frame["value"] is None else base64.b64decode(frame["value"]),
        [(name, bytes.fromhex(value)) for name, value in frame["headers"]],
    )


ATTEMPTS = {frame["name"]: frame for frame in json.loads((DATA / "attempts.json").read_text())}


@pytest.mark.parametrize("frame", frames("attempts.json"))
def test_recorded_attempt_of_each_kind_of_asker_is_read_as_it_was_when_it_was_recorded(frame: dict[str, Any]) -> None:
    record = record_of(frame)
    ask = read_ask(record, default_timeout_ms=30_000, max_timeout_ms=120_000)

    found = {name: getattr(ask, name) for name in frame["expect"]}
    found = {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}
    assert frame["expect"] == found
    assert f"registration.attempts-3-{record.offset}" == ask.source
    assert "zoë@example.com" == read_document(record.value, max_bytes=262_144)[0]["user"]["email"]


@pytest.mark.parametrize("frame", frames("replies.json"))
def test_recorded_reply_is_written_byte_for_byte(frame: dict[str, Any]) -> None:
    record = record_of(ATTEMPTS[frame["attempt"]])
    ask = read_ask(record, default_timeout_ms=30_000, max_timeout_ms=120_000)
    user = read_document(record.value, max_bytes=262_144)[0]["user"]

    assert message_of(frame["expect"]) == encode_reply(ask, frame["document"], user)


@pytest.mark.parametrize("frame", frames("ledger.json"))
def test_recorded_ledger_record_is_written_and_read_byte_for_byte(frame: dict[str, Any]) -> None:
    recorded = message_of(frame["expect"])
    given_ = frame["headers"]
    headers = LedgerHeaders(
        given_["attempt_id"], bytes.fromhex(given_["digest"]), given_["source"], given_["attempt_ts"], Scope(given_["scope"])
    )

    assert recorded == encode_ledger(headers, orjson.dumps(frame["body"]))
    assert headers == read_ledger(recorded.key, recorded.headers)


@pytest.mark.parametrize("frame", frames("dead_letters.json"))
def test_recorded_dead_letter_is_written_byte_for_byte(frame: dict[str, Any]) -> None:
    record = record_of(ATTEMPTS[frame["attempt"]] if frame["attempt"] else frame)

    letter = encode_dead_letter(record, reason=frame["reason"], at=frame["at"], max_bytes=frame["max_bytes"])

    assert message_of(frame["expect"]) == letter


# -- Attempt id ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correlation_id", "attempt_id"),
    [
        (CORRELATION.bytes, str(CORRELATION)),
        (b"sixteen letters!", str(uuid.UUID(bytes=b"sixteen letters!"))),
        (str(CORRELATION).encode(), str(CORRELATION)),
        (b"order 77/a", "order 77/a"),
        (b"x" * MAX_ID_BYTES, "x" * MAX_ID_BYTES),
        (b"x" * (MAX_ID_BYTES + 1), None),
        (b"\x00\xff", "00ff"),
        (b"line\nbreak", b"line\nbreak".hex()),
        ("ä".encode(), "ä".encode().hex()),
        (b"\xff" * 100, "ff" * 100),
        (b"\xff" * 101, None),
    ],
)
def test_correlation_id_stands_for_an_attempt_id_by_its_form(correlation_id: bytes, attempt_id: str | None) -> None:
    assert attempt_id == id_from_correlation(correlation_id)


def test_attempt_id_is_named_else_correlated_else_the_place_in_the_topic() -> None:
    named = ("gate-attempt-id", "signup-ä".encode())
    correlated = ("kafka_correlationId", b"c-1")

    assert ("signup-ä", True) == ((ask := read(correlated, named)).attempt_id, ask.named)
    assert ("c-1", False) == ((ask := read(correlated)).attempt_id, ask.named)
    assert ("attempts-3-41", False) == ((ask := read()).attempt_id, ask.named)
    assert [] == read(correlated, named).warnings == read(correlated).warnings == read().warnings


@pytest.mark.parametrize("unreadable", [b"", b"x" * (MAX_ID_BYTES + 1), b"\xff\xfe", b"\xed\xa0\x80"])
def test_unreadable_attempt_id_falls_to_the_correlation_id_with_a_warning(unreadable: bytes) -> None:
    ask = read(("gate-attempt-id", unreadable), ("kafka_correlationId", b"c-1"))

    assert "c-1" == ask.attempt_id
    assert ["attempt_id_unreadable"] == codes(ask)
    assert not ask.named


def test_attempt_id_of_200_bytes_is_taken_as_it_is() -> None:
    name = "ä" * (MAX_ID_BYTES // 2)

    assert name == read(("gate-attempt-id", name.encode())).attempt_id


def test_correlation_id_too_long_for_an_attempt_id_is_still_echoed() -> None:
    ask = read(("kafka_correlationId", b"x" * 201))

    assert "attempts-3-41" == ask.attempt_id
    assert b"x" * 201 == ask.correlation_id
    assert ["correlation_id_too_long"] == codes(ask)


def test_empty_correlation_id_counts_as_none_with_a_warning() -> None:
    ask = read(("kafka_correlationId", b""))

    assert (None, None) == (ask.correlation_header, ask.correlation_id)
    assert ["correlation_id_empty"] == codes(ask)


def test_id_that_was_given_stays_given_whatever_else_is_unreadable() -> None:
    """Else a miskeyed record would go unnoticed because its correlation id is empty."""
    assert read(("gate-attempt-id", b"a-1"), ("kafka_correlationId", b"")).named


# -- The other headers --------------------------------------------------------------------------------------------------


def test_last_one_of_a_repeated_header_wins_under_either_name() -> None:
    ask = read(
        ("kafka_correlationId", b"first"),
        ("REPLY_CORRELATION_ID", b"second"),
        ("REPLY_TOPIC", b"one"),
        ("kafka_replyTopic", b"two"),
        ("kafka_replyPartition", struct.pack(">i", 1)),
        ("REPLY_PARTITION", struct.pack(">i", 2)),
        ("gate-attempt-id", b"a-1"),
        ("gate-attempt-id", b"a-2"),
        ("gate-timeout-ms", b"1"),
        ("gate-timeout-ms", b"2"),
        ("traceparent", b"t-1"),
        ("traceparent", b"t-2"),
    )

    assert ("REPLY_CORRELATION_ID", b"second") == (ask.correlation_header, ask.correlation_id)
    assert ("two", 2) == (ask.reply_topic, ask.reply_partition)
    assert ("a-2", 2, b"t-2") == (ask.attempt_id, ask.timeout_ms, ask.traceparent)


def test_names_of_headers_are_case_sensitive() -> None:
    assert read(("Gate-Attempt-Id", b"a-2"), ("reply_topic", b"r")) == read(("Gate-Attempt-Id", b"a-2"), ("reply_topic", b"r"))
    assert "attempts-3-41" == read(("Gate-Attempt-Id", b"a-2")).attempt_id
    assert read(("reply_topic", b"r")).reply_topic is None


@pytest.mark.parametrize(
    ("value", "timeout_ms", "warnings"),
    [
        (b"5000", 5000, []),
        (b"0", 0, []),
        (b"007", 7, []),
        (b"120000", 120_000, []),
        (b"120001", 120_000, []),
        (b"9999999999", 120_000, []),
        (b"", 30_000, ["timeout_unreadable"]),
        (b"-1", 30_000, ["timeout_unreadable"]),
        (b"5e3", 30_000, ["timeout_unreadable"]),
        (b" 5000", 30_000, ["timeout_unreadable"]),
        (b"5000\n", 30_000, ["timeout_unreadable"]),
        ("٥٠".encode(), 30_000, ["timeout_unreadable"]),
        (b"99999999999", 30_000, ["timeout_unreadable"]),
        (struct.pack(">i", 5000), 30_000, ["timeout_unreadable"]),
    ],
)
def test_timeout_is_a_number_of_milliseconds_up_to_the_ceiling_else_the_default(
    value: bytes, timeout_ms: int, warnings: list[str]
) -> None:
    ask = read(("gate-timeout-ms", value))

    assert (timeout_ms, 1_000_000 + timeout_ms, warnings) == (ask.timeout_ms, ask.deadline_ms, codes(ask))


def test_default_timeout_keeps_below_the_ceiling() -> None:
    assert 20 == read_ask(Attempt(), default_timeout_ms=30, max_timeout_ms=20).timeout_ms


@pytest.mark.parametrize(
    ("value", "topic"),
    [
        (b"registration.replies", "registration.replies"),
        (b"a" * 249, "a" * 249),
        (b"a" * 250, ""),
        (b".", ""),
        (b"..", ""),
        (b"...", "..."),
        (b'"quoted"', ""),
        (b"white space", ""),
        (b"line\n", ""),
        (b"\xff", ""),
        ("répliques".encode(), ""),
    ],
)
def test_reply_topic_is_a_legal_name_or_is_known_as_illegal(value: bytes, topic: str) -> None:
    assert topic == read(("kafka_replyTopic", value)).reply_topic


def test_empty_reply_topic_counts_as_none() -> None:
    assert read(("kafka_replyTopic", b"")).reply_topic is None


@pytest.mark.parametrize(
    ("value", "partition"),
    [
        (struct.pack(">i", 0), 0),
        (struct.pack(">i", 258), 258),
        (struct.pack(">i", -1), -1),
        (struct.pack(">i", -(2**31)), -1),
        (b"", -1),
        (b"2", -1),
        (struct.pack(">h", 2), -1),
        (struct.pack(">q", 2), -1),
    ],
)
def test_reply_partition_is_four_bytes_most_significant_first_else_known_as_unreadable(value: bytes, partition: int) -> None:
    assert partition == read(("kafka_replyPartition", value)).reply_partition


def test_absent_reply_partition_leaves_the_choice_to_the_key() -> None:
    assert read().reply_partition is None


HEADER_NAMES = st.sampled_from([*OF_AN_ATTEMPT, "__TypeId__"])
HEADER_VALUES = st.none() | st.binary(max_size=300) | st.integers(-(2**31), 2**31 - 1).map(lambda n: struct.pack(">i", n))


@given(
    headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=8),
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=50),
)
@example(headers=[("kafka_correlationId", None), ("gate-attempt-id", None), ("gate-timeout-ms", None)], key=None, value=None)
@example(headers=[("kafka_correlationId", b"c"), ("kafka_correlationId", None)], key=None, value=None)
def test_whatever_the_headers_an_ask_can_be_read_answered_and_dead_lettered(
    headers: list[tuple[str, Any]], key: bytes | None, value: bytes | None
) -> None:
    record = Attempt(tuple(headers), key=key, value=value)

    ask = read_ask(record, default_timeout_ms=30_000, max_timeout_ms=120_000)
    reply = encode_reply(ask, document_of(Outcome(denial=fixed_denial(Cause.INVALID_ATTEMPT)), ask.attempt_id), {})
    letter = encode_dead_letter(record, reason="invalid_attempt", at="2026", max_bytes=10)

    assert 1 <= len(ask.attempt_id.encode()) <= MAX_ID_BYTES
    assert 0 <= ask.timeout_ms <= 120_000
    assert key == reply.key == letter.key
    assert orjson.loads(reply.value or b"")["attempt_id"] == ask.attempt_id
    assert all(type(name) is str and type(content) is bytes for name, content in reply.headers)
    assert headers == letter.headers[: len(headers)]
    echoed = [content for name, content in reply.headers if name in {"kafka_correlationId", "REPLY_CORRELATION_ID"}]
    given_ = [content for name, content in headers if name in {"kafka_correlationId", "REPLY_CORRELATION_ID"}]
    assert ([given_[-1]] if given_ and given_[-1] else []) == echoed


# -- The value ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "$: the value is empty"),
        (b"", "$: the value is empty"),
        (b" " * 101, "$: the value has 101 bytes, more than 100"),
        (b'{"user":', "$: not JSON, at character 8"),
        (b"\xff\xfe", "$: not JSON, at character 0"),
        (b"[]", "$: not a JSON object"),
        (b"null", "$: not a JSON object"),
        (b'"text"', "$: not a JSON object"),
    ],
)
def test_value_that_is_no_json_object_is_refused_with_what_is_wrong(value: bytes | None, problem: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        read_document(value, max_bytes=100)

    assert problem == str(caught.value)


def test_value_of_the_largest_size_is_taken() -> None:
    assert ({}, []) == read_document(b"{}" + b" " * 98, max_bytes=100)


def test_fields_that_only_the_gate_sets_are_dropped_and_named() -> None:
    value = orjson.dumps({"secrets": {"K": "v"}, "user": {"secrets": 1}, "config": [], "attempt_id": "forged"})

    assert ({"user": {"secrets": 1}}, ["secrets", "config", "attempt_id"]) == read_document(value, max_bytes=1000)


@given(st.binary(max_size=200))
@example(b'{"a":' * 2000)
@example(b'{"a":"\\ud800"}')
@example(b'{"n":1e400}')
def test_any_bytes_are_a_document_or_a_refusal(value: bytes) -> None:
    try:
        document, _ = read_document(value, max_bytes=100_000)
    except InvalidEvent as refused:
        assert "$" == refused.path  # noqa: PT017 - either is right
    else:
        assert dict is type(document)


# -- Replies ------------------------------------------------------------------------------------------------------------


def document_of(outcome: Outcome, attempt_id: str = "a-1") -> dict[str, Any]:
    return decision_document(attempt_id=attempt_id, outcome=outcome, warnings=[], chain="sha256:0", decided_at="2026")


def body_of(reply: Message) -> dict[str, Any]:
    assert reply.value is not None
    return dict(orjson.loads(reply.value))


def test_approval_carries_the_askers_metadata_with_the_changes_merged_in() -> None:
    changes = {"user_metadata": {"plan": "gold", "old": None, "address": {"city": "Lisbon"}}}
    user = {
        "user_metadata": {"plan": "free", "old": 1, "address": {"street": "x"}, "kept": None},
        "app_metadata": {"crm_id": "42"},
    }

    body = body_of(encode_reply(read(), document_of(Outcome(denial=None, changes=changes)), user))

    assert {"plan": "gold", "address": {"city": "Lisbon"}, "kept": None} == body["user_metadata"]
    assert {"crm_id": "42"} == body["app_metadata"]
    assert changes == body["changes"]
    assert "denial" not in body


@pytest.mark.parametrize("user", [{}, {"user_metadata": None}, {"user_metadata": [1]}, {"app_metadata": "x"}])
def test_metadata_that_is_no_object_counts_as_empty(user: dict[str, Any]) -> None:
    body = body_of(encode_reply(read(), document_of(Outcome(denial=None)), user))

    assert ({}, {}) == (body["user_metadata"], body["app_metadata"])


def test_denial_carries_no_metadata_at_all() -> None:
    outcome = Outcome(denial=Denial(cause=Cause.ACCESS_DENIED, reason="r"))

    reply = encode_reply(read(), document_of(outcome), {"user_metadata": {"secret": 1}})

    assert {"version", "attempt_id", "status", "denial", "warnings", "chain", "decided_at"} == body_of(reply).keys()
    assert {"cause": "access_denied", "reason": "r", "errors": []} == body_of(reply)["denial"]
    assert [("gate-attempt-id", b"attempts-3-41"), ("gate-status", b"denied"), ("gate-cause", b"access_denied")] == reply.headers[
        :3
    ]


def test_warnings_of_the_ask_come_before_those_of_the_chain() -> None:
    outcome = Outcome(denial=None, warnings=[warning("late", "x", "crm")])

    document = decision_document(
        attempt_id="a", outcome=outcome, warnings=[warning("early", "y")], chain="sha256:0", decided_at="2026"
    )

    assert [{"code": "early", "message": "y"}, {"code": "late", "message": "x", "action": "crm"}] == document["warnings"]


def test_reply_never_has_the_headers_that_would_mislead_an_asker() -> None:
    ask = read(
        ("__TypeId__", b"com.example.Signup"),
        ("spring_json_header_types", b"{}"),
        ("kafka_replyTopic", b"r"),
        ("kafka_replyPartition", struct.pack(">i", 1)),
        ("REPLY_CORRELATION_ID", b"c"),
        ("traceparent", b"t"),
    )

    reply = encode_reply(ask, document_of(Outcome(denial=None)), {})

    names = [name for name, _ in reply.headers]
    assert ["REPLY_CORRELATION_ID", "gate-attempt-id", "gate-status", "content-type", "traceparent"] == names


def test_reply_from_the_ledger_is_the_reply_that_was_made_without_it() -> None:
    document = document_of(Outcome(denial=None, changes={"user_metadata": {"ä": 1.5, "n": None}}))
    ledger = orjson.loads(
        orjson.dumps({**document, "source": "s", "worker": "w", "received_at": "t", "queue_ms": 1.5, "trace": [{"name": "x"}]})
    )
    user = {"user_metadata": {"n": 1}}

    assert encode_reply(read(), document, user) == encode_reply(read(), ledger, user)


def test_conflict_tells_nothing_of_the_decision_but_when_and_by_which_chain() -> None:
    first = document_of(Outcome(denial=None, changes={"app_metadata": {"crm_id": "42"}}))

    document = conflict_document({**first, "source": "s", "trace": []}, fixed_denial(Cause.CONFLICT).to_json())

    assert {
        "version": DOCUMENT_VERSION,
        "attempt_id": "a-1",
        "status": "denied",
        "denial": fixed_denial(Cause.CONFLICT).to_json(),
        "warnings": [],
        "chain": "sha256:0",
        "decided_at": "2026",
    } == document


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
METADATA = st.dictionaries(st.text(max_size=5), JSON, max_size=5)


@given(before=METADATA, changes=METADATA)
def test_merge_replaces_top_level_keys_whole_and_null_removes(before: dict[str, Any], changes: dict[str, Any]) -> None:
    merged = merge(before, changes)

    for name in before.keys() | changes.keys():
        if name not in changes:
            assert before[name] == merged[name]
        elif changes[name] is None:
            assert name not in merged
        else:
            assert changes[name] == merged[name]
    assert merged.keys() <= before.keys() | changes.keys()


@given(
    changes=st.fixed_dictionaries({}, optional={"user_metadata": METADATA, "app_metadata": METADATA}),
    user=st.fixed_dictionaries({}, optional={"user_metadata": METADATA, "app_metadata": METADATA}),
)
def test_reply_says_the_same_after_a_round_trip_through_the_ledger(changes: dict[str, Any], user: dict[str, Any]) -> None:
    document = document_of(Outcome(denial=None, changes=changes))

    assert encode_reply(read(), document, user) == encode_reply(read(), orjson.loads(orjson.dumps(document)), user)


# -- Ledger -------------------------------------------------------------------------------------------------------------


@given(
    attempt_id=st.text(max_size=50),
    digest=st.binary(max_size=80),
    source=st.text(max_size=50),
    attempt_ts=st.integers(-1, 2**62),
    scope=st.sampled_from(Scope),
)
def test_ledger_headers_survive_the_ledger(attempt_id: str, digest: bytes, source: str, attempt_ts: int, scope: Scope) -> None:
    headers = LedgerHeaders(attempt_id, digest, source, attempt_ts, scope)
    message = encode_ledger(headers, b"{}")

    assert headers == read_ledger(message.key, tuple(message.headers))


@given(
    key=st.none() | st.binary(max_size=10),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["digest", "source", "attempt-ts", "scope"]),
            st.none() | st.binary(max_size=9) | st.sampled_from([b"id", b"ask"]) | st.binary(min_size=8, max_size=8),
        ),
        max_size=8,
    ),
)
@example(key=b"a", headers=[("digest", b"d"), ("source", None), ("attempt-ts", bytes(8)), ("scope", b"id")])
@example(key=b"a", headers=[("digest", None), ("source", b"s"), ("attempt-ts", bytes(8)), ("scope", b"id")])
def test_what_somebody_else_wrote_to_the_ledger_is_no_record_and_no_error(key: bytes | None, headers: list[Any]) -> None:
    found = read_ledger(key, headers)

    if found is not None:
        assert (str, bytes, str, int, Scope) == tuple(map(type, found))


def test_what_binds_only_its_own_ask_has_scope_ask() -> None:
    ask_only = {cause for cause, scope in SCOPES.items() if scope is Scope.ASK}

    assert {Cause.EXPIRED, Cause.OVERLOADED, Cause.INVALID_ATTEMPT} == ask_only
    assert Cause.CONFLICT not in SCOPES  # never written
    assert {None, *Cause} - {Cause.CONFLICT} == SCOPES.keys()


# -- Dead letters -------------------------------------------------------------------------------------------------------


def test_dead_letter_keeps_everything_and_says_why_and_whence() -> None:
    record = Attempt((("x", b"1"), ("x", b"2")), key=b"k", value=b"v", partition=7, offset=2**40)

    letter = encode_dead_letter(record, reason="reply_topic_unknown", at="2026-01-02T03:04:05.678Z", max_bytes=1)

    assert (b"k", b"v") == (letter.key, letter.value)
    assert [
        ("x", b"1"),
        ("x", b"2"),
        ("gate-dlq-reason", b"reply_topic_unknown"),
        ("gate-dlq-topic", b"attempts"),
        ("gate-dlq-partition", struct.pack(">i", 7)),
        ("gate-dlq-offset", struct.pack(">q", 2**40)),
        ("gate-dlq-at", b"2026-01-02T03:04:05.678Z"),
    ] == letter.headers


def test_dead_letter_too_big_for_its_topic_is_kept_without_its_value() -> None:
    letter = encode_dead_letter(Attempt(value=b"12"), reason="r", at="t", max_bytes=1)

    assert letter.value is None
    assert ("gate-dlq-truncated", b"2") == letter.headers[-1]
