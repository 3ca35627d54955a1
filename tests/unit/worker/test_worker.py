"""What a worker says of itself, without Kafka."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gate.chain.runner import Chain
from gate.chain.threads import MAX_LOST
from gate.config import Settings
from gate.errors import ConfigError
from gate.ledger.answer import Entry
from gate.metrics import Metrics
from gate.model.decision import Scope
from gate.worker import worker as worker_module
from gate.worker.partitions import Partition, Stage
from gate.worker.progress import UNANSWERED_LOOKS
from gate.worker.readiness import Status
from gate.worker.worker import Worker


@pytest.fixture
async def worker() -> Worker:
    """A worker that serves, with nothing in flight."""
    worker = Worker(Settings(max_in_flight=2), "localhost:1", Chain([]), Metrics())
    worker._intake = SimpleNamespace(reasons=list, hopeless=False, silent=False, partitions={})  # type: ignore[assignment] # all it asks
    return worker


READY = Status(live=True, ready=True, reasons=())


def fly(worker: Worker, *stages: Stage) -> None:
    """Put attempts in flight."""
    flights = {number: SimpleNamespace(stage=stage) for number, stage in enumerate(stages)}
    worker._intake.partitions[0] = SimpleNamespace(flying=flights)  # type: ignore[union-attr, assignment]
    worker.in_flight = len(flights)


def look(worker: Worker) -> None:
    assert worker._intake is not None
    worker._readiness.look(worker._intake, worker.in_flight, lost_tasks=0)


def ledger(worker: Worker, why: str | None) -> None:
    worker._scribe._troubles = {} if why is None else {3: why}


def ledger_reading(worker: Worker, why: str | None) -> None:
    worker._scribe._unread = {} if why is None else {3: why}


def replies(worker: Worker, why: str | None) -> None:
    worker._sender._troubles = {} if why is None else {("replies", 3): why}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (ledger, "the ledger does not take decisions: partition 3: no"),
        (ledger_reading, "the ledger does not let itself be read: partition 3: no"),
        (replies, "replies are not acknowledged: replies-3: no"),
    ],
)
async def test_readiness_says_what_is_in_the_way_until_it_is_not(
    worker: Worker, trouble: Callable[[Worker, str | None], None], reason: str
) -> None:
    trouble(worker, "no")
    assert Status(live=True, ready=False, reasons=(reason,)) == worker.status()

    trouble(worker, None)
    assert READY == worker.status()


async def test_dead_letters_that_take_up_all_the_room_are_a_reason(worker: Worker) -> None:
    worker._sender.burying = 2
    assert ("2 dead letters wait to be written to registration.attempts.dlq",) == worker.status().reasons

    worker._sender.burying = 1
    assert READY == worker.status()


async def test_attempts_that_take_up_all_the_room_and_do_not_end_are_a_reason_and_not_those_that_do(worker: Worker) -> None:
    fly(worker, Stage.RUN, Stage.RUN)
    for _ in range(30):  # busy, and answering
        worker._recorder.metrics.decision_duration_seconds.observe(0.1)
        look(worker)
    assert READY == worker.status()

    for _ in range(30):
        look(worker)
    stuck = "all of GATE_MAX_IN_FLIGHT=2 attempts are under way, and none has been answered for a while"
    assert Status(live=True, ready=False, reasons=(stuck,)) == worker.status()

    fly(worker, Stage.RUN)
    look(worker)
    assert READY == worker.status()


@pytest.mark.parametrize("stage", [Stage.APPEND, Stage.REPLY])
async def test_decisions_that_nobody_sends_are_a_matter_for_another_process_unless_something_known_is_in_the_way(
    worker: Worker, stage: Stage
) -> None:
    fly(worker, stage)
    ledger(worker, "away")
    for _ in range(2 * UNANSWERED_LOOKS):
        look(worker)
    assert worker.status().live

    ledger(worker, None)
    for _ in range(UNANSWERED_LOOKS):
        assert READY == worker.status()
        look(worker)
    assert Status(False, False, ("what is decided is not answered, and nothing is known to be in the way",)) == worker.status()


async def test_consumers_that_bring_nothing_again_and_again_are_a_matter_for_another_process(worker: Worker) -> None:
    worker._intake.hopeless = True  # type: ignore[misc, union-attr]

    assert not worker.status().live


async def test_too_many_actions_that_were_cut_and_do_not_end_are_a_matter_for_another_process(worker: Worker) -> None:
    worker._resources.threads.lost = MAX_LOST - 1
    assert READY == worker.status()

    worker._resources.threads.lost = MAX_LOST
    lost = f"{MAX_LOST} threads and 0 tasks of actions were cut and do not end; mend the actions and start again"
    assert Status(live=False, ready=False, reasons=(lost,)) == worker.status()


async def test_at_least_once_counts_what_the_ledger_has_and_nobody_could_read_in_order(worker: Worker) -> None:
    partition = Partition(0, window_ms=1, bodies_max=1)
    worker._intake.partitions[0] = partition  # type: ignore[union-attr]
    assert 2 == worker._room_assuming()

    partition.table.acked = {number: Entry(number, "a", b"", "t-0-0", 0, Scope.ID, None) for number in range(2)}
    assert 0 == worker._room_assuming()


async def test_time_stamps_that_may_not_be_read_are_a_warning_and_wrong_ones_are_refused(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stamps: dict[str, Any] = {"attempts": None, "ledger": "LogAppendTime"}

    async def time_stamps(*_: object) -> dict[str, Any]:
        return stamps

    monkeypatch.setattr(worker_module, "time_stamps", time_stamps)
    await worker._check_time_stamps()
    assert "DescribeConfigs" in caplog.text

    stamps["ledger"] = "CreateTime"
    with pytest.raises(ConfigError, match=r"ledger: message.timestamp.type is CreateTime.*--entity-name ledger"):
        await worker._check_time_stamps()
