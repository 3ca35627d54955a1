"""From an attempt's bytes to a ledger record, without Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.config import Settings
from gate.ledger.answer import Answer
from gate.model.decision import FIXED_TEXTS, SCOPES, ActionOutcome, ActionTrace, Cause, Denial, Outcome, Scope, fixed_denial
from gate.model.event import Event
from gate.model.wire import read_ledger
from gate.worker.clock import BrokerClock
from gate.worker.deciding import Decider, answer_document
from gate.worker.partitions import Flight

EVENT = {"connection": {"strategy": "auth0"}, "request": {}, "user": {"email": "zoe@example.com"}}
NOW_MS = 1_767_323_045_678


@dataclass
class Attempt:
    value: bytes | None
    headers: tuple[tuple[str, Any], ...] = (("gate-attempt-id", b"a-1"),)
    timestamp: int = NOW_MS
    topic: str = "attempts"
    partition: int = 3
    offset: int = 41
    key: bytes | None = b"a-1"


class FakeChain(Chain):
    """Approves everybody, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__([], hash="sha256:0")
        self.runs: list[tuple[Event, str, float]] = []

    def run(self, event: Event, *, attempt_id: str, patience_s: float = 0.0) -> Outcome:
        self.runs.append((event, attempt_id, patience_s))
        return Outcome(denial=None)


class Bench:
    """A decider with a clock put by hand."""

    def __init__(self, *, texts: FixedTexts | None = None, **settings: Any) -> None:
        self.now_ms = float(NOW_MS)
        self.chain = FakeChain()
        self.decider = Decider(
            Settings(**settings),
            chain=self.chain,
            worker_id="host-1",
            clock=BrokerClock(lambda: self.now_ms),
            texts=texts,
        )

    def flight(self, event: Any = EVENT, **record: Any) -> Flight:
        value = event if event is None or isinstance(event, bytes) else orjson.dumps(event)
        return self.decider.read(Attempt(value, **record))[0]

    def decide(self, flight: Flight) -> Outcome:
        outcome = self.decider.run(flight)
        assert isinstance(outcome, Outcome)
        return outcome


def test_readable_attempt_is_run_with_its_id_and_what_is_left_of_its_patience() -> None:
    bench = Bench()
    flight = bench.flight(headers=(("gate-attempt-id", b"a-1"), ("gate-timeout-ms", b"5000")))
    bench.now_ms += 1000

    assert bench.decide(flight).denial is None

    ((event, attempt_id, patience_s),) = bench.chain.runs
    assert ("zoe@example.com", "a-1") == (event.user.email, attempt_id)
    assert pytest.approx(5.0 - 1.0 - 0.25) == patience_s


@pytest.mark.parametrize(("timeout", "reserve_s"), [(b"1000", 0.1), (b"2500", 0.25), (b"120000", 0.25)])
def test_reserve_is_a_tenth_of_the_patience_and_at_most_a_quarter_of_a_second(timeout: bytes, reserve_s: float) -> None:
    bench = Bench()

    bench.decide(bench.flight(headers=(("gate-timeout-ms", timeout),)))

    assert pytest.approx(int(timeout) / 1000 - reserve_s) == bench.chain.runs[0][2]


@pytest.mark.parametrize("late_ms", [0, 1, 10_000_000])
def test_attempt_whose_deadline_passed_is_expired_without_running(late_ms: int) -> None:
    bench = Bench(default_timeout_ms=100)
    flight = bench.flight()
    bench.now_ms += 100 + late_ms

    assert fixed_denial(Cause.EXPIRED) == bench.decide(flight).denial
    assert [] == bench.chain.runs


def test_attempt_from_the_future_has_waited_for_no_time() -> None:
    bench = Bench(max_queue_ms=1)
    flight = bench.flight(timestamp=NOW_MS + 60_000)

    assert 0.0 == bench.decider.queue_ms(flight)
    assert bench.decide(flight).denial is None


