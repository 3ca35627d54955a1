"""One run under a fault: fresh topics, worker processes, askers, and what the checker says of what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.errors import KafkaError

from gate.config import Settings
from gate.kafka.topics import create_topics
from tests.integration.peers import WorkerProcess, lag, members

from . import grants
from .checker import Violation, check
from .evidence import Evidence, Outcome, collect, dump
from .failing import POINTS
from .figures import Figures, figures
from .load import Ask, Load, as_people_do
from .watching import CHAIN, RecordingClient, Watch, now_ms, side_effects

ROOT: Final = Path(__file__).parents[2]
QUIET_S: Final = 120.0
"""How long a run may take to become quiet: the longest that an attempt may wait for, and some."""

UNCLEAN: Final = ("Traceback (most recent call last)", "was never retrieved", "was never awaited", "Task was destroyed")
"""What no log of a worker holds, whatever was done to it."""

COMPLAINTS_SHOWN: Final = 5


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of one fault: a row of the table."""

    fault: str
    row: str
    seconds: float
    figures: Figures | None = None  # None: the run broke before there was evidence
    violations: tuple[Violation, ...] = ()
    complaints: tuple[str, ...] = ()  # what else is wrong: logs, exit codes, a run that did not become quiet, its own failure
    facts: Mapping[str, object] = field(default_factory=dict)  # what this fault has to say besides

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations and not self.complaints

    @property
    def verdict(self) -> str:
        """Say it in a word or two."""
        broken = sorted({violation.invariant.name for violation in self.violations})
        return "held" if self.held else " ".join([f"BROKEN {', '.join(broken)}".strip(), *self.complaints[:1]])


