"""A TCP proxy before one broker that knows Kafka's frames: it delays, resets, says nothing, refuses, and loses answers."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.protocol import produce
from aiokafka.protocol.api import RequestHeader_v1

from gate.kafka.embedded import HOST, EmbeddedKafka, free_ports

_PRODUCE: Final = {version: getattr(produce, f"ProduceRequest_v{version}") for version in range(9)}
"""Later versions have another encoding, which none of our clients speaks."""

_NO_LINGER: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: closing sends RST in place of FIN


class Api(IntEnum):
    """The kinds of requests whose answers may be lost; the numbers are the protocol's."""

    PRODUCE = 0
    FETCH = 1
    OFFSET_COMMIT = 8
    HEARTBEAT = 12


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a request says of itself."""

    api: int
    correlation_id: int
    topics: frozenset[str] = frozenset()  # that it produces to
    answered: bool = True  # a produce request with acks=0 is not


def read_request(frame: bytes) -> Request:
    """Read a request's header, and of a produce request its topics; `frame` is what follows the size."""
    buffer = BytesIO(frame)
    api, version, correlation_id, _ = RequestHeader_v1.SCHEMA.decode(buffer)  # v2 begins like v1
    if api != Api.PRODUCE or version not in _PRODUCE:
        return Request(api=api, correlation_id=correlation_id)
    body = _PRODUCE[version].decode(buffer)
    topics = frozenset(topic for topic, _ in body.topics)
    return Request(api=api, correlation_id=correlation_id, topics=topics, answered=body.required_acks != 0)


@dataclass(eq=False, kw_only=True)
class Loss:
    """Answers of one kind are lost: the broker has done what was asked, and nobody is told."""

    api: int
    topic: str | None = None  # only where it was produced to; None: everywhere
    share: float = 1.0  # of the answers that it applies to
    times: int | None = None  # how often; None: until the proxy is well again
    held: bool = False  # the connection then stays open and silent; else it is reset
    lost: int = 0  # so far

    def takes(self, request: Request, dice: random.Random) -> bool:
        """Say whether the answer to a request is lost, and count it."""
        fits = request.api == self.api and (self.topic is None or self.topic in request.topics)
        if not fits or self.lost == self.times or dice.random() >= self.share:
            return False
        self.lost += 1
        return True


