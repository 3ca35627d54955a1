"""The broker's time, which deadlines are judged in.

An append's acknowledgement carries the broker's LogAppendTime. The least difference to our own clock over the last minute
is the skew: network and queueing only ever add to it (protocol/README.md, facts about aiokafka).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

_SLOT_MS = 30_000  # two slots make the last minute, give or take


def _system_ms() -> float:
    return time.time_ns() / 1e6


class BrokerClock:
    """Own clock minus skew; before the first acknowledgement the skew is zero."""

    def __init__(self, own_ms: Callable[[], float] = _system_ms) -> None:
        self._own_ms = own_ms
        self._slot_began = 0.0
        self._least: float | None = None  # of this slot
        self._least_before: float | None = None  # of the slot before
        self._skew = 0.0
        self.known = False  # whether a broker has told its time
        self._second = -1
        self._prefix = ""

    def now_ms(self) -> float:
        """Return the broker's time now, ms since 1970."""
        return self._own_ms() - self._skew

    def acknowledged(self, broker_ms: int) -> None:
        """Learn from an append that the broker stamped just now."""
        self.known = True
        if broker_ms < 0:  # the topic has the producers' time stamps: this says nothing of the broker's clock
            return
        own = self._own_ms()
        difference = own - broker_ms
        if own - self._slot_began > _SLOT_MS:
            self._slot_began, self._least_before, self._least = own, self._least, difference
        elif self._least is None or difference < self._least:
            self._least = difference
        self._skew = min(value for value in (self._least, self._least_before) if value is not None)

    def text(self, at_ms: float) -> str:
        """Return a time as ISO 8601 in UTC with milliseconds."""
        second, milli = divmod(int(at_ms), 1000)
        if second != self._second:
            self._second = second
            self._prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{milli:03d}Z"
