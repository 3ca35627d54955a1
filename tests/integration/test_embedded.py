"""The embedded broker comes up, keeps its promises about data and address, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gate.config import Settings
from gate.errors import EmbeddedBrokerError
from gate.kafka.connection import wait_for_kafka
from gate.kafka.embedded import HOST, EmbeddedKafka, port_is_free

pytestmark = pytest.mark.kafka

HOLDER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from gate.kafka.embedded import EmbeddedKafka

    kafka = EmbeddedKafka(start_timeout_s=50)
    try:
        kafka.start()
        print(kafka.pid, kafka._child._watcher.pid, kafka.data_dir, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("running at Ctrl-C:", kafka.running, flush=True)
        kafka.stop()
        print("running after stop:", kafka.running, flush=True)
""")


async def write(bootstrap: str, topic: str, value: bytes) -> None:
    await wait_for_kafka(Settings(connect_timeout_s=20), bootstrap)  # a broker that was just paused may close a connection yet
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, value, partition=0)


async def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    await wait_for_kafka(Settings(connect_timeout_s=20), bootstrap)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, 1, 1)])
        assert [(name, 0, None)] == response.topic_errors
    finally:
        await admin.close()


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that mention a folder."""
    found = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(folder) in line]


async def test_records_come_back(kafka, topics):
    await write(kafka.bootstrap, topics.attempts_topic, b"hello")

    assert [b"hello"] == await read(kafka.bootstrap, topics.attempts_topic, 1)
    assert kafka.running
    assert f"<EmbeddedKafka pid={kafka.pid} at {kafka.bootstrap}, data in {kafka.data_dir}>" == repr(kafka)


async def test_topics_are_not_made_by_asking_for_them(kafka):
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.client.fetch_all_metadata()
        await producer.client.add_topic("nobody.made.this")

        assert "nobody.made.this" not in (await producer.client.fetch_all_metadata()).topics()


def test_it_listens_on_loopback_only(kafka):
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{kafka.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == int(kafka.bootstrap.split(":")[1])
    ]

    assert listening
    assert {"0100007F", "0000000000000000FFFF00000100007F"} >= {address.split(":")[0] for address in listening}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker with a named folder that these tests may stop; the first port it chooses is taken before it gets there."""
    folder = tmp_path_factory.mktemp("own") / "with a space and an ü"
    choose = EmbeddedKafka._choose_ports
    with socket.create_server((HOST, 0)) as other, pytest.MonkeyPatch.context() as patch:
        taken = [other.getsockname()[1]]
        patch.setattr(EmbeddedKafka, "_choose_ports", lambda kafka: (taken.pop(), 20_000) if taken else choose(kafka))
        broker = EmbeddedKafka(folder).start()
        assert [] == taken
        assert f"{HOST}:{other.getsockname()[1]}" != broker.bootstrap
    yield broker
    broker.stop()
    assert [] == processes_of(folder)


async def test_a_port_that_somebody_takes_before_the_broker_does_is_replaced_by_another(own):
    await make_topic(own.bootstrap, "t")
    await write(own.bootstrap, "t", b"one")

    assert [b"one"] == await read(own.bootstrap, "t", 1)


async def test_data_and_address_outlive_a_restart(own):
    bootstrap, pid = own.bootstrap, own.pid

    await asyncio.to_thread(own.restart)

    assert (bootstrap, True) == (own.bootstrap, pid != own.pid)
    assert [b"one"] == await read(bootstrap, "t", 1)


async def test_a_paused_broker_answers_when_it_is_resumed(own):
    own.pause()
    writing = asyncio.create_task(write(own.bootstrap, "t", b"two"))
    done, _ = await asyncio.wait([writing], timeout=0.3)
    assert not done

    own.resume()
    await writing
    assert [b"one", b"two"] == await read(own.bootstrap, "t", 2)


def test_a_folder_is_never_used_by_two_brokers_at_once(own):
    with pytest.raises(EmbeddedBrokerError, match=r"another broker is using .*: end it, or name another folder"):
        EmbeddedKafka(own.data_dir).start()

    assert own.running


