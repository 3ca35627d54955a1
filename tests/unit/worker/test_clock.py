"""The broker's time, learned from what the broker stamps."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from gate.worker.clock import BrokerClock


class Own:
    """Our own clock, put by hand."""

    def __init__(self, ms: float = 1_000_000.0) -> None:
        self.ms = ms

    def __call__(self) -> float:
        return self.ms


def test_before_the_first_acknowledgement_the_brokers_time_is_ours() -> None:
    assert 1_000_000 == BrokerClock(Own()).now_ms()


def test_clock_ahead_or_behind_is_put_right() -> None:
    for ahead_ms in (300_000, -300_000):
        own = Own()
        clock = BrokerClock(own)

        clock.acknowledged(int(own.ms) - ahead_ms)

        assert 1_000_000 - ahead_ms == clock.now_ms()


def test_least_difference_counts_because_waiting_only_adds_to_it() -> None:
    own = Own()
    clock = BrokerClock(own)
    for waited_ms in (40, 3, 900):
        own.ms += 1000
        clock.acknowledged(int(own.ms) - 5000 - waited_ms)

    assert own.ms - 5003 == clock.now_ms()


def test_least_difference_is_forgotten_after_about_a_minute() -> None:
    own = Own()
    clock = BrokerClock(own)
    clock.acknowledged(int(own.ms) - 1)  # before our clock was put forward by 10 s
    for _ in range(10):
        own.ms += 10_000
        clock.acknowledged(int(own.ms) - 10_000)

    assert own.ms - 10_000 == clock.now_ms()


def test_difference_of_the_last_half_minute_survives_a_new_slot() -> None:
    own = Own()
    clock = BrokerClock(own)
    own.ms += 31_000
    clock.acknowledged(int(own.ms) - 2)
    own.ms += 31_000
    clock.acknowledged(int(own.ms) - 500)

    assert own.ms - 2 == clock.now_ms()


@given(waits_ms=st.lists(st.integers(0, 5000), min_size=1, max_size=50), skew_ms=st.integers(-60_000, 60_000))
def test_brokers_time_is_never_thought_later_than_it_is(waits_ms: list[int], skew_ms: int) -> None:
    """Else an attempt would expire before its time: the skew found is the true one plus the least wait."""
    own = Own()
    clock = BrokerClock(own)
    for wait_ms in waits_ms:
        own.ms += 100
        clock.acknowledged(int(own.ms) - wait_ms - skew_ms)

    assert own.ms - skew_ms - 5000 <= clock.now_ms() <= own.ms - skew_ms


@given(st.lists(st.integers(0, 4_102_444_800_000), min_size=1, max_size=5))
def test_text_is_iso_8601_with_milliseconds(times_ms: list[int]) -> None:
    clock = BrokerClock(Own())
    for at_ms in times_ms:
        parsed = datetime.fromisoformat(clock.text(at_ms))
        expected = datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)

        assert expected == parsed
        assert len("2026-01-02T03:04:05.678Z") == len(clock.text(at_ms))


def test_text_truncates_to_the_millisecond() -> None:
    assert "1970-01-01T00:00:01.999Z" == BrokerClock(Own()).text(1999.97)
