"""Faults of workers and clients: killed, frozen, stopped, too many, too slow, with a wrong clock."""

from __future__ import annotations

import asyncio
import signal
from functools import partial

from gate.model.wire import CAUSE, SPRING_CORRELATION_ID
from tests.integration.peers import WorkerProcess

from .evidence import Evidence, Outcome
from .load import Load, as_people_do, attempt, once
from .matrix import fault
from .scene import Scene, memory_bytes
from .watching import RecordingClient

# -- Killed -------------------------------------------------------------------------------------------------------------


@fault("kill -9 of one of two workers", row="1")
async def killed(scene: Scene) -> None:
    """Twice: one dies with attempts in its chain, the other takes over, a new one joins."""
    workers = await scene.start(2)
    async with await scene.load():
        for victim in workers:
            await scene.more_answers(100)
            await scene.kill(victim)
            await scene.worker()
            await scene.flow(5)


async def _killed_at(scene: Scene, point: str) -> None:
    """Die at a point under load while another worker is there; what was in flight is answered by that one."""
    doomed = await scene.worker(failpoint=f"{point}:25")
    await scene.worker()
    async with await scene.load():
        await scene.died(doomed)
        await asyncio.sleep(scene.settings.session_timeout_ms / 1000)
        await scene.more_answers(100)


for _point, _row, _short in (
    ("before_append", "1", False),
    ("after_append", "2a", True),
    ("before_reply", "2a", False),
    ("after_reply", "2b", True),
    ("before_commit", "2b", False),
    ("after_commit", "1", False),
):
    fault(f"kill -9 {_point.replace('_', ' ')}", row=_row, short=_short, session_timeout_ms=3000)(
        partial(_killed_at, point=_point)
    )


@fault("kill -9 of the only worker", row="1", session_timeout_ms=3000)
async def killed_alone(scene: Scene) -> None:
    """Nobody is there for a while; the next one reads the ledger back and answers what waits."""
    (only,) = await scene.start(1)
    async with await scene.load(rate=60):
        await scene.more_answers(100)
        await scene.kill(only)
        await scene.flow(5)
        await scene.worker()
        scene.mended()
        await scene.more_answers(100)


# -- Told to stop -------------------------------------------------------------------------------------------------------


@fault("SIGTERM under load", row="3", short=True)
async def told_to_stop(scene: Scene) -> None:
    """A rolling restart: nothing is lost, nothing runs again, nothing is answered twice."""
    workers = await scene.start(2)
    async with await scene.load():
        for worker in workers:
            await scene.more_answers(100)
            await scene.end(worker)
            await scene.worker()
            await scene.flow(2)


@fault("SIGTERM with a stuck action", row="4", shutdown_grace_s=3, default_timeout_ms=20_000)
async def stuck(scene: Scene) -> None:
    """The worker goes when its grace is over; what was stuck is decided elsewhere, by its own time limit."""
    first, _ = await scene.start(2)
    client = await scene.client()
    async with Load(client, rate=50, ask=as_people_do, numbers=scene.numbers), asyncio.TaskGroup() as asks:
        for number in range(8):
            asks.create_task(client.try_to_ask(attempt("stuck"), attempt_id=f"stuck-{number}", timeout_s=20))
        await scene.more_answers(20)
        scene.watch.crashed(first, "SIGTERM")  # what is stuck there runs again elsewhere
        await scene.end(first)


# -- Frozen and back ----------------------------------------------------------------------------------------------------


@fault("SIGSTOP beyond the session, then SIGCONT (a zombie)", row="5")
async def zombie(scene: Scene) -> None:
    """The frozen one wakes with attempts in flight that others have decided; its late decisions lose."""
    frozen, _ = await scene.start(2)
    async with await scene.load():
        await scene.more_answers(100)
        scene.watch.crashed(frozen, "SIGSTOP")
        frozen.send(signal.SIGSTOP)
        await scene.flow(20)
        frozen.send(signal.SIGCONT)
        await scene.more_answers(200)
        await scene.joined(2)


@fault("blocked event loop for 15 s", row="17", slack_ms=16_000, default_timeout_ms=40_000)
async def blocked(scene: Scene) -> None:
    """An action that blocks loses its worker the group; it comes back, nothing is lost."""
    workers = await scene.start(2)
    client = await scene.client()
    async with Load(client, rate=50, ask=as_people_do, numbers=scene.numbers):
        await scene.more_answers(50)
        scene.watch.crashed(workers[0], "blocked")
        scene.watch.crashed(workers[1], "blocked")  # whoever has it; and the other one when it is taken over
        await client.try_to_ask(attempt("block15"), attempt_id="block", timeout_s=40)
        await scene.more_answers(100)
        await scene.joined(2)


# -- Coming and going ---------------------------------------------------------------------------------------------------


