"""Everything on this machine: a real Kafka as a child process, the topics, a worker and its HTTP port."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gate.chain.loader import load_chain
from gate.chain.runner import Chain
from gate.config import DEFAULT_CHAIN, Settings, action_secrets, packaged
from gate.errors import ConfigError, EmbeddedBrokerError, KafkaUnavailable
from gate.kafka.connection import DEV_FILE
from gate.kafka.embedded import EmbeddedKafka
from gate.kafka.topics import create_topics
from gate.metrics import Metrics
from gate.tools.user_service import UserService
from gate.worker.health import HttpPort, Status
from gate.worker.reload import ChainReloader
from gate.worker.worker import Worker

PREFERRED_PORT: Final = 9092
PARTITIONS: Final = 4
READY_WITHIN_S: Final = 30.0
SAMPLE_SECRET: Final = "GATE_SECRET_STORE_USER_ID_USER_SERVICE_URL"  # noqa: S105 - the name of a variable
"""What the packaged sample chain needs: the address of another system's user service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What runs on this machine now."""

    settings: Settings
    bootstrap: str
    http_url: str
    chain: Chain
    metrics: Metrics
    broker: EmbeddedKafka
    serving: asyncio.Task[None]

    async def watch(self) -> None:
        """Return never; raise when broker or worker ends by itself."""
        while True:
            await asyncio.wait({self.serving}, timeout=0.5)
            if self.serving.done():
                self.serving.result()
                raise KafkaUnavailable("the worker ended by itself")
            if not self.broker.running:
                raise EmbeddedBrokerError("the embedded broker ended by itself; start again to get a new one")


@dataclass(frozen=True, slots=True)
class _Starting:
    reasons: tuple[str, ...] = ("starting",)
    live: bool = True
    ready: bool = False


def sample_chain_or(settings: Settings) -> tuple[Path, bool]:
    """Return the chain to run, and whether it is the packaged samples: nothing is set and there is no `actions/chain.toml`."""
    if settings.chain is not None:
        return settings.chain, False
    if DEFAULT_CHAIN.exists() and not DEFAULT_CHAIN.samefile(packaged("actions") / "chain.toml"):
        return DEFAULT_CHAIN, False
    return packaged("actions") / "chain.toml", True


def load_chain_here(path: Path, service: UserService, *, secrets_dir: Path | None = None) -> Chain:
    """Return a chain whose copy of the sample that asks another system finds `service`, unless its secret is set."""
    return load_chain(path, secrets_dir=secrets_dir, environ={SAMPLE_SECRET: service.url, **action_secrets()})


@asynccontextmanager
async def everything_here(
    settings: Settings,
    chain: Chain,
    *,
    load: Callable[[], Chain] | None = None,
    chain_files: Callable[[], Iterable[Path]] | None = None,
    data_dir: Path | None = None,
    prefer_port: int | None = None,
    write_dev_file: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Here]:
    """Start everything, hand it out when the worker is ready, and stop all of it in the opposite order.

    `progress` gets a line when a step that may take its time begins. Kafka listens on `prefer_port` if that is free,
    else on any free one. With `load` and `chain_files` the chain is loaded anew whenever one of its files changes.
    """
    metrics = Metrics()
    metrics.set_build_info(chain.hash)
    reloader = None if load is None else ChainReloader(load, metrics, files=chain_files)
    worker: Worker | None = None

    def status() -> Status:
        return worker.status() if worker is not None else _Starting()

    async with AsyncExitStack() as stack:
        # 1. the port first: whether it can be taken is known at once
        port = await stack.enter_async_context(HttpPort(settings.http_host, settings.http_port, metrics, status))

        # 2. Kafka; stopping it also ends a start that is under way
        broker = EmbeddedKafka(data_dir, prefer_port=prefer_port, partitions=PARTITIONS, progress=progress)
        stack.push_async_callback(asyncio.to_thread, broker.stop)
        await asyncio.to_thread(broker.start)

        # 3. topics
        local = settings.model_copy(update={"bootstrap_servers": broker.bootstrap, "security_protocol": "PLAINTEXT"})
        await create_topics(local, broker.bootstrap, partitions=PARTITIONS, replication=1)

        # 4. the worker
        worker = Worker(local, broker.bootstrap, chain, metrics)
        stop = asyncio.Event()
        serving = asyncio.create_task(worker.run(stop), name="worker")

        async def stop_worker() -> None:
            stop.set()
            await asyncio.wait({serving})

        stack.push_async_callback(stop_worker)
        await _until_ready(worker, serving)

        # 5. a chain that can be changed
        if reloader is not None:
            await stack.enter_async_context(reloader.serving(worker))

        # 6. tell other commands
        if write_dev_file:
            stack.callback(_write_dev_file(broker.bootstrap, port.port))

        yield Here(
            settings=local,
            bootstrap=broker.bootstrap,
            http_url=port.url,
            chain=chain,
            metrics=metrics,
            broker=broker,
            serving=serving,
        )


async def _until_ready(worker: Worker, serving: asyncio.Task[None]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not worker.status().ready:
        await asyncio.wait({serving}, timeout=0.02)
        if serving.done():
            serving.result()
            raise KafkaUnavailable("the worker ended while it started")
        if time.monotonic() > deadline:
            raise KafkaUnavailable(f"the worker is not ready after {READY_WITHIN_S:g} s: {', '.join(worker.status().reasons)}")


# -- .gate/dev.json -----------------------------------------------------------------------------------------------------


def refuse_second() -> None:
    """Raise ConfigError if a `gate dev` runs in this folder already: both would write the same file."""
    try:
        other = orjson.loads(DEV_FILE.read_bytes())
        os.kill(other["pid"], 0)
    except (OSError, ValueError, KeyError, TypeError):
        return
    running = f"process {other['pid']}, Kafka at {other['bootstrap']}"
    raise ConfigError([f"{DEV_FILE}: `gate dev` runs in this folder already ({running}); stop it first"])


def _write_dev_file(bootstrap: str, http_port: int) -> Callable[[], None]:
    """Write the file; return what removes it, and its folder if nothing else is in there."""
    ignore = DEV_FILE.parent / ".gitignore"
    DEV_FILE.parent.mkdir(exist_ok=True)
    if not ignore.exists():
        ignore.write_text("*\n")
    DEV_FILE.write_bytes(orjson.dumps({"bootstrap": bootstrap, "pid": os.getpid(), "http_port": http_port}))

    def remove() -> None:
        DEV_FILE.unlink(missing_ok=True)
        if set(DEV_FILE.parent.iterdir()) <= {ignore}:
            ignore.unlink(missing_ok=True)
            DEV_FILE.parent.rmdir()

    return remove
