from __future__ import annotations

import asyncio
import io
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gate.errors import AskTimeout, GateError
from gate.model.decision import Cause, Decision, Denial, Status
from gate.tools.ask import REFUSED, build_event
from gate.tools.load import Latencies, LoadReport, load_events, render, render_tick, run_load

APPROVED = Decision(attempt_id="a", status=Status.APPROVED)
DENIED = Decision(attempt_id="a", status=Status.DENIED, denial=Denial(cause=Cause.ACCESS_DENIED, reason="no"))
ASSUMED = Decision(attempt_id="a", status=Status.DENIED, assumed=True)
REFUSED_COUNTRIES = {place.country_code for place in REFUSED}


class Answers:
    """Answers asks after `delay_s` with what `outcome` makes of the how-manieth ask it is."""

    def __init__(self, outcome, delay_s=0.0):
        self.outcome, self.delay_s = outcome, delay_s
        self.asked = 0
        self.open = 0
        self.most_open = 0

    async def ask(self, event, *, timeout_s, attempt_id=None):
        index, self.asked = self.asked, self.asked + 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(self.delay_s)
        self.open -= 1
        result = self.outcome(index)
        if isinstance(result, Exception):
            raise result
        return result


def report(**changed):
    return LoadReport(**{"rate": 100.0, "duration_s": 1.0, "mix": 0.2, "timeout_s": 5.0, **changed})


@settings(deadline=None)
@given(mix=st.floats(min_value=0, max_value=1), n=st.integers(min_value=1, max_value=300))
def test_share_of_refused_events_is_exact_after_every_event(mix, n):
    events = load_events(mix, "x")
    countries = [next(events)["request"]["geoip"]["countryCode"] for _ in range(n)]

    for count in range(1, n + 1):
        assert math.floor(count * mix) == sum(country in REFUSED_COUNTRIES for country in countries[:count])


def test_load_asks_for_other_people_every_time_from_every_place():
    events = load_events(0.5, "x")
    seen = [next(events) for _ in range(40)]

    assert 40 == len({event["user"]["email"] for event in seen})
    assert 6 == len({event["request"]["geoip"]["cityName"] for event in seen})


def test_event_is_named_after_the_address():
    user = build_event("ada.lovelace@mail.example")["user"]

    assert ("Ada", "Lovelace", "Ada Lovelace", "ada.lovelace") == (
        user["given_name"],
        user["family_name"],
        user["name"],
        user["username"],
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(min_value=1e-6, max_value=600), min_size=1, max_size=200), st.sampled_from([50, 90, 99, 99.9]))
def test_percentile_is_within_the_histograms_precision(values, percentile):
    latencies = Latencies()
    for value in values:
        latencies.record(value)
    rank = max(1, int(len(values) * percentile / 100 + 0.5))  # the nearest one, as HdrHistogram counts
    exact_ms = sorted(values)[rank - 1] * 1000

    assert exact_ms == pytest.approx(latencies.percentile_ms(percentile), rel=2e-3, abs=1e-3)
    assert max(values) == latencies.max_s
    assert len(values) == latencies.count


def test_nothing_measured_reads_as_zero():
    assert 0.0 == Latencies().percentile_ms(99)
    assert {"p50": 0.0, "p90": 0.0, "p95": 0.0, "p99": 0.0, "p99.9": 0.0, "mean": 0.0, "max": 0.0} == Latencies().to_json()


@given(
    st.lists(st.sampled_from([APPROVED, DENIED, ASSUMED, AskTimeout("a", 1), GateError("x")]), max_size=50), st.integers(0, 20)
)
def test_every_ask_is_counted_once(results, still_open):
    load = report(sent=len(results) + still_open)
    for index, result in enumerate(results):
        load.record(result, latency_s=0.01, at_s=index / 100)

    assert load.sent == load.answered + load.lost + load.errors.total() + load.waiting
    assert still_open == load.waiting
    assert load.latencies.count == load.answered
    assert (not still_open and all(result in (APPROVED, DENIED) for result in results)) == load.complete


def test_json_says_what_was_denied_why_and_what_was_lost():
    load = report(sent=5)
    for result in (APPROVED, DENIED, DENIED, AskTimeout("a", 5), GateError("x")):
        load.record(result, latency_s=0.002, at_s=0.5)
    load.elapsed_s = load.last_answer_s
    document = load.to_json()

    assert {"access_denied": 2} == document["denied"]
    assert (1, {"GateError": 1}) == (document["lost"], document["errors"])
    assert (3, 1, 0.6667, 6.0) == (
        document["answered"],
        document["approved"],
        document["denied_share"],
        document["answers_per_s"],
    )
    assert 2.0 == pytest.approx(document["latency_ms"]["p50"], rel=1e-3)


async def test_schedule_does_not_wait_for_answers():
    answers = Answers(lambda _: APPROVED, delay_s=0.3)
    load = await run_load(answers, rate=500, duration_s=0.2)

    assert 100 == load.sent == load.answered
    assert 100 == answers.most_open
    assert load.latencies.percentile_ms(50) >= 300


async def test_latency_counts_from_the_time_an_ask_was_due_not_from_when_it_was_made():
    class Blocks(Answers):
        async def ask(self, event, *, timeout_s, attempt_id=None):
            if self.asked == 0:
                time.sleep(0.2)  # noqa: ASYNC251 - the generator itself is held up
            return await super().ask(event, timeout_s=timeout_s)

    load = await run_load(Blocks(lambda _: APPROVED), rate=100, duration_s=0.1)

    assert 10 == load.answered
    assert load.latencies.percentile_ms(50) >= 100
    assert not load.kept_schedule
    assert load.delays.max_s >= 0.15


async def test_lost_and_failed_asks_do_not_end_the_load():
    outcomes = [AskTimeout("a", 1), GateError("x"), APPROVED, DENIED]
    load = await run_load(Answers(lambda index: outcomes[index % 4]), rate=400, duration_s=0.1)

    assert (40, 20, 10, {"GateError": 10}) == (load.sent, load.answered, load.lost, dict(load.errors))


async def test_mistake_in_the_client_is_not_counted_as_an_answer():
    with pytest.raises(ExceptionGroup):
        await run_load(Answers(lambda _: ZeroDivisionError()), rate=100, duration_s=0.05)


async def test_last_tick_shows_the_end():
    ticks = []
    await run_load(Answers(lambda _: APPROVED), rate=100, duration_s=0.05, on_tick=lambda load: ticks.append(load.answered))

    assert 5 == ticks[-1]


def test_people_see_loss_and_a_generator_that_fell_behind():
    load = report(sent=2)
    load.record(AskTimeout("a", 5), latency_s=5, at_s=5)
    load.record(DENIED, latency_s=0.01, at_s=5)
    load.delays.record(0.5)
    console = Console(width=100, file=io.StringIO())
    console.print(render(load))
    console.print(render_tick(load))
    text = console.file.getvalue()

    assert "denied: access_denied" in text
    assert "too busy" in text
    assert "1 lost" in text