@fault("rebalance storm: a worker comes or goes every 2 s", row="8")
async def storm(scene: Scene) -> None:
    """The group never rests; attempts are answered all the same."""
    await scene.start(2)
    guests: list[WorkerProcess] = []
    async with await scene.load(rate=60):
        for _ in range(max(3, round(10 * scene.scale))):
            guests.append(await scene.worker(ready=False))
            await asyncio.sleep(2)
            if len(guests) > 1:
                await scene.worker_ready(guests[0])
                await scene.end(guests.pop(0))
        for guest in guests:
            await scene.worker_ready(guest)


@fault("a slow attempt among fast ones", row="9", short=True)
async def slow(scene: Scene) -> None:
    """Attempts of 4 s in every partition; the others do not wait for them."""
    await scene.start(1)
    slow_client, client = await scene.client(), await scene.client()
    async with (
        Load(client, rate=60, ask=partial(once, mailbox="zoe"), numbers=scene.numbers),
        asyncio.TaskGroup() as asks,
    ):
        for number in range(12):
            asks.create_task(slow_client.try_to_ask(attempt("wait4"), attempt_id=f"slow-{number}", timeout_s=15))
    waits = sorted((ask.ended_ms - ask.sent_ms) / 1000 for ask in client.history)
    scene.facts["longest wait of the others"] = f"{waits[-1]:.2f} s"
    scene.facts["fast"] = len(waits)


# -- Clocks -------------------------------------------------------------------------------------------------------------


@fault("clocks of two workers 5 min fast and slow", row="12")
async def skewed(scene: Scene) -> None:
    """Deadlines are judged by the brokers' clock: nothing expires early or late."""
    fast = await scene.worker(skew_s=300)
    await scene.worker(skew_s=-300)
    async with await scene.load():
        await scene.flow(6)
        await scene.kill(fast)
        await scene.worker(skew_s=300)
        await scene.flow(6)
    scene.afterwards.append(partial(_count_early, scene, fast_starts=2))


def _count_early(scene: Scene, evidence: Evidence, *, fast_starts: int) -> None:
    """Complain of attempts that expired although their askers waited, but for the first that each fast worker took.

    Nothing tells a worker the time before its first decision is acknowledged.
    """
    patient = {ask.correlation_id for ask in evidence.asks if ask.outcome is Outcome.OK}
    expired = [reply for reply in evidence.replies if reply.header(CAUSE) == b"expired"]
    early = sum(reply.header(SPRING_CORRELATION_ID) in patient for reply in expired)
    scene.facts["expired early"] = early
    if early > fast_starts:
        scene.complaints.append(f"{early} attempts expired although their askers waited 20 s")


# -- Too much -----------------------------------------------------------------------------------------------------------


async def _overload(scene: Scene) -> None:
    """10 in flight of 0.1 s each are 100/s; three times as many come. Memory stays, and the lag goes away."""
    (worker,) = await scene.start(1)
    before = memory_bytes(worker)
    async with await scene.load(rate=330, ask=partial(once, mailbox="wait0.1", patience_s=3)):
        await scene.flow(15)
        scene.facts["memory"] = f"{before >> 20} → {memory_bytes(worker) >> 20} MiB"
    scene.mended()
    await scene.quiet()
    scene.facts["told in time"] = f"{scene.answered} of {len(scene.clients[0].history)}"


fault("overload at three times capacity", row="20", max_in_flight=10)(_overload)
fault("overload, with GATE_MAX_QUEUE_MS=1000", row="20", max_in_flight=10, max_queue_ms=1000)(_overload)


@fault("50 clients start during traffic", row="19")
async def fifty_clients(scene: Scene) -> None:
    """Each asks the moment that it says it is ready; no answer passes it by."""
    await scene.start(2)

    async def start_and_ask(number: int) -> None:
        client = await scene.client()
        for turn in range(3):
            await client.try_to_ask(attempt("zoe"), attempt_id=f"client-{number}-{turn}", timeout_s=20)

    async with await scene.load(rate=50), asyncio.TaskGroup() as tasks:
        for number in range(max(10, round(50 * scene.scale))):
            tasks.create_task(start_and_ask(number))
    late = sum(ask.outcome != "ok" for client in scene.clients[1:] for ask in client.history)
    if late:
        scene.complaints.append(f"{late} asks of clients that had just started were not answered")


@fault("the same attempt asked many times at once", row="11")
async def repeated(scene: Scene) -> None:
    """Each id comes from three clients, six times at once and three times more; it is decided once."""
    await scene.start(2)
    clients = [await scene.client() for _ in range(3)]

    async def crowd(_: RecordingClient, number: int) -> None:
        event = attempt(("wait0.1", "zoe", "denied")[number % 3], number=number)
        for copies in (6, 3):
            await asyncio.gather(
                *(clients[copy % 3].try_to_ask(event, attempt_id=f"crowd-{number}", timeout_s=20) for copy in range(copies))
            )

    async with await scene.load(rate=15, ask=crowd, client=clients[0]):
        await scene.flow(10)
