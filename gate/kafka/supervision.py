"""Keep one Kafka client at work: one that is broken is closed, and another is built as soon as the brokers let it.

Several states of aiokafka never heal (KAFKA.md section 4). A client lives in other people's processes, too, so nothing is
logged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Longest waits between tries to build a client; the last one repeats. Up to a half is left out by lot: many begin at once."""


STABLE_S: Final = 5.0
"""A client that is blamed sooner did not work at all (it connects, but may not read, for example): the next one waits."""


class Startable(Protocol):
    """A client as it was made; `start` connects it."""

    async def start(self) -> None:
        """Connect."""


Client = TypeVar("Client", bound=Startable)


class Supervised(Generic[Client]):
    """Holds a client between `start` and `stop`, and replaces it when somebody blames it.

    `make` returns a new client, `begin` readies one that has connected, `close` ends one and never raises. `on_restart` hears
    of every client that took the place of a broken one.
    """

    def __init__(
        self,
        make: Callable[[], Client],
        *,
        begin: Callable[[Client], Awaitable[None]] | None = None,
        close: Callable[[Client], Awaitable[object]],
        on_restart: Callable[[], None] = lambda: None,
        name: str,
    ) -> None:
        self._make = make
        self._begin = begin
        self._close = close
        self._on_restart = on_restart
        self._name = name
        self._changed = asyncio.Event()  # there is a client, or there will be none any more
        self._broken: Client | None = None  # still to be closed
        self._mending: asyncio.Task[None] | None = None
        self._stopped = False
        self._failures = 0  # clients in a row that were blamed as soon as they were there
        self._begun_s = 0.0  # time.monotonic() of the newest client
        self.client: Client | None = None  # None: not started, stopped, or being replaced
        self.restarts = 0

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "there" if self.client is not None else "not there"
        return f"<Supervised {self._name}: {state}, {self.restarts} restarts>"

    async def start(self) -> None:
        """Build the first client; what its making, connecting or beginning raises comes out here."""
        self._use(await self._build())

    async def get(self, *, within_s: float | None = None) -> Client | None:
        """Wait until there is a client, and return it; None once it is stopped, or where there is none in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        return self.client

    def blame(self, broken: Client) -> bool:
        """Replace a client that failed; return False if it is replaced already. Who asks for one from now on, waits."""
        if broken is not self.client:
            return False
        self.client, self._broken = None, broken
        self._changed.clear()
        self._failures = self._failures + 1 if time.monotonic() - self._begun_s < STABLE_S else 0
        self._replace()
        return True

    async def stop(self) -> None:
        """Close the client, and build no other. Idempotent."""
        self._stopped = True
        client, self.client = self.client, None
        self._changed.set()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.wait({self._mending})
        broken, self._broken = self._broken, None
        for left in (broken, client):
            if left is not None:
                await self._close(left)

    def _use(self, client: Client) -> None:
        self.client, self._begun_s = client, time.monotonic()
        self._changed.set()

    def _replace(self) -> None:
        self._mending = asyncio.create_task(self._mend(), name=f"replace {self._name}")
        self._mending.add_done_callback(lambda _: self._mended())

    def _mended(self) -> None:
        if not self._stopped and self.client is None:  # somebody cancelled what is still to be done
            self._replace()

    async def _mend(self) -> None:
        if self._broken is not None:
            await self._close(self._broken)
            self._broken = None
        if self._failures > 1:
            await self._back_off(self._failures)
        tries = 0
        while True:
            with contextlib.suppress(Exception):  # whatever it is: it is waited for, and nobody else would try again
                self._use(await self._build())
                break
            await self._back_off(tries)
            tries += 1
        self.restarts += 1
        self._on_restart()

    async def _back_off(self, tries: int) -> None:
        await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)] * random.uniform(0.5, 1.0))

    async def _build(self) -> Client:
        client = self._make()
        try:
            await client.start()
            if self._begin is not None:
                await self._begin(client)
        except BaseException:
            await self._close(client)
            raise
        return client
