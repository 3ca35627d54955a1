"""A small HTTP server on the running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

_CLOSE_TIMEOUT_S = 1  # a scraper's idle keep-alive connection must not hold up the end of the process


class HttpServer:
    """Serves an application while the context is open, on a socket that is bound already."""

    def __init__(self, application: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                application,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http-server")
        await self._server.accepting.wait()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving})
            if not self._serving.cancelled():  # by whoever cancels everything: that is no failure of ours
                self._serving.result()


class _Server(uvicorn.Server):
    """Uvicorn as a part of a process: the command handles signals, and start-up is an event."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()
