"""Programs around the gate, on bare aiokafka: askers of every kind, readers of whole topics, and workers to talk to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record.util import calc_crc32c as crc32c
from pydantic import SecretStr

from gate.chain.loader import load_chain
from gate.config import Settings
from gate.kafka.closing import stop_consumer, stop_producer
from gate.metrics import Metrics
from gate.worker.worker import Worker

CHAIN = Path(__file__).parent / "chain"
_OF_THE_TOPIC = 1  # https://kafka.apache.org/protocol, source of a setting: set for this topic
GATE = (str(Path(sys.executable).parent / "gate"),)

EVENT: dict[str, Any] = {
    "connection": {"id": "con_1", "name": "Username-Password-Authentication", "strategy": "auth0"},
    "request": {"ip": "192.0.2.41", "language": "en", "geoip": {"continentCode": "EU", "countryCode": "PT"}},
    "user": {"email": "zoe@example.com", "user_metadata": {"old": 1}, "app_metadata": {}},
}


def event(email: str = "zoe@example.com", **user: Any) -> bytes:
    """Return an attempt's value; the part before the @ says what the chain of these tests does with it."""
    connection = {**EVENT["connection"], **({"name": "slow"} if email.startswith("wait") else {})}
    return json.dumps({**EVENT, "connection": connection, "user": {**EVENT["user"], "email": email, **user}}).encode()


def runs_of(path: Path) -> Counter[str]:
    """Return how often the chain ran for each attempt id, from the file of the fixture `runs`."""
    return Counter(path.read_text().split())


def int32(number: int) -> bytes:
    return struct.pack(">i", number)


def header(record: ConsumerRecord, name: str) -> bytes | None:
    """Return a header that may stand there once."""
    found = [value for key, value in record.headers if key == name]
    assert len(found) < 2, f"{name} stands there {len(found)} times"
    return found[0] if found else None


