"""Dead letters are read back as they were written, and what others write is not taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.model.dead_letter import Place, read_dead_letter
from gate.model.wire import PlainRecord, encode_dead_letter

NAMES = st.sampled_from(["gate-attempt-id", "gate-dlq-reason", "gate-dlq-truncated", "gate-dlq-offset", "x"]) | st.text(
    max_size=5
)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=9) | st.none()), max_size=6)
VALUES = st.binary(max_size=20) | st.none()


def attempt(value=b"{}", headers=(), key=b"k"):
    return PlainRecord(topic="attempts", partition=3, offset=2**40, timestamp=5, key=key, value=value, headers=list(headers))


def letter_of(record, *, max_bytes=100, at="2026-01-02T03:04:05.678Z"):
    message = encode_dead_letter(record, reason="reply_topic_unknown", at=at, max_bytes=max_bytes)
    return PlainRecord(
        topic="dlq", partition=1, offset=7, timestamp=9, key=message.key, value=message.value, headers=message.headers
    )


@given(VALUES, HEADERS, VALUES)
def test_whatever_the_attempt_its_dead_letter_gives_it_back(value, headers, key) -> None:
    record = attempt(value, headers, key)

    letter = read_dead_letter(letter_of(record))

    assert letter is not None
    assert record == letter.attempt(timestamp=5, value=letter.value)
    assert (Place(1, 7), "reply_topic_unknown", "attempts-3-1099511627776") == (letter.place, letter.reason, letter.source)
    assert (None, 1767323045678) == (letter.truncated_bytes, letter.at_ms)
    assert letter.is_of(record)
    assert [] == [name for name, _ in letter.unmarked if name.startswith("gate-dlq-")]


def test_a_value_that_was_not_kept_is_told_by_its_size_and_any_value_may_be_its() -> None:
    record = attempt(b"x" * 11)

    letter = read_dead_letter(letter_of(record, max_bytes=10))

    assert letter is not None
    assert (None, 11) == (letter.value, letter.truncated_bytes)
    assert letter.is_of(record)
    assert not letter.is_of(attempt(b"x" * 11, key=b"other"))


def test_an_asker_who_says_truncated_himself_changes_nothing() -> None:
    letter = read_dead_letter(letter_of(attempt(None, [("gate-dlq-truncated", b"9"), ("gate-dlq-reason", b"mine")])))

    assert letter is not None
    assert ("reply_topic_unknown", None) == (letter.reason, letter.truncated_bytes)


@pytest.mark.parametrize("at", ["", "soon", "2026-01-02"])
def test_a_time_that_cannot_be_read_is_the_records_own(at: str) -> None:
    letter = read_dead_letter(letter_of(attempt(), at=at))

    assert letter is not None
    assert (9, "1970-01-01T00:00:00.009Z") == (letter.at_ms, letter.at)


OURS = [
    ("gate-dlq-reason", b"r"), ("gate-dlq-topic", b"t"), ("gate-dlq-partition", bytes(4)), ("gate-dlq-offset", bytes(8)),
]  # fmt: skip


@pytest.mark.parametrize("missing", range(4))
@pytest.mark.parametrize("instead", [None, b"", b"123"])
def test_what_lacks_a_header_of_ours_or_has_it_in_another_form_is_no_dead_letter(missing: int, instead: bytes | None) -> None:
    headers = [*OURS]
    headers[missing] = (OURS[missing][0], instead)

    assert read_dead_letter(attempt(headers=OURS)) is not None
    assert read_dead_letter(attempt(headers=[header for header in OURS if header != OURS[missing]])) is None
    if missing > 1 or not instead:
        assert read_dead_letter(attempt(headers=headers)) is None


@given(VALUES, st.lists(st.tuples(st.sampled_from([name for name, _ in OURS] + ["gate-dlq-at", "gate-dlq-truncated"]), VALUES)))
def test_whatever_others_write_is_read_without_a_fault(value, headers) -> None:
    read_dead_letter(attempt(value, headers))


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "1:-1", "a:1", "1:2:3", "١:1", "1:" + "9" * 5000, " 1:1"])
def test_a_place_is_partition_and_offset(text: str) -> None:
    assert Place(12, 345) == Place.parse(str(Place(12, 345)))
    with pytest.raises(ValueError, match="is not partition:offset"):
        Place.parse(text)
