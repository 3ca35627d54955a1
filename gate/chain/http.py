"""The one way out for actions: a shared pool of HTTP connections whose calls end in time and are timed.

A call belongs to the action that makes it; which one that is, is found in the context variable that its task or thread
carries. `timeout` of a call, and what is left of the action, limit the call as a whole: httpx's own limits are per phase,
and a server that sends a byte now and then would never meet them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import time
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, cast

import httpx

from gate.chain.effects import Effects, current

RESERVE_SHARE: Final = 0.1
RESERVE_MAX_S: Final = 0.05
"""A call ends this much before its action does (a tenth of what is left, at most this), so that the action can still say what
it makes of the failure."""


class HttpPool:
    """The two clients that `api.http` and `api.http_sync` are, over shared settings."""

    def __init__(self, *, connections: int) -> None:
        for name in ("httpx", "httpcore"):
            # Both log whole URLs, which may hold secrets and addresses; our own record of a call holds neither.
            logging.getLogger(name).setLevel(logging.WARNING)

        options: dict[str, Any] = {
            "verify": _tls(),
            "trust_env": False,
            "follow_redirects": False,
            "timeout": None,
            "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        }
        self.client = ActionClient(cookies=_no_cookies(), **options)
        self.sync_client = SyncActionClient(cookies=_no_cookies(), **options)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        self.sync_client.close()


class ActionClient(httpx.AsyncClient):
    """`httpx.AsyncClient` for actions: every call inside the action's time limit, timed."""

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request; raises `httpx.TimeoutException` when the call as a whole takes too long."""
        effects = _caller()
        limit_s = _limit_s(request, effects)
        begun = time.monotonic()
        result = "error"
        try:
            async with asyncio.timeout(limit_s):
                response = await super().send(request, **options)
            result = f"{response.status_code // 100}xx"
            return response
        except httpx.TimeoutException:
            result = "timeout"
            raise
        except TimeoutError:
            result = "timeout"
            raise _too_long(request, limit_s) from None
        except asyncio.CancelledError:
            result = "timeout" if effects.left_s() <= 0 else "error"
            raise
        finally:
            effects.outbound(result, time.monotonic() - begun)


class SyncActionClient(httpx.Client):
    """`httpx.Client` for plain `def` actions, with the same rules."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request; raises `httpx.TimeoutException` when the call as a whole takes too long."""
        effects = _caller()
        limit_s = _limit_s(request, effects)
        request.extensions = {**request.extensions, "timeout": httpx.Timeout(max(limit_s, 0.001)).as_dict()}
        begun = time.monotonic()
        result = "error"
        try:
            response = super().send(request, stream=True, **options)
            response.stream = _UntilDeadline(response, begun + limit_s, limit_s)

            if not stream:
                with contextlib.ExitStack() as on_error:
                    on_error.callback(response.close)
                    response.read()
                    on_error.pop_all()

            result = f"{response.status_code // 100}xx"
            return response
        except httpx.TimeoutException:
            result = "timeout"
            raise
        finally:
            effects.outbound(result, time.monotonic() - begun)


class _UntilDeadline(httpx.SyncByteStream):
    """The body of a response, read until a deadline; a blocking read cannot be cut from outside."""

    def __init__(self, response: httpx.Response, deadline_s: float, limit_s: float) -> None:
        self._stream = cast("httpx.SyncByteStream", response.stream)
        self._request = response.request
        self._deadline_s = deadline_s
        self._limit_s = limit_s

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            if time.monotonic() > self._deadline_s:
                raise _too_long(self._request, self._limit_s)

            yield part

    def close(self) -> None:
        self._stream.close()


def _caller() -> Effects:
    effects = current.get()

    if effects is None:
        raise RuntimeError("api.http was called outside of an action")

    if effects.closed:
        effects.late("http")
        raise RuntimeError("api.http was called after the action had ended")

    return effects


def _limit_s(request: httpx.Request, effects: Effects) -> float:
    """Return how long the call may take, and leave no per-phase limits that would only repeat it."""
    left_s = effects.left_s()
    limit_s = left_s - min(RESERVE_MAX_S, left_s * RESERVE_SHARE)
    phases = request.extensions.get("timeout", {})
    asked_s: set[float] = {value for value in phases.values() if value is not None}

    if not asked_s:
        return limit_s

    if len(asked_s) == 1:
        request.extensions = {**request.extensions, "timeout": _NO_PHASES}

    return min(limit_s, max(asked_s))


_NO_PHASES = httpx.Timeout(None).as_dict()


def _too_long(request: httpx.Request, limit_s: float) -> httpx.TimeoutException:
    return httpx.ReadTimeout(f"no whole answer within {limit_s:.3g} s", request=request)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the one TLS context of the process: reading the authorities takes 50 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _no_cookies() -> CookieJar:
    """Return a jar that takes nothing: attempts of different people share the client."""
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
