"""What must be noted while a run goes on: a client's history, commits and members, the gauge of what is in flight."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gate.client import Arrival, GateClient, Waiters
from gate.config import Settings
from gate.errors import AskTimeout, GateError
from gate.kafka.attempts import NotTaken
from gate.model.decision import Decision
from gate.model.wire import SPRING_CORRELATION_ID, Message, Record
from tests.integration.peers import WorkerProcess

from .evidence import Asked, Commit, Crash, InFlight, Observed, Outcome, Place, SideEffect, sample

CHAIN = Path(__file__).parent / "chain"
"""A chain whose first action writes down that it runs, into the file that the worker's FAULTS_EFFECTS names."""


def now_ms() -> int:
    """Return the time as evidence has it."""
    return int(time.time() * 1000)


def side_effects(path: Path) -> tuple[SideEffect, ...]:
    """Read what the actions have written down; a last line that a kill has cut is no execution's."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return tuple(SideEffect(**json.loads(line)) for line in lines if line.endswith("\n"))


class RecordingClient(GateClient):
    """The client as it is, with its history: asks are made with `try_to_ask`, which never raises what an ask may come to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiters: _RecordingWaiters = _RecordingWaiters(self._waiters.prefix.decode().removesuffix("-"))
        self._asks: dict[bytes, Asked] = {}
        self._written: dict[bytes, Place] = {}
        self._completions: dict[bytes, list[Place]] = defaultdict(list)
        self._in_doubt: Counter[bytes] = Counter()  # by correlation id, how often it was sent and not refused

    async def start(self) -> None:
        """Connect."""
        await super().start()
        assert self._sender is not None
        sender, send = self._sender, self._sender.send

        async def recorded(message: Message) -> asyncio.Future[Any]:
            correlation_id = dict(message.headers)[SPRING_CORRELATION_ID]
            self._in_doubt[correlation_id] += 1
            try:
                sent = await send(message)
            except NotTaken as failure:
                self._in_doubt[correlation_id] -= failure.refused
                raise
            sent.add_done_callback(partial(self._settled, correlation_id))
            return sent

        sender.send = recorded  # type: ignore[method-assign] # what it is told by the broker is seen nowhere else

    def _settled(self, correlation_id: bytes, sent: asyncio.Future[Any]) -> None:
        if sent.cancelled():
            return
        if (error := sent.exception()) is not None:
            self._in_doubt[correlation_id] -= NotTaken(error).refused
        elif (at := sent.result()).offset >= 0:
            self._written[correlation_id] = Place(topic=at.topic, partition=at.partition, offset=at.offset)

    def _arrive(self, record: Record) -> None:
        self._waiters.answered = None
        super()._arrive(record)
        if self._waiters.answered is not None:
            place = Place(topic=record.topic, partition=record.partition, offset=record.offset)
            self._completions[self._waiters.answered].append(place)

    async def try_to_ask(self, event: Mapping[str, Any], *, attempt_id: str, timeout_s: float) -> Decision | None:
        """Ask, and note what it came to; return the decision, or None where there is no answer."""
        correlation_id = self._waiters.prefix + str(self._waiters.asked + 1).encode()  # what `ask` takes before it waits
        sent_ms = now_ms()
        decision, outcome = None, Outcome.UNKNOWN
        try:
            decision = await self.ask(event, attempt_id=attempt_id, timeout_s=timeout_s)
            outcome = Outcome.OK
        except AskTimeout:
            pass
        except GateError:
            if not self._in_doubt[correlation_id]:
                outcome = Outcome.FAILED
        finally:
            self._asks[correlation_id] = Asked(
                attempt_id=attempt_id, correlation_id=correlation_id, outcome=outcome, sent_ms=sent_ms, ended_ms=now_ms()
            )
        return decision

    @property
    def history(self) -> tuple[Asked, ...]:
        """All asks that have ended."""
        return tuple(
            replace(ask, written=self._written.get(correlation_id), completions=tuple(self._completions.get(correlation_id, ())))
            for correlation_id, ask in self._asks.items()
        )


class _RecordingWaiters(Waiters[asyncio.Future[Decision]]):
    """The client's waiters; `answered` is the one that the last reply completed."""

    answered: bytes | None = None

    @property
    def asked(self) -> int:
        """How many correlation ids were given out."""
        return self._number

    def arrive(self, correlation_id: bytes, value: bytes) -> tuple[Arrival, asyncio.Future[Decision] | None]:
        """Say what a reply is."""
        arrival, waiter = super().arrive(correlation_id, value)
        if waiter is not None and not waiter.done():
            self.answered = correlation_id
        return arrival, waiter


class Watch:
    """Looks at the group and at the workers again and again, while the context is open."""

    def __init__(self, settings: Settings, workers: Iterable[WorkerProcess] = (), *, every_s: float = 0.05) -> None:
        self.settings = settings
        self.workers = list(workers)  # may grow while it watches
        self.crashes: list[Crash] = []
        self.mended: list[int] = []  # ms
        self._every_s = every_s
        self._commits: list[Commit] = []
        self._last: dict[int, Commit] = {}
        self._in_flight: list[InFlight] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._watch_group(), name="watch the group"),
            asyncio.create_task(self._watch_workers(), name="watch the workers"),
        ]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def crashed(self, worker: WorkerProcess, how: str) -> None:
        """Note a fault that takes away what a worker has in flight."""
        self.crashes.append(Crash(at_ms=now_ms(), worker=str(worker.process.pid), how=how))

    def observed(self, **more: Any) -> Observed:
        """Return what was seen; `more` is what others have noted (`asks`, `side_effects`, …)."""
        return Observed(
            commits=tuple(self._commits),
            crashes=tuple(self.crashes),
            in_flight=tuple(self._in_flight),
            mended=tuple(self.mended),
            **more,
        )

    async def _watch_group(self) -> None:
        while True:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.bootstrap_servers, request_timeout_ms=3000)
            try:
                await admin.start()
                while True:
                    for commit in await sample(admin, self.settings):
                        self._note(commit)
                    await asyncio.sleep(self._every_s)
            except (KafkaError, OSError):  # an outage is part of the run: nothing can be seen, and nothing is committed
                await asyncio.sleep(self._every_s)
            finally:
                with suppress(KafkaError, OSError):
                    await admin.close()

    def _note(self, commit: Commit) -> None:
        last = self._last.get(commit.partition)
        if last is None or replace(last, seen_ms=commit.seen_ms) != commit:
            self._commits.append(commit)
            self._last[commit.partition] = commit

    async def _watch_workers(self) -> None:
        while True:
            for worker in tuple(self.workers):
                if worker.process.poll() is None and (attempts := await asyncio.to_thread(_in_flight, worker)) is not None:
                    self._in_flight.append(InFlight(at_ms=now_ms(), worker=str(worker.process.pid), attempts=attempts))
            await asyncio.sleep(0.5)  # the worker sets its gauge as often


def _in_flight(worker: WorkerProcess) -> int | None:
    try:
        with urllib.request.urlopen(f"{worker.url}/metrics", timeout=1) as response:
            lines = response.read().decode().splitlines()
    except (OSError, ValueError, urllib.error.URLError):
        return None  # not listening yet, or stopped
    return next((int(float(line.split()[1])) for line in lines if line.startswith("gate_in_flight ")), None)