def test_attempt_that_queued_longer_than_the_setting_is_overloaded_and_expired_goes_first() -> None:
    bench = Bench(max_queue_ms=500, default_timeout_ms=2000)
    flight = bench.flight()

    bench.now_ms += 501
    assert fixed_denial(Cause.OVERLOADED) == bench.decide(flight).denial
    bench.now_ms += 2000
    assert fixed_denial(Cause.EXPIRED) == bench.decide(flight).denial


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "$: the value is empty"),
        (b"{", "$: not JSON, at character 1"),
        (b"[]", "$: not a JSON object"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "$: is nested too deeply"),
        ({**EVENT, "user": None}, "$.user"),
        ({**EVENT, "user": {"email": 7}}, "$.user.email"),
        ({"request": {}, "user": {}}, "$.connection"),
    ],
)
def test_what_cannot_be_read_is_an_invalid_attempt_that_says_where(value: Any, message: str) -> None:
    bench = Bench()
    flight = bench.flight(value)

    assert fixed_denial(Cause.INVALID_ATTEMPT) == bench.decide(flight).denial
    (warning,) = flight.ask.warnings
    assert "invalid_attempt" == warning["code"]
    assert warning["message"].startswith(message)
    assert [] == bench.chain.runs


def test_unreadable_attempt_is_invalid_even_when_it_is_late() -> None:
    """Asking again helps against `expired`, never against this."""
    bench = Bench()
    flight = bench.flight(b"{")
    bench.now_ms += 10_000_000

    assert fixed_denial(Cause.INVALID_ATTEMPT) == bench.decide(flight).denial


def test_fields_of_ours_are_dropped_before_the_digest_and_the_event() -> None:
    bench = Bench()
    forged = {**EVENT, "secrets": {"K": "v"}, "attempt_id": "other", "config": {}}
    flight, dropped = bench.decider.read(Attempt(orjson.dumps(forged)))

    assert ["secrets", "config", "attempt_id"] == dropped
    assert bench.flight().digest == flight.digest
    bench.decide(flight)
    assert {} == dict(bench.chain.runs[0][0].secrets)


def test_volatile_paths_are_left_out_of_the_digest_and_others_are_not() -> None:
    bench = Bench()

    assert bench.flight().digest == bench.flight({**EVENT, "request": {"ip": "192.0.2.1", "geoip": {}}, "transaction": {}}).digest
    assert bench.flight().digest != bench.flight({**EVENT, "request": {"language": "es"}}).digest


def test_decision_is_worded_for_reply_and_ledger_alike() -> None:
    bench = Bench()
    flight = bench.flight(headers=(("gate-attempt-id", b""), ("kafka_correlationId", b"c-1")))
    bench.now_ms += 12.5
    outcome = Outcome(
        denial=Denial(cause=Cause.ACCESS_DENIED, reason="r", action="x"),
        trace=[ActionTrace("x", "sha256:1", ActionOutcome.DENIED, 0.5)],
    )

    append, document = bench.decider.word(flight, outcome)

    body = orjson.loads(append.message.value or b"")
    assert document == {name: body[name] for name in document}
    assert {"source": "attempts-3-41", "worker": "host-1"} == {name: body[name] for name in ("source", "worker")}
    assert "2026-01-02T03:04:05.690Z" == document["decided_at"]
    assert ["attempt_id_unreadable"] == [entry["code"] for entry in document["warnings"]]
    assert [{"name": "x", "version": "sha256:1", "outcome": "denied", "duration_ms": 0.5}] == body["trace"]
    headers = read_ledger(append.message.key, append.message.headers)
    assert ("c-1", flight.digest, "attempts-3-41", NOW_MS, Scope.ID) == headers


@pytest.mark.parametrize("cause", [Cause.EXPIRED, Cause.OVERLOADED, Cause.INVALID_ATTEMPT])
def test_what_the_chain_did_not_decide_binds_only_its_ask(cause: Cause) -> None:
    bench = Bench()

    append, _ = bench.decider.word(bench.flight(), Outcome(denial=fixed_denial(cause)))

    assert Scope.ASK is append.headers.scope


