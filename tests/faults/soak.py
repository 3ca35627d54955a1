"""Ten minutes of mixed faults: promises are kept, and what lives through all of it holds no more at the end than before."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integration.peers import Asker, WorkerProcess, event

from .grants import PROPERTIES
from .load import patient
from .matrix import fault, own_broker
from .scene import Scene

MINUTES: Final = 10
RATE: Final = 200.0
PAUSE_S: Final = 8.0  # between two faults
WARM_S: Final = 180.0  # until the ledger table holds its window of 120 s
GROWTH_MAX: Final = 0.1  # of memory, from the time that it is warm to the end
SLACK: Final = 8  # of file handles and tasks: connections come and go


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at one moment."""

    at_s: float
    memory_mb: float
    files: int
    tasks: int


@fault(
    f"soak: {MINUTES} minutes of mixed faults at {RATE:.0f}/s",
    row="all",
    kafka=own_broker(properties=PROPERTIES),
    default_timeout_ms=60_000,
    slack_ms=2000,
)
async def soak(scene: Scene) -> None:
    """Workers are killed, stopped, frozen; the broker restarts and freezes; topics refuse. One worker lives through it all."""
    survivor, _ = await scene.start(2)
    await asyncio.sleep(2)
    idle = _footprint(survivor, 0.0)
    prints: list[Footprint] = []
    began = time.monotonic()
    ends = began + 60 * MINUTES * scene.scale
    async with await scene.load(rate=RATE * 0.75, ask=patient(60)):  # people ask 1.3 times: repeats and other content
        measuring = asyncio.create_task(_measure(survivor, prints, began), name="measure")
        faults = 0
        for inject in _faults(scene):
            if time.monotonic() > ends:
                break
            await inject()
            faults += 1
            await asyncio.sleep(PAUSE_S)
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
    await scene.quiet()
    await asyncio.sleep(2)
    scene.facts["faults"] = faults
    _compare(scene, idle, prints, _footprint(survivor, time.monotonic() - began))


def _faults(scene: Scene) -> Iterator[Callable[[], Awaitable[None]]]:
    async def kill() -> None:
        await scene.kill(_other(scene))
        await scene.worker()

    async def restart() -> None:
        await scene.end(_other(scene))
        await scene.worker()

    async def freeze() -> None:
        worker = _other(scene)
        scene.watch.crashed(worker, "SIGSTOP")
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(9)
        worker.send(signal.SIGCONT)

    async def join_and_leave() -> None:
        await scene.end(await scene.worker())

    async def broker_restarts() -> None:
        await asyncio.to_thread(scene.kafka.restart)

    async def broker_freezes() -> None:
        for worker in _alive(scene):
            scene.watch.crashed(worker, "outage")
        await asyncio.to_thread(scene.kafka.pause)
        await asyncio.sleep(7)
        await asyncio.to_thread(scene.kafka.resume)

    async def ledger_refuses() -> None:
        await scene.forbid_writes(scene.settings.decisions_topic)
        await asyncio.sleep(4)
        await scene.allow_writes(scene.settings.decisions_topic)

    async def dead_letters() -> None:
        await scene.forbid_writes(scene.settings.dlq_topic)
        async with Asker(scene.settings) as asker:
            for number in range(50):
                await asker.submit(f"dead-{time.monotonic_ns()}-{number}", event(), kafka_replyTopic=b"nowhere")
        await asyncio.sleep(4)
        await scene.allow_writes(scene.settings.dlq_topic)

    return itertools.cycle(
        (kill, dead_letters, restart, freeze, ledger_refuses, join_and_leave, broker_restarts, kill, broker_freezes)
    )


def _alive(scene: Scene) -> list[WorkerProcess]:
    return [worker for worker in scene.workers if worker.process.poll() is None]


def _other(scene: Scene) -> WorkerProcess:
    return _alive(scene)[1]  # the first one is to survive


async def _measure(worker: WorkerProcess, prints: list[Footprint], began: float) -> None:
    while True:
        prints.append(await asyncio.to_thread(_footprint, worker, time.monotonic() - began))
        await asyncio.sleep(5)


def _footprint(worker: WorkerProcess, at_s: float) -> Footprint:
    process = Path(f"/proc/{worker.process.pid}")
    tasks = next(line for line in worker.metrics().splitlines() if line.startswith("gate_event_loop_tasks "))
    return Footprint(
        at_s=at_s,
        memory_mb=int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        files=len(list((process / "fd").iterdir())),
        tasks=int(float(tasks.split()[1])),
    )


def _compare(scene: Scene, idle: Footprint, prints: list[Footprint], end: Footprint) -> None:
    """Complain of what has grown: memory since it was warm, file handles and tasks since there was nothing to do."""
    warm = [taken for taken in prints if taken.at_s > WARM_S * scene.scale]
    half = len(warm) // 2
    before, after = (statistics.median(taken.memory_mb for taken in part) for part in (warm[:half], warm[half:]))
    scene.facts["memory"] = (
        f"{idle.memory_mb:.0f} MiB idle, {before:.0f} warm, {after:.0f} in the last part, {end.memory_mb:.0f} at the end"
    )
    scene.facts["file handles"] = f"{idle.files} before, {end.files} after"
    scene.facts["tasks"] = f"{idle.tasks} before, {end.tasks} after, {max(taken.tasks for taken in prints)} at most"
    for what, then, now, limit in (
        ("memory in MiB", before, after, before * GROWTH_MAX),
        ("file handles", idle.files, end.files, SLACK),
        ("tasks", idle.tasks, end.tasks, SLACK),
    ):
        if now - then > limit:
            scene.complaints.append(f"{what} grew from {then:.0f} to {now:.0f}")
