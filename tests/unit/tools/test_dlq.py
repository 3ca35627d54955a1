"""What `gate dlq list` and `gate dlq show` say of dead letters, and what they keep to themselves."""

from __future__ import annotations

import json

import pytest

from gate.config import Settings
from gate.errors import ConfigError
from gate.model.dead_letter import Place, iso
from gate.model.decision import Cause, Decision, Denial, Status
from gate.model.wire import PlainRecord, encode_dead_letter
from gate.tools.dlq import MEANINGS, DeadLetters, Listing, Selection, found_in, meaning_of
from gate.tools.dlq_show import describe, legible
from gate.worker.replies import Reason

SETTINGS = Settings()


def found(attempt_id="a", *, offset=0, partition=0, reason="reply_topic_unknown", at_ms=1000, key=b"a", headers=(), max_bytes=99):
    named = [("gate-attempt-id", attempt_id.encode()), *headers]
    attempt = PlainRecord(topic="attempts", partition=1, offset=2, timestamp=0, key=key, value=b'{"email": "zoe"}', headers=named)
    letter = encode_dead_letter(attempt, reason=reason, at=iso(at_ms), max_bytes=max_bytes)
    return found_in(record(letter.key, letter.value, letter.headers, offset=offset, partition=partition), SETTINGS)


def record(key=b"k", value=b"v", headers=(), *, offset=0, partition=0, timestamp=1000):
    return PlainRecord(
        topic="dlq", partition=partition, offset=offset, timestamp=timestamp, key=key, value=value, headers=list(headers)
    )


def test_every_reason_has_a_meaning_and_a_mend_and_an_unknown_one_does_no_harm() -> None:
    assert set(Reason) == MEANINGS.keys()
    assert all(meaning.what and meaning.mend for meaning in MEANINGS.values())
    assert "knows no such reason" in meaning_of("of_tomorrow").what


def test_a_record_tells_where_why_and_whose_and_not_what() -> None:
    assert {
        "place": "3:4",
        "at": "1970-01-01T00:00:01.000Z",
        "size_bytes": 16,
        "reason": "reply_topic_unknown",
        "attempt_id": "a",
        "source": "attempts-1-2",
    } == found(partition=3, offset=4).to_json()
    assert (0, 16) == tuple(found(max_bytes=3).to_json()[name] for name in ("size_bytes", "truncated_bytes"))
    stranger = found_in(record(), SETTINGS).to_json()
    assert {
        "place": "0:0",
        "at": "1970-01-01T00:00:01.000Z",
        "size_bytes": 1,
        "problem": "not a dead letter of the gate",
    } == stranger


@pytest.mark.parametrize(
    ("selection", "ids"),
    [
        (Selection(), ["a", "b", "c", None]),
        (Selection(reasons={"invalid_attempt"}), ["b"]),
        (Selection(reasons={"invalid_attempt", "reply_topic_unknown"}), ["a", "b"]),
        (Selection(attempt_ids={"a", "c"}), ["a", "c"]),
        (Selection(attempt_ids={"a", "c"}, reasons={"reply_unknown"}), ["c"]),
        (Selection(since_ms=1001), ["b", "c"]),
        (Selection(since_ms=1002, reasons={"invalid_attempt"}), []),
    ],
)
def test_selections_narrow_each_other(selection: Selection, ids: list[str | None]) -> None:
    letters = [found("a"), found("b", reason="invalid_attempt", at_ms=1001), found("c", reason="reply_unknown", at_ms=1002)]

    assert ids == [each.attempt_id for each in [*letters, found_in(record(), SETTINGS)] if selection.has(each)]


def test_a_listing_has_the_newest_last_and_counts_what_it_does_not_show() -> None:
    listing = Listing(2)
    for offset, at_ms in enumerate([5, 3, 9, 7]):
        listing.add(found(offset=offset, at_ms=at_ms, reason="invalid_attempt" if offset else "reply_unknown"))
    listing.add(found_in(record(offset=9, timestamp=1), SETTINGS))

    assert ["0:3", "0:2"] == [str(row.place) for row in listing.rows]
    assert ({"invalid_attempt": 3, "reply_unknown": 1}, 1, 5) == (dict(listing.reasons), listing.strangers, listing.total)
    assert all(row.letter.value is None and not row.letter.headers for row in listing.rows)


def test_a_topic_that_is_not_there_is_a_setting_to_mend() -> None:
    with pytest.raises(ConfigError, match=r"registration\.attempts\.dlq does not exist: make it with `gate topics create`"):
        DeadLetters(SETTINGS, None, {})  # type: ignore[arg-type] # not reached


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kafka_correlationId", bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("REPLY_CORRELATION_ID", b"abc", "abc"),
        ("kafka_correlationId", b"\x00\xff", "00ff"),
        ("kafka_replyPartition", b"\0\0\1\0", "256"),
        ("REPLY_PARTITION", b"\0", "00"),
        ("kafka_replyTopic", b"a.replies", "a.replies"),
        ("kafka_replyTopic", b"\x1b[2J", "1b5b324a"),
        ("gate-timeout-ms", None, "none"),
        ("x-user", b"zoe@example.com", "15 bytes (--show-personal-data shows it)"),
    ],
)
def test_headers_of_the_protocol_are_legible_and_others_are_kept_back(name: str, value: bytes | None, text: str) -> None:
    assert text == legible(name, value, personal=False)
    assert "zoe@example.com" == legible("x-user", b"zoe@example.com", personal=True)


APPROVED = Decision(
    attempt_id="a", status=Status.APPROVED, changes={"user_metadata": {"screen_name": "zoe"}}, user_id="zoe-1", decided_at="t"
)
DENIED = Decision(attempt_id="a", status=Status.DENIED, denial=Denial(cause=Cause.ACCESS_DENIED, reason="no"))


@pytest.mark.parametrize("personal", [False, True])
def test_a_letter_is_described_without_what_may_name_a_person_unless_that_is_wanted(personal: bool) -> None:
    letter = found(key=b"zoe@example.com", headers=[("x-user", b"zoe")])

    document = describe(letter, value=b'{"email": "zoe"}', decision=APPROVED, outcome=None, personal=personal)

    assert personal == ("zoe" in json.dumps(document))
    assert personal == ("value" in document)
    assert "make the topic" in document["mend"]
    expected = {"user_metadata": {"screen_name": "zoe"}} if personal else {"user_metadata": ["screen_name"]}
    assert expected == document["decision"]["changes"]


def test_a_key_that_is_the_attempts_id_is_shown() -> None:
    described = describe(found(), value=None, decision=DENIED, outcome=None, personal=False)

    assert ("a", "no") == (described["key"], described["decision"]["denial"]["reason"])


def test_a_strangers_record_is_described_by_its_size() -> None:
    described = describe(found_in(record(), SETTINGS), value=None, decision=None, outcome=None, personal=True)

    assert {"place", "at", "size_bytes", "problem"} == described.keys()
    assert Place(0, 0) == Place.parse(described["place"])