def test_answer_is_what_was_worded_here_or_what_the_record_says_or_a_conflict() -> None:
    bench = Bench()
    flight = bench.flight()
    append, document = bench.decider.word(flight, Outcome(denial=None, changes={"user_metadata": {"plan": "free"}}))
    flight.append, flight.document = append, document
    value = append.message.value
    assert value is not None
    other = bench.flight(offset=42)

    flight.answer = Answer(append.at(0), conflict=False)
    assert document is answer_document(flight, value)
    other.answer = Answer(append.at(0), conflict=False)
    assert document == {name: answer_document(other, value)[name] for name in document}
    other.answer = Answer(append.at(0), conflict=True)
    conflict = answer_document(other, value)
    assert fixed_denial(Cause.CONFLICT).to_json() == conflict["denial"]
    assert document["decided_at"] == conflict["decided_at"]
    assert "changes" not in conflict


SPANISH = FixedTexts({"es": {cause: f"es {cause}" for cause in FIXED_TEXTS}})
IN_SPANISH = {**EVENT, "request": {"language": "es"}}


@pytest.mark.parametrize("cause", [cause for cause in FIXED_TEXTS if cause in SCOPES])
@pytest.mark.parametrize(
    "spoken",
    [
        {"request": {"language": "es-MX,es;q=0.9"}},
        {"transaction": {"locale": "es"}},
        {"transaction": {"ui_locales": ["fr", "es"]}},
    ],
)
def test_a_denial_that_no_action_words_is_in_the_language_of_the_attempt_and_its_reason_is_fixed(
    cause: Cause, spoken: dict[str, Any]
) -> None:
    bench = Bench(texts=SPANISH)

    flight = bench.flight({**EVENT, **spoken})
    flight.event = None  # as in a worker, which keeps no event of what is decided
    append, document = bench.decider.word(flight, Outcome(denial=fixed_denial(cause)))

    assert (cause.value, f"es {cause}") == (document["denial"]["reason"], document["denial"]["user_message"])
    assert document["denial"] == orjson.loads(append.message.value or b"")["denial"]


def test_what_an_action_words_stays_as_it_is() -> None:
    bench = Bench(texts=SPANISH)
    denial = Denial(cause=Cause.ACCESS_DENIED, reason="r", user_message="own words", action="x")

    _, document = bench.decider.word(bench.flight(IN_SPANISH), Outcome(denial=denial))

    assert denial.to_json() == document["denial"]


@pytest.mark.parametrize(
    ("late_ms", "settings", "cause"), [(200, {"default_timeout_ms": 100}, "expired"), (60, {"max_queue_ms": 50}, "overloaded")]
)
def test_an_attempt_whose_chain_is_not_run_is_denied_in_its_language(late_ms: int, settings: dict[str, int], cause: str) -> None:
    bench = Bench(texts=SPANISH, **settings)
    flight = bench.flight(IN_SPANISH)
    bench.now_ms += late_ms

    _, document = bench.decider.word(flight, bench.decide(flight))

    assert f"es {cause}" == document["denial"]["user_message"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"request": {"language": "es"}}, "es invalid_attempt"),
        ({**IN_SPANISH, "user": {"email": 7}}, "es invalid_attempt"),
        (b'{"request":{"language":"es"},"user":' + b'{"a":' * 300 + b"1" + b"}" * 301, "es invalid_attempt"),
        ({"request": "es", "transaction": [], "user": {}}, FIXED_TEXTS[Cause.INVALID_ATTEMPT][1]),
        (b'{"request":{"language":"es"}', FIXED_TEXTS[Cause.INVALID_ATTEMPT][1]),
        (None, FIXED_TEXTS[Cause.INVALID_ATTEMPT][1]),
    ],
)
def test_an_invalid_attempt_is_denied_in_its_language_where_that_can_be_read(value: Any, message: str) -> None:
    bench = Bench(texts=SPANISH)
    flight = bench.flight(value)

    _, document = bench.decider.word(flight, bench.decide(flight))

    assert ("invalid_attempt", message) == (document["denial"]["cause"], document["denial"]["user_message"])


