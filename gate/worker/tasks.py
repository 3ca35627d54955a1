"""The tasks of a worker: none of them ends without somebody hearing of it.

Whatever runs on the event loop can cancel any task on it, actions and their libraries included. A task group takes a cancelled
task for one that has done its work, and the worker would stand still, looking healthy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn, Self

from gate import log as logs
from gate.errors import WorkerLost

log = logs.get(__name__)


class Tasks:
    """Owns tasks while the context is open; what one of them raises ends all of them and comes out of the context."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._ending = False

    def __repr__(self) -> str:
        return f"<Tasks {', '.join(sorted(task.get_name() for task in self._running)) or 'none'}>"

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending = self._ending or error is not None
        await self._group.__aexit__(kind, error, trace)

    @property
    def ending(self) -> bool:
        """Whether tasks that are cancelled now are cancelled on purpose."""
        return self._ending

    def keep(self, helper: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        """Run a helper until `end`; where somebody cancels it, it is started again."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() and not self._ending:
                log.error("task_cancelled", task=name, note="nobody had to; it is started again")
                self.keep(helper, name=name)
            else:
                self._lose(task)

        self._own(helper(), name).add_done_callback(ended)

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run a task that must come to its end: what it was doing cannot be taken up again, so cancelling it ends the worker."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                self._lose(task)
            else:
                self._fail(task)

        self._own(coro, name).add_done_callback(ended)

    def start(self, coro: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run a task that may be cancelled; its end is the caller's business, unless it raises."""
        task = self._group.create_task(coro, name=name)
        task.add_done_callback(self._fail)
        return task

    def end(self) -> None:
        """Cancel what is kept or was spawned."""
        self._ending = True
        for task in tuple(self._running):
            task.cancel()

    def _own(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _lose(self, task: asyncio.Task[None]) -> None:
        """End the worker for a task that has ended although it is still needed."""
        if not self._ending and not self._fail(task):
            self._ending = True
            what = "was cancelled" if task.cancelled() else "has ended"
            log.critical("worker_lost", task=task.get_name(), what=what, note="the process ends, so that it is started again")
            self._group.create_task(_raise(WorkerLost(f"{task.get_name()} {what}")), name="worker lost")

    def _fail(self, task: asyncio.Task[None]) -> bool:
        """Note that a task raised, which ends the group; return whether it did."""
        if task.cancelled() or (error := task.exception()) is None:
            return False
        if not self._ending:
            self._ending = True
            log.critical("worker_lost", task=task.get_name(), what=f"raised {type(error).__name__}", note="the process ends")
        return True


async def _raise(error: WorkerLost) -> NoReturn:
    raise error
