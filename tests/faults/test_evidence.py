"""Evidence of a real run, on real Kafka with real processes: the checker finds nothing, and finds what is tampered with."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gate.config import Settings
from tests.conftest import Eventually
from tests.integration.peers import WorkerProcess, event, lag, members

from .checker import Invariant, check
from .evidence import Evidence, Outcome, collect, dump, load
from .figures import figures
from .watching import CHAIN, RecordingClient, Watch, side_effects

pytestmark = pytest.mark.kafka

PATIENCE_S = 20.0


async def ask_for_a_while(client: RecordingClient, *, first: int, asks: int, rate: float) -> None:
    """Ask at a rate: once, again with the same id and content, with other content, and without patience."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(first, first + asks):
            tasks.create_task(ask_as_people_do(client, number))
            await asyncio.sleep(1 / rate)


async def ask_as_people_do(client: RecordingClient, number: int) -> None:
    mailbox = ("zoe", "denied", "wait0.1", "failing", "wait0.02")[number % 5]
    attempt, attempt_id = json.loads(event(f"{mailbox}@example.com", number=number)), f"load-{number}"
    impatient = number % 17 == 0
    await client.try_to_ask(attempt, attempt_id=attempt_id, timeout_s=0.02 if impatient else PATIENCE_S)
    if number % 7 == 0 or impatient:
        await client.try_to_ask(attempt, attempt_id=attempt_id, timeout_s=PATIENCE_S)
    if number % 11 == 0:
        other = json.loads(event("another@example.com"))
        await asyncio.gather(*(client.try_to_ask(what, attempt_id=attempt_id, timeout_s=PATIENCE_S) for what in (other, attempt)))


async def killed_under_load(settings: Settings, folder: Path, eventually: Eventually) -> Evidence:
    """Run two workers under load, kill one with -9, and return what is left behind when all is quiet."""
    effects = folder / "effects.jsonl"
    workers = [WorkerProcess(settings, folder, chain=CHAIN, FAULTS_EFFECTS=str(effects)) for _ in range(2)]
    try:
        await asyncio.gather(*(worker.ready() for worker in workers))
        await eventually(lambda: both(settings))
        async with (
            Watch(settings, workers) as watch,
            RecordingClient.from_settings(settings, settings.bootstrap_servers or "") as client,
        ):
            load = asyncio.create_task(ask_for_a_while(client, first=0, asks=300, rate=100))
            await eventually(lambda: sum(ask.outcome is Outcome.OK for ask in client.history) > 100)
            watch.crashed(workers[0], "SIGKILL")
            workers[0].send(signal.SIGKILL)
            await load
            await eventually(lambda: quiet(settings))
        seen = watch.observed(asks=client.history, side_effects=side_effects(effects))
        evidence = await collect(settings, seen)
        assert 0 == await workers[1].end()
        return evidence
    finally:
        for worker in workers:
            worker.close()


async def both(settings: Settings) -> bool:
    return await members(settings) == 2


async def quiet(settings: Settings) -> bool:
    return not any((await lag(settings)).values())


async def test_worker_killed_under_load_breaks_no_promise_and_a_reply_that_was_tampered_with_is_found(
    topics: Settings, tmp_path: Path, eventually: Eventually
) -> None:
    evidence = await killed_under_load(topics, tmp_path, eventually)
    dump(evidence, tmp_path / "evidence.json")

    assert [] == [str(violation) for violation in check(evidence)]

    row = figures(evidence)
    assert row.attempts == row.answered == len(evidence.attempts) > 300
    assert (0, 0) == (row.lost, row.decided_twice)
    assert row.longest_wait_s < PATIENCE_S
    assert 0 < row.recovered_s  # something was in flight when it was killed
    assert {Outcome.OK, Outcome.UNKNOWN} == {ask.outcome for ask in evidence.asks}
    assert 2 == len({effect.worker for effect in evidence.side_effects})
    assert evidence.in_flight
    assert 2 < len({commit.offset for commit in evidence.commits})

    kept = load(tmp_path / "evidence.json")
    victim = kept.replies[len(kept.replies) // 2]
    forged = replace(victim, value=(victim.value or b"").replace(b"load-", b"lead-"))
    (found,) = check(kept.but(replies=tuple(forged if reply is victim else reply for reply in kept.replies)))

    assert Invariant.I3 is found.invariant
    assert str(victim.place) in found.what
