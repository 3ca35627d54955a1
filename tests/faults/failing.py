"""`gate worker` that dies at a named point or whose clock is wrong; run as `python -m tests.faults.failing worker`.

FAULTS_FAILPOINT=after_append:40 kills the process with SIGKILL when it comes to that point for the 40th time.
FAULTS_SKEW_S=300 makes its wall clock five minutes fast.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

POINTS = (
    "before_append",
    "after_append",
    "before_reply",
    "after_reply",
    "before_dead_letter",
    "after_dead_letter",
    "before_commit",
    "after_commit",
)
"""Append, reply and dead letter are of a batch, before it is sent and after its acknowledgement; a commit is one that moves."""


def main() -> None:
    """Arm what the environment asks for, then be `gate`."""
    if skew_s := float(os.environ.get("FAULTS_SKEW_S", "0")):
        _skew(skew_s)
    if failpoint := os.environ.get("FAULTS_FAILPOINT"):
        point, _, times = failpoint.partition(":")
        _arm(point, int(times or 1))
    from gate.cli.main import main as gate

    gate()


def _skew(by_s: float) -> None:
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + by_s
    time.time_ns = lambda: right_ns() + int(by_s * 1e9)


def _arm(point: str, times: int) -> None:
    from gate.kafka.consumer import AttemptsConsumer
    from gate.kafka.producer import BatchProducer

    if point not in POINTS:
        raise SystemExit(f"FAULTS_FAILPOINT={point}: there is no such point; it is one of {', '.join(POINTS)}")
    when, _, what = point.partition("_")
    topics = {
        os.environ["GATE_DECISIONS_TOPIC"]: "append",
        os.environ["GATE_REPLIES_TOPIC"]: "reply",
        os.environ["GATE_DLQ_TOPIC"]: "dead_letter",
    }
    if what == "commit":
        _wrap(AttemptsConsumer, "commit", when, times, lambda _consumer, offsets: bool(offsets))
    else:
        _wrap(BatchProducer, "send", when, times, lambda _producer, topic, *_: topics.get(topic) == what)


def _wrap(owner: type, name: str, when: str, times: int, counts: Callable[..., bool]) -> None:
    original = getattr(owner, name)
    left = times

    def passed(here: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if here == when and counts(*arguments):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    async def wrapped(*arguments: Any) -> Any:
        passed("before", arguments)
        result = await original(*arguments)
        passed("after", arguments)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    main()
