"""Rule 1: which record is the decision."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gate.ledger.answer import Answer, Entry, answer
from gate.model.decision import SCOPES, Cause, Scope

WINDOW_MS = 10


@dataclass(frozen=True)
class Asked:
    attempt_id: str = "X"
    timestamp_ms: int = 100
    source: str = "a-0-1"
    digest: bytes = b"c1:a"


def entry(
    offset: int = 0, *, of: str = "X", digest: bytes = b"c1:a", source: str = "a-0-0", at: int = 100, scope: Scope = Scope.ID
) -> Entry:
    return Entry(offset, of, digest, source, at, scope, b"{}")


IDS = st.sampled_from("XYZ")
SOURCES = st.integers(0, 5).map("a-0-{}".format)
DIGESTS = st.sampled_from([b"c1:a", b"c1:b", b"raw:a"])
TIMES = st.integers(80, 120)
ENTRIES = st.builds(Entry, st.just(0), IDS, DIGESTS, SOURCES, TIMES, st.sampled_from(Scope), st.just(b"{}"))
ASKS = st.builds(Asked, IDS, TIMES, SOURCES, DIGESTS)


def test_the_first_record_of_the_id_is_the_decision() -> None:
    entries = [entry(0, of="Y"), entry(1), entry(2)]

    assert Answer(entries[1], conflict=False) == answer(entries, Asked(), WINDOW_MS)


def test_there_is_no_answer_without_a_record_of_the_id() -> None:
    assert None is answer([entry(of="Y")], Asked(), WINDOW_MS)


def test_another_content_is_a_conflict_with_the_same_record() -> None:
    first = entry(digest=b"c1:b")

    assert Answer(first, conflict=True) == answer([first, entry(1)], Asked(), WINDOW_MS)


def test_what_cannot_be_read_gets_no_decision_that_was_made_for_another() -> None:
    made, own = entry(0), entry(1, digest=b"raw:a", source="a-0-1", scope=Scope.ASK)

    assert None is answer([made], Asked(digest=b"raw:a"), WINDOW_MS)
    assert Answer(own, conflict=False) == answer([made, own], Asked(digest=b"raw:a"), WINDOW_MS)


def test_a_decision_on_an_attempt_before_the_window_does_not_count() -> None:
    old, edge = entry(0, at=89), entry(1, at=90)

    assert Answer(edge, conflict=False) == answer([old, edge], Asked(timestamp_ms=100), WINDOW_MS)


def test_a_decision_on_one_ask_counts_for_that_ask_alone() -> None:
    expired = entry(scope=Scope.ASK, source="a-0-1")

    assert None is answer([expired], Asked(source="a-0-2"), WINDOW_MS)
    assert Answer(expired, conflict=False) == answer([expired], Asked(source="a-0-1"), WINDOW_MS)


def test_a_conflict_is_never_written() -> None:
    assert set(Cause) - {Cause.CONFLICT} == set(SCOPES) - {None}


def test_what_was_denied_for_the_asker_s_sake_binds_one_ask() -> None:
    bound = {cause for cause, scope in SCOPES.items() if scope is Scope.ASK}

    assert {Cause.EXPIRED, Cause.OVERLOADED, Cause.INVALID_ATTEMPT} == bound


@given(st.lists(ENTRIES), st.lists(ENTRIES), ASKS)
def test_an_answer_once_given_never_changes(entries: list[Entry], later: list[Entry], ask: Asked) -> None:
    """Property 3: prefix-stable."""
    before = answer(entries, ask, WINDOW_MS)

    if before is not None:
        assert before == answer(entries + later, ask, WINDOW_MS)


@given(st.lists(ENTRIES), ASKS)
def test_a_record_for_another_ask_changes_no_answer(entries: list[Entry], ask: Asked) -> None:
    """Property 9."""
    others = [e for e in entries if e.scope is Scope.ID or e.source == ask.source]

    assert answer(others, ask, WINDOW_MS) == answer(entries, ask, WINDOW_MS)


@given(st.lists(ENTRIES), ASKS, st.integers(-1000, 1000))
def test_shifting_all_clocks_together_changes_no_answer(entries: list[Entry], ask: Asked, by: int) -> None:
    """Property 10, as far as rule 1 knows time."""
    for e in entries:
        e.attempt_ts += by
    shifted = answer(entries, Asked(ask.attempt_id, ask.timestamp_ms + by, ask.source, ask.digest), WINDOW_MS)
    for e in entries:
        e.attempt_ts -= by

    assert shifted == answer(entries, ask, WINDOW_MS)


def test_an_entry_is_the_same_where_all_that_decides_is_the_same() -> None:
    without_body = Entry(7, "X", b"c1:a", "a-0-0", 100, Scope.ID, None)

    assert entry().same(without_body)
    assert not entry().same(entry(of="Y"))
    assert not entry().same(entry(source="a-0-9"))
    assert not entry().same(entry(digest=b"c1:b"))
    assert not entry().same(entry(scope=Scope.ASK))


def test_it_says_what_it_is_in_one_line() -> None:
    assert "<Entry 3 X of a-0-0 at 100, scope id>" == repr(entry(3))