@pytest.mark.parametrize(
    ("first", "second", "message"), [("fr", "es", "es conflict"), ("es", "fr", FIXED_TEXTS[Cause.CONFLICT][1])]
)
def test_a_conflict_is_in_the_language_of_the_ask_it_answers_not_of_the_one_it_conflicts_with(
    first: str, second: str, message: str
) -> None:
    bench = Bench(texts=SPANISH)
    decided = bench.flight({**EVENT, "request": {"language": first}})
    append, _ = bench.decider.word(decided, Outcome(denial=fixed_denial(Cause.ACTION_FAILED, action="secret-action")))
    other = bench.flight({**EVENT, "request": {"language": second}}, offset=42)
    other.answer = Answer(append.at(0), conflict=True)

    document = answer_document(other, append.message.value or b"")

    assert {"cause": "conflict", "reason": "conflict", "user_message": message, "errors": []} == document["denial"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
PARTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(["connection", "request", "user", "tenant", "client", "transaction", "security_context"], JSON),
)


@given(st.binary(max_size=50) | PARTS.map(lambda event: json.dumps({**EVENT, **event}).encode()))
@example(b'{"connection":{"strategy":"auth0"},"request":{},"user":{"n":18446744073709551616}}')
def test_whatever_an_attempt_holds_it_is_decided_and_worded(value: bytes) -> None:
    bench = Bench()
    flight = bench.flight(value)

    append, document = bench.decider.word(flight, bench.decide(flight))

    assert "a-1" == document["attempt_id"]
    assert append.message.value


# -- Too large for the ledger -------------------------------------------------------------------------------------------


def refused(bench: Bench, outcome: Outcome) -> tuple[Flight, Any, list[dict[str, Any]]]:
    """Return the flight of a decision that the ledger refuses, its append and all that is worded in its place, in order."""
    flight = bench.flight()
    flight.append, flight.document = append, _ = bench.decider.word(flight, outcome)
    bench.now_ms += 60_000
    records = []
    while (smaller := bench.decider.word_smaller(flight, flight.append)) is not None:
        flight.append, flight.document = smaller
        records.append(orjson.loads(flight.append.message.value or b""))
    return flight, append, records


def trace(*entries: tuple[str, ActionOutcome], logs: tuple[str, ...] = ()) -> list[ActionTrace]:
    return [ActionTrace(name, "sha256:1", outcome, 1.5, logs=logs) for name, outcome in entries]


def test_decision_too_large_loses_what_was_printed_then_fails_with_its_trace_then_loses_that() -> None:
    bench = Bench()
    ran = trace(("one", ActionOutcome.RAN), ("two", ActionOutcome.RAN), logs=("x" * 4096,))
    flight, append, records = refused(bench, Outcome(denial=None, changes={"user_metadata": {"a": 1}}, trace=ran))

    first = orjson.loads(append.message.value)
    assert 3 == len(records)
    assert {**first, "trace": [{k: v for k, v in entry.items() if k != "logs"} for entry in first["trace"]]} == records[0]
    assert fixed_denial(Cause.ACTION_FAILED).to_json() == records[1]["denial"]  # nobody knows whose metadata it is
    assert records[0]["trace"] == records[1]["trace"]
    assert [] == records[2]["trace"]
    assert {first["decided_at"]} == {record["decided_at"] for record in records}
    assert flight.append is not None
    assert Scope.ID is flight.append.headers.scope


@pytest.mark.parametrize("by", ["deny", "metadata"])
def test_action_that_made_a_decision_too_large_is_named_where_it_is_known(by: str) -> None:
    denial = Denial(cause=Cause.ACCESS_DENIED, reason="x" * 100_000, action="two") if by == "deny" else None
    outcomes = (ActionOutcome.NOT_MATCHED, ActionOutcome.RAN if denial is None else ActionOutcome.DENIED)
    outcome = Outcome(denial=denial, trace=trace(*zip(("one", "two"), outcomes, strict=True)))
    _, _, records = refused(Bench(), outcome)

    assert "two" == records[0]["denial"]["action"]
    assert [("not_matched", None), ("failed", "DecisionTooLarge")] == [
        (entry["outcome"], entry.get("error")) for entry in records[0]["trace"]
    ]
