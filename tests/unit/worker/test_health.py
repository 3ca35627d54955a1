import asyncio
import signal
import socket
import sys
from dataclasses import dataclass, field

import httpx
import pytest

from gate.config import Settings
from gate.errors import ConfigError
from gate.metrics import Metrics
from gate.worker.health import HttpPort


@dataclass
class State:
    live: bool = True
    ready: bool = True
    reasons: list[str] = field(default_factory=list)


@pytest.fixture
def state() -> State:
    return State()


async def get(port: HttpPort, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(port.url + path)


async def test_port_zero_takes_a_free_one_and_says_which(state: State) -> None:
    async with HttpPort("127.0.0.1", 0, Metrics(), lambda: state) as port:
        assert 0 != port.port
        assert 200 == (await get(port, "/healthz")).status_code


async def test_readyz_says_why_not(state: State) -> None:
    async with HttpPort("127.0.0.1", 0, Metrics(), lambda: state) as port:
        ready = await get(port, "/readyz")
        state.ready, state.reasons = False, ["no broker answers at localhost:9092"]
        unready = await get(port, "/readyz")

    assert (200, {"ready": True, "reasons": []}) == (ready.status_code, ready.json())
    assert (503, {"ready": False, "reasons": ["no broker answers at localhost:9092"]}) == (unready.status_code, unready.json())


async def test_healthz_is_503_once_only_a_restart_can_help(state: State) -> None:
    state.live = False

    async with HttpPort("127.0.0.1", 0, Metrics(), lambda: state) as port:
        assert 503 == (await get(port, "/healthz")).status_code


async def test_metrics_are_prometheus_text(state: State) -> None:
    metrics = Metrics()
    metrics.attempts_received_total.inc(3)

    async with HttpPort("127.0.0.1", 0, metrics, lambda: state) as port:
        response = await get(port, "/metrics")

    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers["content-type"]
    assert "gate_attempts_received_total 3.0" in response.text.splitlines()


async def test_a_taken_port_names_the_setting(state: State) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"GATE_HTTP_PORT: 127\.0\.0\.1 port {number} cannot be taken"):
            async with HttpPort("127.0.0.1", number, Metrics(), lambda: state):
                pass


async def test_a_host_that_is_none_names_the_setting(state: State) -> None:
    with pytest.raises(ConfigError, match="GATE_HTTP_HOST: 'no host' is no address of this machine"):
        async with HttpPort("no host", 0, Metrics(), lambda: state):
            pass


async def test_signal_handlers_are_left_alone(state: State) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async with HttpPort("127.0.0.1", 0, Metrics(), lambda: state):
        during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    assert before == during


async def test_an_idle_connection_does_not_hold_up_the_end(state: State) -> None:
    async with asyncio.timeout(5), HttpPort("127.0.0.1", 0, Metrics(), lambda: state) as port:
        _, writer = await asyncio.open_connection(port.host, port.port)

    writer.close()


async def test_by_default_only_this_machine_reaches_it(state: State) -> None:
    others = {str(address[4][0]) for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    others |= {"127.0.0.2"} if sys.platform == "linux" else set()  # loopback, too, but not the address that is listened on

    async with HttpPort(Settings().http_host, 0, Metrics(), lambda: state) as port:
        assert 200 == (await get(port, "/healthz")).status_code
        for host in others - {"127.0.0.1"}:
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await asyncio.open_connection(host, port.port)

    assert "127.0.0.1" == Settings().http_host
