"""Faults of a cluster of three brokers: one lost, each restarted in turn, two away."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from tests.integration.peers import WorkerProcess, lag

from .cluster import Cluster
from .evidence import Evidence
from .load import patient
from .matrix import fault
from .network import everybody_told
from .scene import Scene

REPLICATION = 3


async def _begin(scene: Scene) -> list[WorkerProcess]:
    scene.afterwards.append(partial(everybody_told, scene))
    return await scene.start(2)


async def _moved(scene: Scene, topic: str, partition: int, *, away_from: int) -> int:
    """Return the node that leads a partition once it is another one."""
    leader = away_from

    async def another() -> bool:
        nonlocal leader
        leader = await scene.kafka.leader_of(topic, partition)
        return leader not in (-1, away_from)

    await scene.until(another, f"another node leads {topic}-{partition}")
    return leader


async def _start(scene: Scene, *numbers: int) -> None:
    began = time.monotonic()
    await asyncio.to_thread(scene.kafka.start, *numbers)
    scene.mended()
    scene.facts["brokers start in"] = f"{time.monotonic() - began:.1f} s"


async def _back(scene: Scene, *numbers: int) -> None:
    """Start nodes, and wait until nothing would be lost with any other."""
    await _start(scene, *numbers)
    await scene.until(scene.kafka.in_sync, "all replicas are in sync")


@fault("a ledger partition's leader is killed, three brokers", row="6", kafka=Cluster, replication=REPLICATION)
async def leader_killed(scene: Scene) -> None:
    """Twice, under load: another replica leads, and the ledger has every decision that was acknowledged."""
    ledger = scene.settings.decisions_topic
    await _begin(scene)
    async with await scene.load(rate=60, ask=patient(60)):
        for turn in (1, 2):
            await scene.more_answers(100)
            leader = await scene.kafka.leader_of(ledger, 0)
            began = time.monotonic()
            await asyncio.to_thread(scene.kafka.kill, leader)
            successor = await _moved(scene, ledger, 0, away_from=leader)
            scene.facts[f"leader {turn}"] = f"{leader} → {successor} in {time.monotonic() - began:.1f} s"
            await scene.more_answers(200)
            await _back(scene, leader)
        await scene.more_answers(100)


@fault("the group's coordinator is killed, three brokers", row="7", kafka=Cluster, replication=REPLICATION)
async def coordinator_killed(scene: Scene) -> None:
    """The group goes on with another one; commits resume, nobody is wedged."""
    await _begin(scene)
    async with await scene.load(rate=60, ask=patient(60)):
        await scene.more_answers(100)
        coordinator = await scene.kafka.coordinator_of(scene.settings.group_id)
        for worker in scene.workers:
            scene.watch.crashed(worker, "coordinator lost")  # its session may end before it finds the other one
        await asyncio.to_thread(scene.kafka.kill, coordinator)
        began = time.monotonic()

        async def moved() -> bool:
            return await scene.kafka.coordinator_of(scene.settings.group_id) != coordinator

        await scene.until(moved, "another node coordinates the group")
        scene.facts["coordinator moved in"] = f"{time.monotonic() - began:.1f} s"
        await scene.joined(2)
        await scene.more_answers(200)
        await scene.until(lambda: _committing(scene), "both workers commit")
        scene.facts["commits again after"] = f"{time.monotonic() - began:.1f} s"
        await _back(scene, coordinator)
        await scene.more_answers(100)


async def _committing(scene: Scene) -> bool:
    """Tell whether what was asked a moment ago is committed: no partition lags by more than what is on its way."""
    return max((await lag(scene.settings)).values(), default=0) < 60


@fault("rolling restart of three brokers", row="6", kafka=Cluster, replication=REPLICATION)
async def rolled(scene: Scene) -> None:
    """Each shuts down in order and comes back in sync before the next; nobody waits long."""
    await _begin(scene)
    async with await scene.load(rate=60, ask=patient(60)):
        await scene.more_answers(100)
        for number in scene.kafka.nodes:
            pid = scene.kafka.nodes[number].pid
            for worker in scene.workers:
                scene.watch.crashed(worker, "broker restarted")
            await asyncio.to_thread(scene.kafka.restart, number)
            assert pid != scene.kafka.nodes[number].pid
            scene.mended()
            await scene.until(scene.kafka.in_sync, "all replicas are in sync")
            await scene.more_answers(100)


@fault("two of three brokers are away for 20 s", row="6", kafka=Cluster, replication=REPLICATION, default_timeout_ms=90_000)
async def two_away(scene: Scene) -> None:
    """Too few replicas for the ledger: nobody is answered and the gate says so; all are answered when they are back."""
    workers = await _begin(scene)
    async with await scene.load(rate=40, ask=patient(90)):
        await scene.more_answers(100)
        gone = [2, 3]
        for worker in workers:
            scene.watch.crashed(worker, "outage")
        await asyncio.to_thread(scene.kafka.kill, *gone)
        began = time.monotonic()
        await scene.until(lambda: all(worker.readiness()[0] == 503 for worker in workers), "/readyz says it")
        scene.facts["not ready after"] = f"{time.monotonic() - began:.1f} s"
        await asyncio.sleep(1)  # what was on its way arrives
        before = scene.answered
        await scene.flow(20)
        if scene.answered > before:
            scene.complaints.append(f"{scene.answered - before} were answered while no decision could be written")
        if any(worker.readiness()[0] == 200 for worker in workers):
            scene.complaints.append("a worker says that it is ready while no decision can be written")
        await _start(scene, *gone)
        began = time.monotonic()
        await scene.until(lambda: scene.answered > before, "somebody is told")
        scene.facts["first answer after their start"] = f"{time.monotonic() - began:.1f} s"
        for worker in workers:
            await scene.worker_ready(worker)
        await scene.more_answers(200)
    scene.afterwards.append(partial(_nothing_given_up, scene))


def _nothing_given_up(scene: Scene, evidence: Evidence) -> None:
    """Complain of replies that were given up although the brokers came back."""
    if evidence.dead_letters:
        scene.complaints.append(f"{len(evidence.dead_letters)} replies were given up during an outage that ended")
