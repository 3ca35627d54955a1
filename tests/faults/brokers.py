"""Faults of the one broker there is: restarted, killed, frozen."""

from __future__ import annotations

import asyncio
import time

from .load import patient
from .matrix import fault, own_broker
from .scene import Scene


@fault("the broker restarts cleanly", row="6", kafka=own_broker(), default_timeout_ms=60_000)
async def restarted(scene: Scene) -> None:
    """Everything that it had taken is answered; nobody has to be restarted."""
    await scene.start(2)
    async with await scene.load(rate=60, ask=patient(60)):
        await scene.more_answers(100)
        await asyncio.to_thread(scene.kafka.restart)
        scene.mended()
        await scene.more_answers(200)


@fault("the broker is killed with -9 and away for 30 s", row="6", kafka=own_broker(), default_timeout_ms=90_000)
async def killed(scene: Scene) -> None:
    """Longer than every session: the group is made anew, clients wait."""
    await scene.start(2)
    async with await scene.load(rate=40, ask=patient(90)):
        await scene.more_answers(100)
        for worker in scene.workers:
            scene.watch.crashed(worker, "outage")  # its session ends: what it has in flight runs again
        await asyncio.to_thread(scene.kafka.kill)
        await scene.flow(30)
        await asyncio.to_thread(scene.kafka.start)
        scene.mended()
        began = time.monotonic()
        await scene.more_answers(1)
        scene.facts["first answer after the broker's start"] = f"{time.monotonic() - began:.1f} s"
        await scene.more_answers(200)


@fault("the broker is frozen for 20 s", row="6", kafka=own_broker(), default_timeout_ms=90_000)
async def frozen(scene: Scene) -> None:
    """Its ports accept and nothing answers: every client notices by itself."""
    await scene.start(2)
    async with await scene.load(rate=40, ask=patient(90)):
        await scene.more_answers(100)
        for worker in scene.workers:
            scene.watch.crashed(worker, "outage")
        await asyncio.to_thread(scene.kafka.pause)
        await scene.flow(20)
        await asyncio.to_thread(scene.kafka.resume)
        scene.mended()
        await scene.more_answers(200)