class Asker:
    """Sends attempts as they are given, and keeps every reply that arrives on the reply topic."""

    def __init__(self, settings: Settings) -> None:
        assert settings.bootstrap_servers
        self.settings = settings
        self.replies: list[ConsumerRecord] = []
        self._producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all", request_timeout_ms=10_000)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest", fetch_max_wait_ms=20
        )
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Asker:
        await self._producer.start()
        await self._consumer.start()
        # Without a group, and from the beginning: nothing that was ever replied is missed.
        partitions = await partitions_of(self.settings, self.settings.replies_topic)
        self._consumer.assign([TopicPartition(self.settings.replies_topic, number) for number in range(partitions)])
        self._reader = asyncio.create_task(self._read(), name="asker")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await stop_consumer(self._consumer)
        await stop_producer(self._producer)

    async def _read(self) -> None:
        async for record in self._consumer:
            self.replies.append(record)

    async def send(
        self,
        value: bytes | None,
        *,
        headers: Mapping[str, bytes | None] | None = None,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> None:
        """Send one attempt and wait until the broker has it."""
        if partition is None and key is None:
            partition = 0
        given = list((headers or {}).items())
        if partition is None or value is not None:
            await self._producer.send_and_wait(self.settings.attempts_topic, value, key=key, partition=partition, headers=given)
        else:
            await self.append(partition, value, headers=given, key=key)

    async def append(
        self, partition: int, value: bytes | None, *, headers: Sequence[tuple[str, bytes | None]], key: bytes | None
    ) -> None:
        """Send one attempt as it is: headers repeated, no key, no value; `send` of aiokafka refuses some of that."""
        builder = self._producer.create_batch()
        builder.append(timestamp=None, key=key, value=value, headers=list(headers))
        builder.close()
        await (await self._producer.send_batch(builder, self.settings.attempts_topic, partition=partition))

    async def send_with_header_named_in_no_encoding(self, partition: int) -> None:
        """Send a record with a header's name that is not UTF-8: brokers take it, aiokafka does not parse it."""
        builder = self._producer.create_batch()
        builder.append(timestamp=None, key=b"k", value=b"{}", headers=[("QQ", b"x")])
        builder.close()
        data = bytearray(builder._build()).replace(b"QQ", b"\xff\xfe")
        data[17:21] = crc32c(bytes(data[21:])).to_bytes(4, "big")  # record batch v2: the CRC covers what follows it
        builder._buffer = bytes(data)
        await (await self._producer.send_batch(builder, self.settings.attempts_topic, partition=partition))

    async def submit(self, attempt_id: str, value: bytes, **headers: bytes) -> None:
        """Send an attempt as the README says: keyed by its id, correlated by `<id>` unless told otherwise."""
        given = {"gate-attempt-id": attempt_id.encode(), "kafka_correlationId": attempt_id.encode()}
        given["kafka_replyTopic"] = self.settings.replies_topic.encode()
        await self.send(
            value, key=attempt_id.encode(), headers={**given, **{k.replace("__", "-"): v for k, v in headers.items()}}
        )

    def to(self, attempt_id: str) -> list[ConsumerRecord]:
        """Return all replies to an attempt id so far."""
        return [record for record in self.replies if header(record, "gate-attempt-id") == attempt_id.encode()]


def body(record: ConsumerRecord) -> dict[str, Any]:
    assert record.value is not None
    return dict(json.loads(record.value))


async def partitions_of(settings: Settings, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        return len((await admin.describe_topics([topic]))[0]["partitions"])
    finally:
        await admin.close()


async def members(settings: Settings) -> int:
    """Return how many workers the broker counts in the group."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        ((group,),) = [response.groups for response in await admin.describe_consumer_groups([settings.group_id])]
        return len(group[5])  # error, group, state, protocol type, protocol, members
    finally:
        await admin.close()


async def alter_topic(settings: Settings, topic: str, configs: dict[str, str]) -> None:
    """Change settings of a topic; all others stay as they are."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        ((_, _, _, _, entries),) = response.resources
        kept = {name: value for name, value, _, source, *_ in entries if source == _OF_THE_TOPIC}  # what is not named is reset
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={**kept, **configs})])
    finally:
        await admin.close()


async def read_all(settings: Settings, topic: str, *, options: Mapping[str, Any] | None = None) -> list[ConsumerRecord]:
    """Return every record of a topic, partition by partition, in order; as whom `options` say."""
    count = await partitions_of(settings, topic)
    tps = [TopicPartition(topic, number) for number in range(count)]
    who = options or {"bootstrap_servers": settings.bootstrap_servers}
    consumer = AIOKafkaConsumer(**who, auto_offset_reset="earliest", fetch_max_wait_ms=20)
    await consumer.start()
    try:
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        found: list[ConsumerRecord] = []
        for tp in tps:
            while await consumer.position(tp) < ends[tp]:
                found += (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])
        return found
    finally:
        await consumer.stop()


async def lag(settings: Settings) -> dict[int, int]:
    """Return how far the group's committed offset is from the end of each attempts partition."""
    count = await partitions_of(settings, settings.attempts_topic)
    tps = [TopicPartition(settings.attempts_topic, number) for number in range(count)]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers, group_id=settings.group_id, enable_auto_commit=False
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(tps)
        return {tp.partition: ends[tp] - (await consumer.committed(tp) or 0) for tp in tps}
    finally:
        await consumer.stop()


