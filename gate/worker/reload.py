"""Changes the chain of a running worker: loads and checks it whole, then switches between two attempts, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from gate import log as logs
from gate.chain.runner import Chain
from gate.chain.threads import DaemonThreads
from gate.errors import ChainError
from gate.metrics import Metrics

LOAD_TIMEOUT_S: Final = 30.0
"""A file that is still being run after so long will not become an action."""

LOOK_S: Final = 0.5
"""How often the files are looked at. File systems that tell of changes do so by folder and not all of them do; looking works
everywhere, sees through the symbolic links by which Kubernetes swaps a whole folder, and costs a thread two milliseconds."""

log = logs.get(__name__)


class Decides(Protocol):
    """Whoever decides by a chain that can be changed (`gate.worker.worker.Worker` does)."""

    @property
    def chain(self) -> Chain:
        """The chain that the next attempt is decided by."""

    async def change_chain(self, chain: Chain) -> None:
        """Decide by another chain from the next attempt on."""


class ChainReloader:
    """Loads the chain anew whenever `request` was called; a chain with problems is refused and the old one goes on.

    With `files`, a change of one of them is a request; they count as loaded when this is made.
    """

    def __init__(self, load: Callable[[], Chain], metrics: Metrics, *, files: Callable[[], Iterable[Path]] | None = None) -> None:
        self._load = load
        self._metrics = metrics
        self._files = files
        self._seen = {} if files is None else _looks(files)
        self._wanted = asyncio.Event()
        self._threads = DaemonThreads(2)  # neither a slow disk nor what a file does at load may hold up attempts, or the exit

    def __repr__(self) -> str:
        return f"<ChainReloader {'asked' if self._wanted.is_set() else 'idle'}>"

    def request(self) -> None:
        """Ask for the chain to be loaded anew; asking twice at once is asking once."""
        self._wanted.set()

    @asynccontextmanager
    async def serving(self, worker: Decides) -> AsyncIterator[None]:
        """Do what is requested while the context is open."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._serve(worker), name="reload chain")]

            if self._files is not None:
                running.append(tasks.create_task(self._watch(self._files), name="watch chain"))

            try:
                yield
            finally:
                for task in running:
                    task.cancel()

    async def _serve(self, worker: Decides) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            result = await self._reload(worker)
            self._metrics.chain_reloads_total.labels(result).inc()

    async def _watch(self, files: Callable[[], Iterable[Path]]) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    seen = await self._threads.call(_looks, files)
            except TimeoutError:  # a pipe that nobody writes to, a network that is gone: look again
                continue

            if self._seen != seen:
                self._seen = seen
                self.request()

    async def _reload(self, worker: Decides) -> str:
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                chain = await self._threads.call(self._load)
        except ChainError as error:
            return _refuse(worker.chain, error.problems)
        except TimeoutError:
            return _refuse(worker.chain, [f"not loaded within {LOAD_TIMEOUT_S:g} s; move what takes so long into the action"])
        except Exception as error:  # noqa: BLE001 - whatever stands in a file that somebody changed must not end the worker
            return _refuse(worker.chain, [f"loading it raised {type(error).__name__}; `gate check` shows the traceback"])

        if chain.same_as(worker.chain):
            chain.release()
            log.info("chain_unchanged", chain=chain.hash)
            return "unchanged"

        before = worker.chain.hash
        await worker.change_chain(chain)
        log.info("chain_changed", chain=chain.hash, before=before, actions=[action.name for action in chain.actions])
        return "changed"


def _refuse(goes_on: Chain, problems: Iterable[str]) -> str:
    for problem in problems:
        log.error("chain_refused", problem=problem, goes_on=goes_on.hash)

    return "refused"


Looks = dict[Path, tuple[int, int, int] | None]
"""What tells versions of files apart: inode, size and time of change; None for a file that is not there."""


def _looks(files: Callable[[], Iterable[Path]]) -> Looks:
    found: Looks = {}

    for path in files():
        found[path] = None
        with contextlib.suppress(OSError):
            stat = path.stat()
            found[path] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    return found
