"""Evidence of a real run, on real Kafka with real processes: the checker finds nothing, and finds what is tampered with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gate.kafka.embedded import EmbeddedKafka

from .checker import Invariant, check
from .evidence import Outcome, load
from .figures import figures
from .matrix import FAULTS, run
from .processes import killed

pytestmark = pytest.mark.kafka


async def test_worker_killed_under_load_breaks_no_promise_and_a_reply_that_was_tampered_with_is_found(
    kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    (fault,) = [fault for fault in FAULTS.values() if fault.inject is killed]
    report = await run(replace(fault, settings={"session_timeout_ms": 2000}), kafka, tmp_path, scale=0.1)

    assert ((), ()) == (report.violations, report.complaints)

    kept = load(tmp_path / "evidence.json")
    row = figures(kept)
    assert row == report.figures
    assert row.attempts == row.answered == len(kept.attempts) > 200
    assert (0, 0) == (row.lost, row.decided_twice)
    assert 0 < row.recovered_s  # something was in flight when it was killed
    assert {Outcome.OK, Outcome.UNKNOWN} == {ask.outcome for ask in kept.asks}
    assert 1 < len({effect.worker for effect in kept.side_effects})
    assert kept.in_flight
    assert 2 < len({commit.offset for commit in kept.commits})

    victim = kept.replies[len(kept.replies) // 2]
    forged = replace(victim, value=(victim.value or b"").replace(b"load-", b"lead-"))
    (found,) = check(kept.but(replies=tuple(forged if reply is victim else reply for reply in kept.replies)))

    assert Invariant.I3 is found.invariant
    assert str(victim.place) in found.what
