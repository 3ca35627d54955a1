"""A small user service on this machine: the other system that a sample action asks for an id."""

from __future__ import annotations

import hashlib
import socket
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gate.worker.http import HttpServer


class UserService:
    """Answers `GET /?email=…` with an id while it is up; its address is the same when it is down.

    The port is bound for as long as this object is open and listened on only while the service is up, so whoever calls
    it in between is refused, and nobody else can take the port.
    """

    def __init__(self) -> None:
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._reserved.getsockname()[1]}/"
        self._server = HttpServer(Starlette(routes=[Route("/", _answer)]), self._reserved)

    def close(self) -> None:
        """Give the port back."""
        self._reserved.close()

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._server.__aexit__(kind, error, trace)


def user_id(email: str) -> str:
    """Return the id that the service knows an address by."""
    return "u-" + hashlib.sha256(email.encode()).hexdigest()[:8]


async def _answer(request: Request) -> JSONResponse:
    email = request.query_params.get("email", "")
    return JSONResponse({"id": user_id(email)} if email else {"error": "email is missing"}, status_code=200 if email else 400)
