"""Tells work that stands still from work that is slow: pure, fed with one look after the other.

Looks are counted and not seconds: while the process is stopped or its event loop is blocked, nobody looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STANDSTILL_LOOKS: Final = 15
"""Looks, a second apart, without any attempt although some wait; the longest honest pause is that of a slow broker."""

ONE_STANDSTILL_LOOKS: Final = 120
"""The same for one partition while others go on: what a fetch of another brought comes first, and may take a while."""

UNANSWERED_LOOKS: Final = 60
"""Looks, half a second apart, without an answer out although some are decided; twice the append timer."""


class Deliveries:
    """Watches whether attempts that wait in their partitions arrive."""

    def __init__(self) -> None:
        self._delivered = 0
        self._still = 0  # looks without a delivery although something waits
        self._partitions: dict[int, tuple[int, int]] = {}  # number: position, looks at which it stood there

    def look(self, waiting: Mapping[int, int], delivered: int) -> list[int]:
        """Return the partitions that stand still.

        `waiting` has the positions of those that have more and that could be taken from, `delivered` grows with deliveries.
        """
        moved, self._delivered = delivered != self._delivered, delivered
        self._still = 0 if moved or not waiting else self._still + 1
        before, self._partitions = self._partitions, {}
        for number, position in waiting.items():
            seen, looks = before.get(number, (position, 0))
            self._partitions[number] = (position, looks + 1 if seen == position else 1)
        if self._still >= STANDSTILL_LOOKS:
            return sorted(waiting)
        return sorted(number for number, (_, looks) in self._partitions.items() if looks > ONE_STANDSTILL_LOOKS)

    def begin_anew(self) -> None:
        """Give a new consumer its time."""
        self._still = 0
        self._partitions = {}


class Answers:
    """Watches whether what is decided is answered."""

    def __init__(self) -> None:
        self._answered = 0
        self.looks = 0  # without an answer although some are owed

    def look(self, owed: int, answered: int) -> bool:
        """Tell whether answers have stopped; `owed` is how many attempts wait for one, `answered` grows with answers."""
        moved, self._answered = answered != self._answered, answered
        self.looks = 0 if moved or owed <= 0 else self.looks + 1
        return self.looks >= UNANSWERED_LOOKS
