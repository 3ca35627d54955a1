"""The HTTP port of a worker: /metrics, /healthz and /readyz."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gate.errors import ConfigError
from gate.metrics import CONTENT_TYPE, Metrics
from gate.worker.http import HttpServer


class Status(Protocol):
    """How a worker is (`gate.worker.readiness.Status` is one)."""

    @property
    def live(self) -> bool:
        """False once only a restart can help."""

    @property
    def ready(self) -> bool:
        """Whether attempts are being taken and answered."""

    @property
    def reasons(self) -> Sequence[str]:
        """Why not, one sentence each."""


class HttpPort:
    """Serves the three pages on the running event loop while the context is open.

    Raises ConfigError when it is entered and the address cannot be taken.
    """

    def __init__(self, host: str, port: int, metrics: Metrics, status: Callable[[], Status]) -> None:
        self.host = host
        self.port = port  # the one that was taken, once the context is open
        self._application = application(metrics, status)

    def __repr__(self) -> str:
        return f"<HttpPort {self.url}>"

    @property
    def url(self) -> str:
        """Where it is served, without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        listener = _listen(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._server = HttpServer(self._application, listener)
        await self._server.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.__aexit__(kind, error, trace)


def application(metrics: Metrics, status: Callable[[], Status]) -> Starlette:
    """Return the three pages."""

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def healthz(_request: Request) -> Response:
        live = status().live
        return JSONResponse({"live": live}, status_code=200 if live else 503)

    async def readyz(_request: Request) -> Response:
        now = status()
        return JSONResponse({"ready": now.ready, "reasons": list(now.reasons)}, status_code=200 if now.ready else 503)

    return Starlette(routes=[Route("/metrics", show_metrics), Route("/healthz", healthz), Route("/readyz", readyz)])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(
            [f"GATE_HTTP_HOST: {host!r} is no address of this machine ({error.strerror}); give an IP address or a host name"]
        ) from None

    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            [f"GATE_HTTP_PORT: {host} port {port} cannot be taken ({error.strerror}); set another port, or 0 for any free one"]
        ) from None

    return listener
