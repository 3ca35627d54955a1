"""Daemon threads for plain `def` actions, replaceable when one does not come back.

`concurrent.futures` joins its threads at exit and cannot lose one; an action may block for ever, so ours are daemons, and
one whose action overran is abandoned and another takes its place (DESIGN.md section 3). All bookkeeping happens on the
event loop; a thread only runs jobs and reports.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

MAX_LOST: Final = 256
"""Threads that do not come back and were replaced: each takes memory, and nobody can end it. Further ones keep their place."""


class _Job:
    """One call waiting for, or running in, a thread."""

    __slots__ = ("call", "context", "done", "thread")

    def __init__(
        self, call: Callable[[], object], context: Context, done: asyncio.Future[tuple[object, BaseException | None]]
    ) -> None:
        self.call = call
        self.context = context
        self.done = done
        self.thread: _Thread | None = None


class _Thread(threading.Thread):
    """Runs one job after the other until it is handed None or its job is abandoned."""

    def __init__(
        self, number: int, loop: asyncio.AbstractEventLoop, report: Callable[[_Thread, _Job, object, BaseException | None], None]
    ) -> None:
        super().__init__(name=f"action-{number}", daemon=True)
        self.replaced = False  # its job was abandoned, and another thread has its place
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = loop
        self._report = report

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            value: object = None
            error: BaseException | None = None
            try:
                value = job.context.run(job.call)
            except BaseException as raised:  # noqa: BLE001 - a foreign action; even its SystemExit harms only itself
                error = raised
            try:
                self._loop.call_soon_threadsafe(self._report, self, job, value, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del job, value, error


class DaemonThreads:
    """At most `size` threads that are not abandoned, made when needed."""

    def __init__(self, size: int) -> None:
        self.abandoned = 0  # since the start
        self.lost = 0  # of them, those that are replaced and have not come back
        self._size = size
        self._made = 0
        self._serving = 0  # threads that are idle or run a job somebody waits for
        self._idle: list[_Thread] = []
        self._waiting: deque[_Job] = deque()
        self._closed = False

    def __repr__(self) -> str:
        idle, waiting = len(self._idle), len(self._waiting)
        return f"<DaemonThreads {self._serving - idle} busy, {idle} idle, {waiting} waiting, {self.abandoned} abandoned>"

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a function in a thread, in a copy of this context; a cancelled caller abandons the thread."""
        if self._closed:
            raise RuntimeError("the threads are closed")

        loop = asyncio.get_running_loop()
        job = _Job(lambda: function(*arguments), copy_context(), loop.create_future())

        if self._idle or self._serving < self._size:
            self._start(job, loop)
        else:
            self._waiting.append(job)

        try:
            value, error = await job.done
        except asyncio.CancelledError:
            self._abandon(job, loop)
            raise

        if error is not None:
            raise error

        return cast("T", value)

    def close(self) -> None:
        """Let idle threads end; the others are daemons and end with the process. Never joins."""
        self._closed = True

        for thread in self._idle:
            thread.jobs.put(None)

        self._idle.clear()

    def _start(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        if self._idle:
            thread = self._idle.pop()
        else:
            thread = _Thread(self._made + 1, loop, self._ended)
            thread.start()  # may fail where the system has no more
            self._made += 1
            self._serving += 1

        job.thread = thread
        thread.jobs.put(job)

    def _ended(self, thread: _Thread, job: _Job, value: Any, error: BaseException | None) -> None:
        """Caller: the event loop, for a thread that has run a job to its end."""
        if thread.replaced:
            self.lost -= 1
            thread.jobs.put(None)
            return

        if not job.done.done():
            job.done.set_result((value, error))

        if self._closed:
            thread.jobs.put(None)
        elif self._waiting:
            job = self._waiting.popleft()
            job.thread = thread
            thread.jobs.put(job)
        else:
            self._idle.append(thread)

    def _abandon(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        if job.thread is None:
            self._waiting.remove(job)
            return

        self.abandoned += 1

        if self.lost >= MAX_LOST:
            return

        job.thread.replaced = True
        self.lost += 1
        self._serving -= 1

        if self._waiting and not self._closed:
            following = self._waiting.popleft()
            try:
                self._start(following, loop)
            except RuntimeError:  # the system has no more threads: it waits for one that comes back
                self._waiting.appendleft(following)
