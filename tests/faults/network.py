"""Faults of the network between the gate, its clients and the broker: answers lost, connections late, reset, silent, refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from gate.config import Settings
from gate.model.wire import SPRING_CORRELATION_ID

from .evidence import Evidence, Outcome
from .load import patient
from .matrix import fault
from .proxy import Api, ProxiedKafka, Proxy
from .scene import Scene


@asynccontextmanager
async def _proxied(scene: Scene) -> AsyncIterator[tuple[Proxy, Settings]]:
    """Return a proxy and settings that go through it; whoever used them has ended in order when it goes."""
    async with scene.kafka.proxy() as proxy:
        scene.afterwards.append(partial(everybody_told, scene))
        yield proxy, scene.settings.model_copy(update={"bootstrap_servers": proxy.address})
        await proxy.heal()
        await scene.quiet()
        for client in scene.clients:
            await client.close()
        for worker in scene.workers:
            if worker.process.poll() is None:
                await scene.end(worker)
    scene.facts.update(proxy.counts)


def everybody_told(scene: Scene, evidence: Evidence) -> None:
    """Complain of those who waited longer than the fault lasted and were told nothing."""
    untold = sum(ask.outcome is Outcome.UNKNOWN and ask.ended_ms - ask.sent_ms > 1000 for ask in evidence.asks)
    if untold:
        scene.complaints.append(f"{untold} askers were told nothing although they waited longer than the fault lasted")


# -- Lost answers -------------------------------------------------------------------------------------------------------


async def _lost(scene: Scene, *, what: str, held: bool = False) -> None:
    """Have the workers append to a topic and not hear of it, again and again."""
    topic = getattr(scene.settings, f"{what}_topic")
    async with _proxied(scene) as (proxy, through):
        await scene.start(2, settings=through)
        async with await scene.load(client=await scene.client(through)):
            await scene.more_answers(100)
            loss = proxy.lose(topic=topic, share=1.0 if held else 0.1, times=2 if held else None, held=held)
            await scene.flow(10)
            await scene.until(lambda: loss.lost >= (2 if held else 10), "acknowledgements are lost")
            await proxy.heal()
            await scene.more_answers(100)
    scene.facts["lost"] = loss.lost
    scene.afterwards.append(partial(_count_unheard if held and what == "attempts" else _count_copies, scene, what))


def _count_copies(scene: Scene, what: str, evidence: Evidence) -> None:
    """Complain where nothing stands there twice: then nothing was shown."""
    name = "source" if what == "decisions" else SPRING_CORRELATION_ID
    copies = Counter(record.header(name) for record in getattr(evidence, what))
    scene.facts["second copies"] = copies.total() - len(copies)
    if copies.total() == len(copies):
        scene.complaints.append(f"no record of the {what} stands there twice: no acknowledgement was lost that mattered")


def _count_unheard(scene: Scene, _what: str, evidence: Evidence) -> None:
    """Complain where nobody was answered without having heard that the attempt is there: answers need no acknowledgement."""
    scene.facts["answered unacknowledged"] = sum(ask.outcome is Outcome.OK and ask.written is None for ask in evidence.asks)
    if not scene.facts["answered unacknowledged"]:
        scene.complaints.append("nobody was answered whose attempt was not acknowledged")


for _what in ("replies", "decisions", "attempts"):
    fault(f"acknowledgements of {_what} are lost", row="16", kafka=ProxiedKafka)(partial(_lost, what=_what))
    fault(f"acknowledgements of {_what} never come", row="16", kafka=ProxiedKafka, default_timeout_ms=60_000)(
        partial(_lost, what=_what, held=True)
    )


@fault("answers to commits, heartbeats and fetches are lost", row="16", kafka=ProxiedKafka)
async def answers_lost(scene: Scene) -> None:
    """The group goes on: a commit that nobody heard of is one, a heartbeat is sent again, records are fetched again."""
    async with _proxied(scene) as (proxy, through):
        await scene.start(2, settings=through)
        async with await scene.load():
            await scene.more_answers(100)
            losses = [
                proxy.lose(api, share=share) for api, share in ((Api.OFFSET_COMMIT, 0.5), (Api.HEARTBEAT, 0.2), (Api.FETCH, 0.05))
            ]
            await scene.flow(15)
            await scene.until(lambda: all(loss.lost >= 3 for loss in losses), "answers are lost")
            await proxy.heal()
            await scene.more_answers(100)


# -- Late, reset, silent ------------------------------------------------------------------------------------------------


@fault("200 ms latency each way and 2 % resets", row="21", kafka=ProxiedKafka, slack_ms=3000)
async def slow_and_shaky(scene: Scene) -> None:
    """Workers and clients far away on a bad line: everything takes its time, nothing is lost."""
    async with _proxied(scene) as (proxy, through):
        proxy.latency_s, proxy.jitter_s = 0.2, 0.05
        await scene.start(2, settings=through)
        client = await scene.client(through)
        proxy.resets = 0.02
        async with await scene.load(client=client, rate=60):
            await scene.more_answers(100)
            await scene.flow(30)
            await scene.until(lambda: proxy.counts["resets"] >= 5, "connections are reset")


@fault("SIGTERM to one worker after the other, 50 ms away", row="3", kafka=ProxiedKafka)
async def stopped_far_away(scene: Scene) -> None:
    """The second is told to stop while it takes over from the first: both go within their grace."""
    async with _proxied(scene) as (proxy, through):
        proxy.latency_s = 0.05
        for turn in range(max(2, round(4 * scene.scale))):
            pair = await scene.start(2, settings=through)
            async with await scene.load(rate=40):
                await scene.more_answers(50)
            await scene.end(pair[0])
            await asyncio.sleep(0.1 * (turn + 1))
            began = time.monotonic()
            await scene.end(pair[1])
            took = time.monotonic() - began
            scene.facts[f"stop {turn + 1}"] = f"{took:.1f} s"
            if took > scene.settings.shutdown_grace_s:
                scene.complaints.append(f"a worker took {took:.1f} s to stop; its grace is {scene.settings.shutdown_grace_s:g} s")


@fault("all connections are reset four times a second", row="21", kafka=ProxiedKafka)
async def resets(scene: Scene) -> None:
    """Nobody keeps a connection for long; whoever was about to write on one finds it closed."""
    async with _proxied(scene) as (proxy, through):
        await scene.start(2, settings=through)
        async with await scene.load(client=await scene.client(through)):
            await scene.more_answers(100)
            for _ in range(max(20, round(80 * scene.scale))):
                await asyncio.sleep(0.25)
                proxy.reset_all()
            scene.mended()
            await scene.more_answers(200)


async def _cut_off(scene: Scene, *, other: bool, refuse: bool = False) -> None:
    """Cut workers off for longer than their session; what they had sent arrives when it is over, as TCP would have it."""
    async with _proxied(scene) as (proxy, through):
        cut = await scene.start(1 if other else 2, settings=through)
        if other:
            await scene.start(1)
        async with await scene.load(rate=60, ask=patient(60)):
            await scene.more_answers(100)
            for worker in cut:
                scene.watch.crashed(worker, "cut off")
            if refuse:
                proxy.refuse()
                proxy.reset_all()
            else:
                proxy.blackhole()
            began = time.monotonic()
            await scene.until(lambda: all(worker.readiness()[0] == 503 for worker in cut), "/readyz says it")
            scene.facts["not ready after"] = f"{time.monotonic() - began:.1f} s"
            await scene.flow(max(0.0, 20 - (time.monotonic() - began)))
            await proxy.heal()
            scene.mended()
            began = time.monotonic()
            for worker in cut:
                await scene.worker_ready(worker)
            scene.facts["ready again after"] = f"{time.monotonic() - began:.1f} s"
            await scene.joined(2)
            await scene.more_answers(200)


for _name, _other, _refuse in (
    ("a black hole of 20 s before one of two workers", True, False),
    ("a black hole of 20 s before all workers", False, False),
    ("connections refused for 20 s to all workers", False, True),
):
    fault(_name, row="21", kafka=ProxiedKafka, default_timeout_ms=90_000)(partial(_cut_off, other=_other, refuse=_refuse))


@fault("a black hole of 20 s before the clients", row="21", kafka=ProxiedKafka)
async def clients_cut_off(scene: Scene) -> None:
    """Askers do not know what became of what they asked; whoever asks again with the same id is told."""
    async with _proxied(scene) as (proxy, through):
        await scene.start(2)
        async with await scene.load(client=await scene.client(through), rate=60, ask=patient(60)):
            await scene.more_answers(100)
            proxy.blackhole()
            await scene.flow(20)
            before = scene.answered
            await proxy.heal()
            scene.mended()
            began = time.monotonic()
            await scene.until(lambda: scene.answered > before, "somebody is told")
            scene.facts["first answer after it"] = f"{time.monotonic() - began:.1f} s"
            await scene.more_answers(200)