class Scene:
    """What a fault has to play with. Faults start their workers themselves; everything ends and is checked with `report`."""

    def __init__(self, settings: Settings, folder: Path, kafka: Any, *, scale: float = 1.0, slack_ms: int = 1000) -> None:
        assert settings.bootstrap_servers
        self.settings = settings
        self.bootstrap = settings.bootstrap_servers
        self.folder = folder
        self.kafka = kafka  # the broker or cluster; only faults that have one of their own may touch it
        self.scale = scale
        self.effects = folder / "effects.jsonl"
        self.watch = Watch(settings)
        self.clients: list[RecordingClient] = []
        self.workers: list[WorkerProcess] = []  # all that were ever started
        self.facts: dict[str, object] = {}
        self.complaints: list[str] = []
        self.partitions: dict[str, tuple[int, ...]] = {}  # that topics had before their count was changed
        self.afterwards: list[Callable[[Evidence], None]] = []  # looks at the evidence, and complains
        self.numbers = itertools.count()  # of asks: each load goes on where the last one ended
        self._slack_ms = slack_ms

    # -- Life -------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.effects.unlink(missing_ok=True)  # of a run before this one in a folder that is kept
        await self.watch.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.watch.__aexit__(kind, error, trace)
        for client in self.clients:
            await client.close()
        for worker in self.workers:
            worker.close()

    async def make_topics(self, *, partitions: int = 4, replication: int = 1) -> None:
        """Make the four topics."""
        await create_topics(self.settings, self.bootstrap, partitions=partitions, replication=replication)

    # -- Workers ----------------------------------------------------------------------------------------------------------

    async def worker(
        self, *, settings: Settings | None = None, failpoint: str = "", skew_s: float = 0.0, ready: bool = True
    ) -> WorkerProcess:
        """Start a worker; with `point:times` it dies there, with `skew_s` its clock is fast by so much."""
        assert not failpoint or failpoint.partition(":")[0] in POINTS
        worker = WorkerProcess(
            settings or self.settings,
            self.folder,
            chain=CHAIN,
            program=(sys.executable, "-m", "tests.faults.failing"),
            PYTHONPATH=str(ROOT),
            FAULTS_EFFECTS=str(self.effects),
            FAULTS_FAILPOINT=failpoint,
            FAULTS_SKEW_S=str(skew_s),
        )
        self.workers.append(worker)
        self.watch.workers.append(worker)
        if ready:
            await worker.ready(within_s=60)
        return worker

    async def start(self, count: int, **options: Any) -> list[WorkerProcess]:
        """Start workers at once, and wait until all are in the group."""
        started = await asyncio.gather(*(self.worker(**options) for _ in range(count)))
        await self.joined(sum(worker.process.poll() is None for worker in self.workers))
        return started

    async def worker_ready(self, worker: WorkerProcess) -> None:
        """Wait until a worker takes attempts."""
        await worker.ready(within_s=60)

    async def joined(self, count: int) -> None:
        """Wait until the group has so many members."""
        await self.until(lambda: self._members(count), f"{count} members in the group")

    async def _members(self, count: int) -> bool:
        return await members(self.settings) == count

    async def kill(self, worker: WorkerProcess, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill a worker, and note that all it had in flight is gone."""
        self.watch.crashed(worker, number.name)
        await self.end(worker, number, code=-number)

    async def end(self, worker: WorkerProcess, number: signal.Signals = signal.SIGTERM, *, code: int = 0) -> None:
        """Send a signal and wait for the end, which must be with that exit code."""
        worker.send(number)
        await self.ended(worker, code=code)

    async def ended(self, worker: WorkerProcess, *, code: int = 0, within_s: float = 60.0) -> None:
        """Wait until a worker has ended by what was done to it before."""
        found = await worker.ended(within_s=within_s)
        if found != code:
            self.complaints.append(f"a worker ended with {found} instead of {code}")

    async def died(self, worker: WorkerProcess) -> None:
        """Wait until a worker has died at its failpoint."""
        await self.ended(worker, code=-signal.SIGKILL)
        self.watch.crashed(worker, "failpoint")

    # -- Asking -----------------------------------------------------------------------------------------------------------

    async def client(self, settings: Settings | None = None) -> RecordingClient:
        """Start a client."""
        settings = settings or self.settings
        client = RecordingClient.from_settings(settings, settings.bootstrap_servers or "")
        await client.start()
        self.clients.append(client)
        return client

    async def load(self, *, rate: float = 100.0, ask: Ask = as_people_do, client: RecordingClient | None = None) -> Load:
        """Return people who ask at a rate: `async with await scene.load():`."""
        return Load(client or await self.client(), rate=rate, ask=ask, numbers=self.numbers)

    @property
    def answered(self) -> int:
        """How many asks were answered so far."""
        return sum(ask.outcome is Outcome.OK for client in self.clients for ask in client.history)

    async def more_answers(self, count: int) -> None:
        """Wait until so many more asks are answered."""
        goal = self.answered + count
        await self.until(lambda: self.answered >= goal, f"{count} more answers")

    async def flow(self, seconds: float) -> None:
        """Let things go on for a while: so many seconds in a full run, fewer in a short one."""
        await asyncio.sleep(seconds * self.scale)

    # -- Topics -----------------------------------------------------------------------------------------------------------

    async def forbid_writes(self, topic: str) -> None:
        """Make a topic refuse every record: nobody has the right to write to it."""
        await grants.forbid_writes(self.bootstrap, topic)

    async def allow_writes(self, topic: str) -> None:
        """Let a topic take records again."""
        await grants.allow_writes(self.bootstrap, topic)
        self.mended()

    def mended(self) -> None:
        """Note that what held answers up is over."""
        self.watch.mended.append(now_ms())

    async def until(self, check: Callable[[], bool | Awaitable[bool]], what: str, *, within_s: float = QUIET_S) -> None:
        """Wait until something is so; while no broker answers it is not."""
        deadline = time.monotonic() + within_s
        while True:
            with contextlib.suppress(KafkaError, OSError):
                found = check()
                if found if isinstance(found, bool) else await found:
                    return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(0.05)

    # -- The end ----------------------------------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Wait until everything that was asked is committed."""
        await self.until(self._nothing_left, "every attempt is committed")

    async def _nothing_left(self) -> bool:
        return not any((await lag(self.settings)).values())

    async def report(self, fault: str, row: str, began: float) -> Report:
        """Wait for quiet, end the workers, collect, check."""
        await self.quiet()
        for worker in self.workers:
            if worker.process.poll() is None:
                await self.end(worker)
        self._look_into_logs()
        seen = self.watch.observed(
            asks=tuple(ask for client in self.clients for ask in client.history),
            side_effects=side_effects(self.effects),
            partitions=self.partitions,
        )
        evidence = await collect(self.settings, seen, slack_ms=self._slack_ms)
        dump(evidence, self.folder / "evidence.json")
        for look in self.afterwards:
            look(evidence)
        return Report(
            fault=fault,
            row=row,
            seconds=time.monotonic() - began,
            figures=figures(evidence),
            violations=tuple(check(evidence)),
            complaints=tuple(self.complaints),
            facts=self.facts,
        )

    def _look_into_logs(self) -> None:
        for worker in self.workers:
            log = worker.log
            self.complaints += [f"the log of worker {worker.process.pid} has {sign!r}" for sign in UNCLEAN if sign in log]


def memory_bytes(worker: WorkerProcess) -> int:
    """Return what a worker has resident."""
    return int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(worker: WorkerProcess) -> int:
    """Return how many file handles a worker has open, connections included."""
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))
