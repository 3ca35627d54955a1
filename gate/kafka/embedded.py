"""Apache Kafka as a child process: a real broker for `gate dev`, the demo and the tests."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gate.errors import EmbeddedBrokerError
from gate.kafka.broker_folder import BrokerFolder
from gate.kafka.child import Child
from gate.kafka.distribution import OTHERWISE, Distribution, fetch, new_id

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports of Linux (32768) and macOS (49152): no outgoing connection takes one between our choice and the
broker's bind, and no client that retries the port of a stopped broker connects to itself."""
PORT_CHOICES: Final = 5
"""How often other ports are tried after somebody was quicker."""
SHUTDOWN_S: Final = 10.0
"""A broker whose only controller is itself shuts down in 0.4 s."""

JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData")


def port_is_free(port: int) -> bool:
    """Tell whether a broker could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the JVM does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_ports() -> Iterator[int]:
    """Yield ports that a broker could listen on now, in random order: two who ask hardly get the same."""
    return (port for port in random.sample(PORTS, len(PORTS)) if port_is_free(port))


class EmbeddedKafka:
    """One combined KRaft node (broker and controller) on loopback.

    It ends with this process, also when that is killed with -9. Use it as a context manager, or call `start()` and
    `stop()`. All methods block: call them in a thread from async code. One thread at a time, but for `stop()`, which any
    thread may call at any time, also during `start()`.

    Args:
        data_dir: Where the broker keeps its data, used again at the next start; None: a temporary folder that `stop()` removes.
        port: The port for clients; None is any free one.
        prefer_port: Taken instead of any free one if it is free.
        partitions: Partitions of a topic that is made without saying how many.
        properties: More server properties; they win over ours. With other `listeners` than ours the addresses are yours to know.
        cluster_id: What new data is formatted with, the same for all nodes of a cluster; None is a random one.
        heap_mb: The JVM's heap.
        start_timeout_s: How long `start()` waits for the broker.
        progress: Gets one line before the download that the first start ever needs.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        prefer_port: int | None = None,
        partitions: int = 4,
        properties: Mapping[str, str] | None = None,
        cluster_id: str | None = None,
        heap_mb: int = 512,
        start_timeout_s: float = 60.0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._temporary = data_dir is None
        self._folder = BrokerFolder(data_dir.absolute()) if data_dir else None
        self._given_port = port
        self._prefer_port = prefer_port
        self._partitions = partitions
        self._extra = dict(properties or {})
        self._cluster_id = cluster_id
        self._heap_mb = heap_mb
        self._start_timeout_s = start_timeout_s
        self._progress = progress
        self._ports: tuple[int, int] | None = None  # clients', controller's; promised once `start()` has returned
        self._child: Child | None = None
        self._stopped = threading.Event()

    def __repr__(self) -> str:
        state = f"pid={self.pid} at {self.bootstrap}" if self.running else "stopped"
        return f"<EmbeddedKafka {state}, data in {self.data_dir or 'a temporary folder'}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """The address for clients; known once started, and the same after a restart."""
        if self._ports is None:
            raise RuntimeError("the embedded broker has not been started")
        return f"{HOST}:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """The process id of the broker's JVM while it runs."""
        child = self._child
        return child.pid if child and child.returncode is None else None

    @property
    def running(self) -> bool:
        """Whether the broker process is there; one that died by itself is not."""
        return self.pid is not None

    @property
    def data_dir(self) -> Path | None:
        """The broker's folder, with its log in `broker.log`; None for a temporary one while stopped."""
        return self._folder.path if self._folder else None

    def start(self) -> Self:
        """Start the broker and return once it serves; raise EmbeddedBrokerError, with nothing left behind."""
        if self.running:
            return self
        self._end_keeping_data(signal.SIGKILL)  # what is left of a broker that died by itself
        self._stopped.clear()
        try:
            self._bring_up(fetch(self._progress))
        except BaseException as error:  # KeyboardInterrupt, too
            self.stop()
            if isinstance(error, OSError):
                raise EmbeddedBrokerError(f"the embedded broker could not be started: {error}; mend that, {OTHERWISE}") from error
            raise
        return self

    def stop(self) -> None:
        """End the broker; a temporary folder is removed, a named one is left as a clean shutdown leaves it."""
        self._stopped.set()
        child, self._child = self._child, None
        if child:
            if self._temporary:
                child.signal(signal.SIGKILL)  # nobody will read its data again
            child.end()
        if self._temporary and self._folder:
            shutil.rmtree(self._folder.path, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the broker with SIGKILL, keep its data and address.

        The next `start()` takes some 3 s longer: the cluster first waits for the old session to end.
        """
        self._end_keeping_data(signal.SIGKILL)

    def restart(self) -> None:
        """Shut the broker down cleanly and start it again at the same address, with the same data."""
        self._end_keeping_data(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): its ports accept, but nothing answers."""
        if self._child:
            self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        if self._child:
            self._child.signal(signal.SIGCONT)

    def _bring_up(self, distribution: Distribution) -> None:
        folder = self._folder = self._folder or BrokerFolder(Path(tempfile.mkdtemp(prefix="registration-gate-kafka-")))
        folder.make()
        for choices_left in reversed(range(PORT_CHOICES)):
            ports = self._ports or self._choose_ports()
            trouble = self._serve(distribution, folder, ports)
            if trouble is None:
                self._ports = ports
                return
            ours_to_choose = self._ports is None and self._given_port is None
            if not (folder.port_taken() and ours_to_choose and choices_left):
                raise self._failure(trouble, distribution, folder, ports)

    def _end_keeping_data(self, number: signal.Signals) -> None:
        # Not `Child.end()` at once: that removes a temporary folder.
        child, self._child = self._child, None
        if child:
            child.signal(number)
            child.signal(signal.SIGCONT)  # if it was paused
            if child.wait(SHUTDOWN_S) is None:
                child.signal(signal.SIGKILL)
                child.wait()
            child.end()

    def _choose_ports(self) -> tuple[int, int]:
        free = free_ports()
        wanted = self._given_port or self._prefer_port
        if wanted is not None and port_is_free(wanted):
            return wanted, next(port for port in free if port != wanted)
        if self._given_port is not None:
            raise EmbeddedBrokerError(
                f"port {self._given_port} on {HOST} is taken: end what listens there, or let the broker take any free port"
            )
        return next(free), next(free)

    def _serve(self, distribution: Distribution, folder: BrokerFolder, ports: tuple[int, int]) -> str | None:
        """Start the process once; return None if it came up, else what it did instead."""
        folder.configure({**self._properties(ports), **self._extra}, distribution, self._cluster_id or new_id())
        options = (f"-Xmx{self._heap_mb}m", *JVM, f"-Dlog4j2.configurationFile={folder.logging}")
        java = [distribution.java, *options, "-cp", distribution.classpath]
        with folder.open_log() as output:
            remove = folder.path if self._temporary else None
            child = self._child = Child([*java, "kafka.Kafka", str(folder.properties)], output=output, remove=remove)
        deadline = time.monotonic() + self._start_timeout_s
        while child.returncode is None and time.monotonic() < deadline and not self._stopped.wait(0.02):
            if folder.started():
                return None
        trouble = "gave up" if child.returncode is not None else f"did not start within {self._start_timeout_s:g} s"
        self._end_keeping_data(signal.SIGKILL)
        return trouble

    def _properties(self, ports: tuple[int, int]) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{HOST}:{ports[0]},CONTROLLER://{HOST}:{ports[1]}",
            "listener.security.protocol.map": (
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
            ),
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{HOST}:{ports[1]}",
            "num.partitions": str(self._partitions),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",  # 50 by default, each a folder to make and a log to load
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",  # lets tests lose a worker quickly
            "broker.session.timeout.ms": "3000",  # 9 s by default, which the start after a kill waits for
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.dedupe.buffer.size": "4194304",  # 128 MB by default, a quarter of our heap
        }

    def _failure(
        self, trouble: str, distribution: Distribution, folder: BrokerFolder, ports: tuple[int, int]
    ) -> EmbeddedBrokerError:
        if self._stopped.is_set():
            return EmbeddedBrokerError("the embedded broker was stopped while it started")
        if folder.port_taken():
            return EmbeddedBrokerError(
                f"the embedded broker could not listen on {HOST}:{ports[0]} or :{ports[1]}: a port was taken meanwhile; try again"
            )
        where = "" if self._temporary else f" (all of it is in {folder.log})"
        said = folder.complaint(distribution)
        return EmbeddedBrokerError(
            f"the embedded Kafka {distribution.version} {trouble}; it said{where}:\n{said}\nMend that, {OTHERWISE}"
        )