class Proxy:
    """Stands at `address` before the broker's listener at `target`; faults are switched while it runs.

    Args:
        target: Where the broker listens, `host:port`.
        port: Where this listens: what the broker's listener advertises.
        seed: Of the dice.
    """

    def __init__(self, target: str, *, port: int, seed: int = 1) -> None:
        self.latency_s = 0.0  # by how much each frame is late, in each direction; the next one is as late, not later
        self.jitter_s = 0.0  # by how much more it may be late; the order within a connection stays
        self.resets = 0.0  # the share of answers in whose place the connection is reset
        self.counts: Counter[str] = Counter()  # connections, requests, answers that passed, resets, answers lost
        self._target = target
        self._port = port
        self._dice = random.Random(seed)
        self._losses: list[Loss] = []
        self._open = asyncio.Event()  # cleared: a black hole
        self._open.set()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    def __repr__(self) -> str:
        return f"<Proxy at {self.address} before {self._target}, {len(self._links)} connections, {dict(self.counts)}>"

    @property
    def address(self) -> str:
        """Where clients bootstrap."""
        return f"{HOST}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        if self._failures:
            raise ExceptionGroup("the proxy failed", self._failures)

    # -- Faults -----------------------------------------------------------------------------------------------------------

    def lose(self, api: int = Api.PRODUCE, **how: Any) -> Loss:
        """Lose answers from now on; `how` are the fields of `Loss`."""
        self._losses.append(Loss(api=api, **how))
        return self._losses[-1]

    def reset_all(self) -> None:
        """Reset every connection that there is."""
        self.counts["resets"] += len(self._links)
        for link in self._links:
            link.cancel()

    def blackhole(self) -> None:
        """Accept connections and let nothing pass. What was sent meanwhile arrives when it is over, as with TCP."""
        self._open.clear()

    def refuse(self) -> None:
        """Refuse new connections; those that there are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def accept(self) -> None:
        """Accept new connections."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, HOST, self._port)

    async def heal(self) -> None:
        """End all faults; connections that were silenced stay silent."""
        self.latency_s = self.jitter_s = self.resets = 0.0
        self._losses.clear()
        self._open.set()
        await self.accept()

    # -- Connections ------------------------------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        link = asyncio.create_task(self._link(reader, writer), name=f"proxied connection {self.counts['connections']}")
        self._links.add(link)
        link.add_done_callback(self._ended)

    def _ended(self, link: asyncio.Task[None]) -> None:
        self._links.discard(link)
        if not link.cancelled() and isinstance(error := link.exception(), Exception):
            self._failures.append(error)

    async def _link(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        writers = [to_client]
        judge = _Judge(self)
        try:
            broker, to_broker = await asyncio.open_connection(*self._target.split(":"))
            writers.append(to_broker)
            async with asyncio.TaskGroup() as tasks:
                for reader, writer, passes in ((client, to_broker, judge.request), (broker, to_client, judge.answer)):
                    lane: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()  # without bound: late is not slow
                    tasks.create_task(self._take(reader, lane), name="take")
                    tasks.create_task(self._deliver(lane, writer, passes), name="deliver")
        except* OSError:
            pass  # what breaks one side breaks the other one
        finally:
            for writer in writers:
                _reset(writer)

    async def _take(self, reader: asyncio.StreamReader, lane: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Read frames until the sender closes, and say when each is due; the last one is empty."""
        async for frame in _frames(reader):
            late_s = self.latency_s + self._dice.uniform(0, self.jitter_s)
            lane.put_nowait((asyncio.get_running_loop().time() + late_s, frame))

    async def _deliver(
        self, lane: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        while True:
            due, frame = await lane.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._open.wait()
            if not frame:
                break
            if passes(frame):
                writer.write(len(frame).to_bytes(4, "big") + frame)
                await writer.drain()
        writer.close()


class _Judge:
    """Says of the frames of one connection whether they pass; raises ConnectionResetError where it is to be reset."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._asked: dict[int, Request] = {}
        self._silent = False

    def request(self, frame: bytes) -> bool:
        request = read_request(frame)
        if request.answered:
            self._asked[request.correlation_id] = request
        self._proxy.counts["requests"] += 1
        return True

    def answer(self, frame: bytes) -> bool:
        proxy, request = self._proxy, self._asked.pop(int.from_bytes(frame[:4], "big"))
        loss = next((loss for loss in proxy._losses if loss.takes(request, proxy._dice)), None)
        proxy.counts["lost"] += loss is not None
        if (loss is not None and not loss.held) or proxy._dice.random() < proxy.resets:
            proxy.counts["resets"] += 1
            raise ConnectionResetError
        self._silent |= loss is not None
        proxy.counts["answers"] += not self._silent
        return not self._silent


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield what follows the size of each frame; at the end, something empty."""
    try:
        while True:
            yield await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    except asyncio.IncompleteReadError:
        yield b""


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST unless it is closed in order."""
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()


class ProxiedKafka(EmbeddedKafka):
    """A broker with one more listener, which says that it stands where `proxy()` does; `bootstrap` goes past the proxy."""

    def __init__(self, **options: Any) -> None:
        direct, behind, front, controller = islice(free_ports(), 4)
        properties = {
            "listeners": f"PLAINTEXT://{HOST}:{direct},PROXIED://{HOST}:{behind},CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{direct},PROXIED://{HOST}:{front}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
        }
        super().__init__(port=direct, properties={**properties, **options.pop("properties", {})}, **options)
        self._behind = f"{HOST}:{behind}"
        self._front = front

    def proxy(self) -> Proxy:
        """Return a proxy before this broker, to be entered in an event loop; there is place for one at a time."""
        return Proxy(self._behind, port=self._front)