async def test_what_was_acknowledged_outlives_kill_9_and_is_there_for_the_next_to_use_the_folder(own):
    await write(own.bootstrap, "t", b"three")

    own.kill()

    assert (False, None) == (own.running, own.pid)
    own._ports = None  # as another EmbeddedKafka in another process would find it
    await asyncio.to_thread(own.start)
    assert [b"one", b"two", b"three"] == await read(own.bootstrap, "t", 3)


@contextlib.contextmanager
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has an embedded broker."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_nothing_is_left_after_kill_9_of_the_parent(tmp_path, alive, eventually):
    with holder(tmp_path) as process:
        assert process.stdout
        pid, watcher = map(int, (await asyncio.to_thread(process.stdout.readline)).split()[:2])
        assert 2 == len(processes_of(tmp_path))

        process.kill()

        await eventually(lambda: not alive(pid) and not alive(watcher), within_s=20)
    assert [] == processes_of(tmp_path)
    assert [] == list(tmp_path.iterdir())


async def test_nothing_is_left_after_kill_9_of_the_parent_while_the_broker_starts(tmp_path, eventually):
    with holder(tmp_path) as process:
        await eventually(lambda: len(processes_of(tmp_path)) == 2)

        process.kill()

        await eventually(lambda: not processes_of(tmp_path), within_s=20)
    assert [] == list(tmp_path.iterdir())


async def test_ctrl_c_reaches_us_before_the_broker_and_leaves_nothing(tmp_path, alive):
    with holder(tmp_path) as process:
        assert process.stdout
        pid = int((await asyncio.to_thread(process.stdout.readline)).split()[0])

        os.killpg(process.pid, signal.SIGINT)  # what the terminal does

        assert "running at Ctrl-C: True\nrunning after stop: False\n" == await asyncio.to_thread(process.stdout.read)
        assert not alive(pid)
    assert [] == list(tmp_path.iterdir())


def test_a_failed_start_quotes_the_broker_says_what_else_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(EmbeddedBrokerError) as caught:
        EmbeddedKafka(properties={"log.retention.ms": "soon"}).start()

    assert "Invalid value soon for configuration log.retention.ms" in str(caught.value)
    assert "set GATE_BOOTSTRAP_SERVERS" in str(caught.value)
    assert [] == processes_of(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_broker_that_does_not_come_up_in_time_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(EmbeddedBrokerError, match=r"did not start within 0.1 s"):
        EmbeddedKafka(start_timeout_s=0.1).start()

    assert [] == processes_of(tmp_path)


def test_a_start_can_be_stopped_from_another_thread(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kafka = EmbeddedKafka()
    stopper = threading.Timer(0.5, kafka.stop)
    stopper.start()

    with pytest.raises(EmbeddedBrokerError, match="was stopped while it started"):
        kafka.start()

    stopper.join()
    assert [] == processes_of(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(EmbeddedBrokerError, match="is not empty and not a data folder of the embedded broker"):
        EmbeddedKafka(tmp_path).start()

    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]


def test_a_named_port_that_is_taken_is_an_error_at_once():
    with socket.create_server((HOST, 0)) as other, pytest.raises(EmbeddedBrokerError, match=r"port \d+ on 127.0.0.1 is taken"):
        EmbeddedKafka(port=other.getsockname()[1]).start()


def test_the_preferred_port_is_taken_if_it_is_free_and_another_if_not():
    free = next(port for port in range(19_000, 20_000) if port_is_free(port))

    assert free == EmbeddedKafka(prefer_port=free)._choose_ports()[0]
    with socket.create_server((HOST, free)):
        assert free != EmbeddedKafka(prefer_port=free)._choose_ports()[0]


def test_the_address_of_a_broker_that_was_never_started_is_a_mistake():
    with pytest.raises(RuntimeError, match="has not been started"):
        _ = EmbeddedKafka().bootstrap
