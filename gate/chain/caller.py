"""Keeps actions that run by hand away from the task they run in.

An action without an `await` runs inside a task of ours, the one that takes attempts, for example. Cancelling that through
`asyncio.current_task()` would stop the worker, and before Python 3.13 `uncancel()` does not take it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Self

# "Extending asyncio" in Python's documentation has these for whoever runs tasks of another kind.
_enter_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = asyncio._enter_task  # noqa: SLF001
_leave_task: Final[Callable[[asyncio.AbstractEventLoop, Any], None]] = asyncio._leave_task  # noqa: SLF001


class StandIn:
    """What such an action sees as the current task: the real one, except that cancelling it ends the action."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def __repr__(self) -> str:
        return f"<StandIn for {self._task!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def cancel(self, msg: object = None) -> bool:
        """End the action: a cancellation that it raised itself is its failure."""
        raise asyncio.CancelledError(*(() if msg is None else (msg,)))


class CallerGuard:
    """A context, with no `await` inside, in which a stand-in is the current task. Inside of another one it does nothing."""

    __slots__ = ("_loop", "_stand_in", "_task", "active")

    def __init__(self) -> None:
        self.active = False
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self.active = True
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, no task
            return self
        task = self._task = asyncio.current_task(self._loop)
        if isinstance(task, asyncio.Task):
            self._stand_in = StandIn(task)
            _leave_task(self._loop, task)
            _enter_task(self._loop, self._stand_in)
        else:
            self._task = None
        return self

    def __exit__(self, *_: object) -> None:
        self.active = False
        if self._task is not None:
            _leave_task(self._loop, self._stand_in)
            _enter_task(self._loop, self._task)
            self._task = None
