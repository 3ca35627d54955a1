"""`api.http`: calls end in time as a whole, are timed, and share nothing between people but connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gate import Api, Event
from gate.model.decision import Cause, Outcome, Status


class Service:
    """A small HTTP server whose answer is the path that it is asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.most_connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.most_connections = max(self.connections, self.most_connections)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.decode())
                await self.answer(head.split()[1].decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        status = path.partition("?")[0].rpartition("/")[2]

        if path.startswith("/silent"):
            await asyncio.sleep(5)
        elif path.startswith("/drip"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

            for _ in range(100):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        else:
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Length: 11\r\nSet-Cookie: a=b\r\nLocation: /status/200\r\n\r\n".encode()
                + b'{"id": "u"}'
            )


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]  # for tests
    yield service
    server.close()


def result(outcome: Outcome) -> list[tuple[str, str]]:
    return [(call.action, call.result) for call in outcome.outbound]


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_calls_are_recorded_with_their_status_class_and_duration(run: Any, service: Any, status: int) -> None:
    async def asks(event: Event, api: Api) -> None:
        response = await api.http.get(f"{service.url}/status/{status}", params={"email": event.user.email})
        api.user.set_app_metadata("id", response.json()["id"])

    def asks_in_thread(event: Event, api: Api) -> None:
        api.user.set_app_metadata("id", api.http_sync.get(f"{service.url}/status/{status}").json()["id"])

    outcome = await run(asks, asks_in_thread)

    assert {"app_metadata": {"id": "u"}} == outcome.changes
    assert [("asks", f"{status // 100}xx"), ("asks_in_thread", f"{status // 100}xx")] == result(outcome)
    assert all(0 < call.duration_s < 10 for call in outcome.outbound)


@pytest.mark.parametrize("path", ["silent", "drip"])
@pytest.mark.parametrize("sync", [True, False])
async def test_timeout_limits_a_call_as_a_whole(run: Any, service: Any, path: str, *, sync: bool) -> None:
    async def asks(event: Event, api: Api) -> None:
        with pytest.raises(httpx.TimeoutException):
            await api.http.get(f"{service.url}/{path}", timeout=0.1)
        api.validation.error("down", "Down.")

    def asks_in_thread(event: Event, api: Api) -> None:
        with pytest.raises(httpx.TimeoutException):
            api.http_sync.get(f"{service.url}/{path}", timeout=0.1)
        api.validation.error("down", "Down.")

    outcome = await run(asks_in_thread if sync else asks, timeout_s=3)

    assert Cause.VALIDATION_ERROR is outcome.denial.cause
    assert ["timeout"] == [call.result for call in outcome.outbound]
    assert outcome.outbound[0].duration_s < 1


@pytest.mark.parametrize("path", ["silent", "drip"])
@pytest.mark.parametrize("sync", [True, False])
async def test_a_call_ends_before_its_action_does_so_that_the_action_can_still_answer(
    run: Any, make_action: Any, service: Any, path: str, *, sync: bool
) -> None:
    async def asks(event: Event, api: Api) -> None:
        try:
            await api.http.get(f"{service.url}/{path}")
        except httpx.TimeoutException:
            api.validation.error("down", "Down.")

    def asks_in_thread(event: Event, api: Api) -> None:
        try:
            api.http_sync.get(f"{service.url}/{path}")
        except httpx.TimeoutException:
            api.validation.error("down", "Down.")

    outcome = await run(make_action(asks_in_thread if sync else asks, timeout_s=0.6))

    assert Cause.VALIDATION_ERROR is outcome.denial.cause


async def test_the_body_of_a_streamed_answer_is_limited_too_in_a_thread(run: Any, service: Any) -> None:
    def asks(event: Event, api: Api) -> None:
        with api.http_sync.stream("GET", f"{service.url}/drip", timeout=0.1) as response:
            response.read()

    outcome = await run(asks, timeout_s=3)

    assert "ReadTimeout" == outcome.trace[0].error


async def test_a_call_that_its_actions_end_cuts_is_recorded_as_timed_out(run: Any, make_action: Any, service: Any) -> None:
    async def asks(event: Event, api: Api) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(5))
            group.create_task(call(api))

    async def call(api: Api) -> None:
        try:
            await api.http.get(f"{service.url}/silent")
        except httpx.TimeoutException:
            await asyncio.sleep(5)

    outcome = await run(make_action(asks, timeout_s=0.1))

    assert Cause.TIMED_OUT is outcome.denial.cause
    assert [("asks", "timeout")] == result(outcome)


async def test_an_unreachable_service_is_recorded_as_an_error(run: Any) -> None:
    async def asks(event: Event, api: Api) -> None:
        with pytest.raises(httpx.ConnectError):
            await api.http.get("http://127.0.0.1:9/")

    def asks_in_thread(event: Event, api: Api) -> None:
        with pytest.raises(httpx.ConnectError):
            api.http_sync.get("http://127.0.0.1:9/")

    assert [("asks", "error"), ("asks_in_thread", "error")] == result(await run(asks, asks_in_thread))


async def test_no_cookie_is_kept_no_redirect_followed_nothing_taken_from_the_environment(
    run: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def asks(event: Event, api: Api) -> None:
        for _ in range(2):
            assert 302 == (await api.http.get(f"{service.url}/status/302")).status_code

    def asks_in_thread(event: Event, api: Api) -> None:
        for _ in range(2):
            assert 302 == api.http_sync.get(f"{service.url}/status/302").status_code

    outcome = await run(asks, asks_in_thread)

    assert Status.APPROVED is outcome.status
    assert 4 == len(service.requests)
    assert not any("cookie" in request.lower() for request in service.requests)


async def test_connections_are_shared_and_bounded(run: Any, service: Any) -> None:
    async def asks(event: Event, api: Api) -> None:
        await api.http.get(f"{service.url}/status/200")

    chain = await run.chain(asks)
    await asyncio.gather(*(run.once(chain) for _ in range(50)))

    assert 50 == len(service.requests)
    assert service.most_connections <= 10


async def test_urls_are_not_logged(run: Any, service: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def asks(event: Event, api: Api) -> None:
        await api.http.get(f"{service.url}/status/200?key=hunter22")

    outcome = await run(asks)

    assert "hunter22" not in caplog.text + repr(outcome)


async def test_a_call_after_the_action_has_ended_is_refused_and_counted(run: Any, service: Any) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def leaves(event: Event, api: Api) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            await api.http.get(f"{service.url}/status/200")

        tasks.append(asyncio.create_task(later()))

    chain = await run.chain(leaves)
    await run.once(chain)

    with pytest.raises(RuntimeError, match="after the action had ended"):
        await tasks[0]

    assert ([], 1) == (service.requests, run.resources.late_calls)


async def test_a_call_outside_of_any_action_is_refused(run: Any, service: Any) -> None:
    kept: list[Api] = []

    async def keeps(event: Event, api: Api) -> None:
        kept.append(api)

    await run(keeps)

    with pytest.raises(RuntimeError, match="outside of an action"):
        await kept[0].http.get(service.url)
