"""Notices when an action blocks the event loop, and names the action and the line while it still does.

An `async def` that never gives way holds up every attempt of the worker; nothing on the loop could say so. A thread looks at
what the loop's own thread is doing whenever the loop has not turned for too long.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from gate import log as logs
from gate.chain.places import action_of, innermost_action

BLOCKED_AFTER_S: Final = 0.25
"""A loop that has not turned for so long is blocked: what DESIGN.md section 3 allows a JavaScript host, too."""

BEAT_S: Final = 0.05
TASK_PREFIX: Final = "action "

OnBlocked = Callable[[str, float], None]
"""Told of every block when it is over: the action's name, empty where no action did it, and the seconds."""

log = logs.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One time that the loop did not turn."""

    action: str  # empty where the loop's thread was in no action
    where: str  # file:line in function
    since_s: float  # time.monotonic() of the loop's last turn before it


class Watchdog:
    """Watches one event loop between `start` and `stop`."""

    def __init__(self, on_blocked: OnBlocked | None = None) -> None:
        self._on_blocked = on_blocked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._beat_s = 0.0  # time.monotonic() of the loop's last turn that we know of
        self._stopped = threading.Event()
        self._block: Block | None = None  # the one that lasts
        self._tasks: dict[asyncio.Task[Any], Block] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch. Caller: the loop's thread."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._stopped.clear()
        self._beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

        if self._timer is not None:
            self._timer.cancel()

    def block_by(self, task: asyncio.Task[Any]) -> Block | None:
        """Return and forget how a task has blocked the loop, if it has."""
        return self._tasks.pop(task, None) if self._tasks else None

    def block_now(self) -> Block | None:
        """Return the block that lasts. Caller: the loop's thread, in the very step that blocks."""
        return self._block

    def _beat(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        block, self._block = self._block, None

        if block is not None:
            blocked_s = now - block.since_s - BEAT_S
            log.warning("event_loop_free_again", action=block.action, where=block.where, blocked_s=round(blocked_s, 3))

            if self._on_blocked is not None:
                self._on_blocked(block.action, blocked_s)

        self._beat_s = now
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    # -- In the watching thread --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        before = time.monotonic()

        while not self._stopped.wait(BEAT_S):
            now = time.monotonic()
            paused = now - before > BLOCKED_AFTER_S  # we did not run either: the machine or a signal stopped the process
            before = now

            if self._block is None and not paused and now - self._beat_s > BLOCKED_AFTER_S:
                self._notice()

    def _notice(self) -> None:
        assert self._loop is not None
        since_s = self._beat_s
        action, where = _look(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - the documented way to see another thread
        task = asyncio.current_task(self._loop)

        if self._beat_s != since_s:  # it has turned meanwhile, so who knows what we saw
            return

        block = self._block = Block(action=action, where=where, since_s=since_s)

        if task is not None and task.get_name().startswith(TASK_PREFIX):
            self._tasks = {known: its for known, its in self._tasks.items() if not known.done()} | {task: block}

        log.warning(
            "event_loop_blocked",
            action=block.action,
            where=block.where,
            mend="blocking code belongs in a plain `def` action" if block.action else "no action did it",
        )


def _look(frame: FrameType | None) -> tuple[str, str]:
    """Return the action and the place of the innermost line of an action on a stack; else no action, and the innermost line."""
    found = innermost_action(frame)
    return ("", _line(frame)) if found is None else (action_of(found) or "", _line(found))


def _line(frame: FrameType | None) -> str:
    return "nowhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
