"""The short form of the fault runs: some of the matrix, on the broker of all tests. `make faults` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from gate.kafka.embedded import EmbeddedKafka

from . import processes, topics  # noqa: F401 - they enter their faults
from .matrix import FAULTS, Fault, run

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS.values() if fault.short])
async def test_nothing_is_lost_and_nothing_decided_twice(fault: Fault, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    report = await run(fault, kafka, tmp_path, scale=0.2)

    assert ((), ()) == (report.violations, report.complaints)
    assert report.figures is not None
    assert report.figures.attempts == report.figures.answered > 0
