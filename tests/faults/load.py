"""What people ask while things break: open loop, at a rate, with the mixture that a front door sees."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from tests.integration.peers import EVENT

from .watching import RecordingClient

PATIENCE_S = 20.0

Ask = Callable[[RecordingClient, int], Awaitable[None]]
"""Asks as one person does; the number makes its attempt id."""


def attempt(mailbox: str, **user: Any) -> dict[str, Any]:
    """Return an event; the mailbox says what the chain of these runs does with it (`tests/faults/chain`)."""
    odd = mailbox.startswith(("block", "big", "stuck"))
    name = "slow" if mailbox.startswith("wait") else "odd" if odd else EVENT["connection"]["name"]
    return {
        **EVENT,
        "connection": {**EVENT["connection"], "name": name},
        "user": {**EVENT["user"], "email": f"{mailbox}@example.com", **user},
    }


async def as_people_do(client: RecordingClient, number: int, *, patience_s: float = PATIENCE_S) -> None:
    """Ask once, again with the same id and content, with other content, and without patience."""
    mailbox = ("zoe", "denied", "wait0.1", "failing", "wait0.02")[number % 5]
    event, attempt_id = attempt(mailbox, number=number), f"load-{number}"
    impatient = number % 17 == 0
    await client.try_to_ask(event, attempt_id=attempt_id, timeout_s=0.02 if impatient else patience_s)
    if number % 7 == 0 or impatient:
        await client.try_to_ask(event, attempt_id=attempt_id, timeout_s=patience_s)
    if number % 11 == 0:
        other = attempt("another")
        await asyncio.gather(
            *(client.try_to_ask(what, attempt_id=attempt_id, timeout_s=patience_s) for what in (other, event)),
        )


async def once(client: RecordingClient, number: int, *, mailbox: str = "wait0.02", patience_s: float = PATIENCE_S) -> None:
    """Ask once, whatever comes of it."""
    await client.try_to_ask(attempt(mailbox, number=number), attempt_id=f"once-{number}", timeout_s=patience_s)


class Load:
    """Asks at a rate until the context is left, which waits for every answer or the end of its patience."""

    def __init__(self, client: RecordingClient, *, rate: float, ask: Ask = as_people_do, numbers: itertools.count[int]) -> None:
        self._client = client
        self._rate = rate
        self._ask = ask
        self._numbers = numbers
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        self._stop.set()
        if error is not None:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=error is not None)

    async def _run(self) -> None:
        began, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stop.is_set():
                tasks.create_task(self._one(), name="ask")
                sent += 1
                await asyncio.sleep(max(0.0, began + sent / self._rate - time.monotonic()))

    async def _one(self) -> None:
        await self._ask(self._client, next(self._numbers))


def patient(patience_s: float) -> Ask:
    """Return how people ask who wait so long."""
    return partial(as_people_do, patience_s=patience_s)
