"""What the chains of a process share, so that another chain can take over while the old one finishes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from gate.chain import capture, leftovers
from gate.chain.cache import Cache
from gate.chain.caller import CallerGuard
from gate.chain.http import HttpPool
from gate.chain.threads import DaemonThreads
from gate.chain.watchdog import OnBlocked, Watchdog

MAX_CONNECTIONS = 1000
SYNC_THREADS = 64


class Resources:
    """HTTP connections, threads for plain `def` actions, the cache, captured output and the watchdog, while it is open.

    `connections` is how many attempts may be in flight, `sync_threads` how many plain `def` actions run at once,
    `set_user_id` whether actions may choose the id of the user, `tells_texts` whether traces hold what exceptions say: never in
    a worker. `on_blocked` hears of every time that the loop was blocked.
    """

    def __init__(
        self,
        *,
        connections: int = MAX_CONNECTIONS,
        sync_threads: int = SYNC_THREADS,
        set_user_id: bool = False,
        tells_texts: bool = False,
        on_blocked: OnBlocked | None = None,
    ) -> None:
        self.set_user_id = set_user_id
        self.tells_texts = tells_texts
        self.late_calls = 0  # on an `api` after its action had returned; also those too late for any outcome
        self.http = HttpPool(connections=connections)
        self.threads = DaemonThreads(sync_threads)
        self.cache = Cache()
        self.watchdog = Watchdog(on_blocked)
        self.caller = CallerGuard()  # entered around many attempts, it need not be entered for each
        self._quiet = ExitStack()

    def __repr__(self) -> str:
        return f"<Resources {self.threads!r}, {self.cache!r}>"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        capture.install()
        self._quiet.enter_context(leftovers.quiet(loop))
        self.watchdog.start(loop)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.watchdog.stop()
        self._quiet.close()
        capture.remove()
        self.threads.close()
        await self.http.aclose()