@asynccontextmanager
async def serving(settings: Settings, *, chain: Path = CHAIN) -> AsyncIterator[Worker]:
    """Run a worker in this process, from ready to left; its end must be a clean one."""
    assert settings.bootstrap_servers
    worker = Worker(settings, settings.bootstrap_servers, load_chain(chain, secrets_dir=None, environ={}), Metrics())
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop), name="worker under test")
    try:
        deadline = time.monotonic() + 20
        while not worker.status().ready:
            assert not running.done(), running.exception()
            assert time.monotonic() < deadline, worker.status().reasons
            await asyncio.sleep(0.01)
        yield worker
    finally:
        stop.set()
        done, _ = await asyncio.wait({running}, timeout=settings.shutdown_grace_s + 10)
        if not done:
            running.cancel()
            await asyncio.wait({running}, timeout=5)
            raise AssertionError("the worker did not stop in time")
        running.result()


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables by which a `gate` process gets these settings."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
    for name, value in settings.model_dump(exclude_defaults=True).items():
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        environ[f"GATE_{name.upper()}"] = ",".join(plain) if isinstance(plain, tuple) else str(plain)
    return environ


class WorkerProcess:
    """`gate worker` as a process of its own, as a supervisor starts it."""

    def __init__(
        self, settings: Settings, folder: Path, *, chain: Path = CHAIN, program: Sequence[str] = GATE, **env: str
    ) -> None:
        environ = environment(settings) | {"GATE_CHAIN": str(chain), "GATE_LOG_FORMAT": "json", **env}
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, "worker"],
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        found = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    @property
    def url(self) -> str | None:
        starting = self.lines("worker_starting")
        return str(starting[0]["http"]) if starting else None

    def readiness(self) -> tuple[int, str]:
        """Return status and body of /readyz; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, ValueError) as error:
            assert self.process.poll() is None, self.log
            return 0, str(error)

    def metrics(self) -> str:
        """Return the text of /metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as response:
            return str(response.read().decode())

    async def ready(self, *, within_s: float = 30.0) -> WorkerProcess:
        """Wait until it takes attempts."""
        await until(lambda: self.readiness()[0] == 200, within_s=within_s, why=lambda: f"{self.readiness()}\n{self.log}")
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return await self.ended(within_s=within_s)

    async def ended(self, *, within_s: float = 30.0) -> int:
        await until(lambda: self.process.poll() is not None, within_s=within_s, why=lambda: self.log)
        return self.process.returncode

    def cpu_s(self) -> float:
        """Return the processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Start = Callable[..., WorkerProcess]
"""What the fixture `start` returns."""


async def until(check: Callable[[], Any], *, within_s: float, why: Callable[[], str]) -> None:
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(check):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {await asyncio.to_thread(why)}")
        await asyncio.sleep(0.02)


class Load:
    """Attempts at a fixed rate, each with an id of its own; what the broker has acknowledged must be answered."""

    def __init__(self, asker: Asker, *, rate: float) -> None:
        self.asker = asker
        self.rate = rate
        self.acknowledged: set[str] = set()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self.stop()
        await self._task

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    async def _run(self) -> None:
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self._stop.is_set():
                tasks.create_task(self.submit(number), name=f"load-{number}")
                number += 1
                await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))

    async def submit(self, number: int) -> None:
        """Send one attempt, or the same one again."""
        attempt_id = f"load-{number}"
        mailbox = ("zoe", "denied", "wait0.02", "zoe")[number % 4]
        await self.asker.submit(attempt_id, event(f"{mailbox}@example.com", number=number))
        self.acknowledged.add(attempt_id)

    @property
    def unanswered(self) -> set[str]:
        return self.acknowledged - {str(header(record, "gate-attempt-id"), "utf-8") for record in self.asker.replies}

    async def answered(self, *, within_s: float = 30.0) -> None:
        """Wait until everything acknowledged so far is answered."""
        await until(lambda: not self.unanswered, within_s=within_s, why=lambda: f"{len(self.unanswered)} without an answer")

    def contradictions(self) -> dict[str, int]:
        """Return the attempt ids whose replies are not the same, with how many different ones there are."""
        values: dict[bytes, set[bytes | None]] = {}
        for record in self.asker.replies:
            values.setdefault(header(record, "gate-attempt-id") or b"", set()).add(record.value)
        return {attempt_id.decode(): len(found) for attempt_id, found in values.items() if len(found) > 1}
