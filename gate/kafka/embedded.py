"""Apache Kafka as a child process: a real broker for `gate dev`, the demo and the tests."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gate.errors import EmbeddedBrokerError
from gate.kafka.child import Child
from gate.kafka.distribution import OTHERWISE, Distribution, cluster_id, fetch

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports of Linux (32768) and macOS (49152): no outgoing connection takes one between our choice and the
broker's bind, and no client that retries the port of a stopped broker connects to itself."""

JVM: Final = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData")
LOGGING: Final = """\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %m (%c)%n%throwable
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
"""
STARTED: Final = "Kafka Server started"  # logged once the broker is registered, unfenced, and serves every listener
PORT_TAKEN: Final = re.compile(r"BindException|Address already in use|Socket server failed to bind")
FOLDER_TAKEN: Final = re.compile(r"Failed to acquire lock on file")
JARS_BROKEN: Final = re.compile(r"ClassNotFoundException|NoClassDefFoundError|Could not find or load main class")
TELLING: Final = re.compile(r" (ERROR|FATAL) |^Caused by: |^Exception in |^Error|(Exception|Error): ")


def port_is_free(port: int) -> bool:
    """Tell whether a broker could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the JVM does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


class EmbeddedKafka:
    """One combined KRaft node (broker and controller) on loopback.

    It ends with this process, also when that is killed with -9. Use it as a context manager, or call `start()` and
    `stop()`. Blocking throughout: call it in a thread from async code. `stop()` may be called from another thread at any
    time, also during `start()`.

    Args:
        data_dir: Where the broker keeps its data, used again at the next start; None is a temporary folder that `stop()` removes.
        port: The client port; None is any free one.
        prefer_port: Taken instead of any free one if it is free.
        partitions: Partitions of a topic that is created without saying how many.
        properties: More server properties, or other values of ours.
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
        start_timeout_s: float = 60.0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._temporary = data_dir is None
        self._data_dir = data_dir.absolute() if data_dir else None
        self._given_port = port
        self._prefer_port = prefer_port
        self._partitions = partitions
        self._properties = dict(properties or {})
        self._start_timeout_s = start_timeout_s
        self._progress = progress
        self._ports: tuple[int, int] | None = None  # client, controller; kept over restarts
        self._child: Child | None = None
        self._stopping = False

    def __repr__(self) -> str:
        state = f"pid={self.pid} at {self.bootstrap}" if self.running else "stopped"
        return f"<EmbeddedKafka {state}, data in {self._data_dir or 'a temporary folder'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

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
        return self._child.pid if self._child and self.running else None

    @property
    def running(self) -> bool:
        """Whether the broker process is there; a broker that died by itself is not running."""
        return self._child is not None and self._child.returncode is None

    @property
    def log_path(self) -> Path | None:
        """The broker's own log, once started."""
        return self._data_dir / "broker.log" if self._data_dir else None

    def start(self) -> Self:
        """Start the broker and return once it serves; raise EmbeddedBrokerError with nothing left behind."""
        if self.running:
            return self
        self._stopping = False
        distribution = fetch(self._progress)
        try:
            folder = self._make_folder()
            for attempts_left in reversed(range(5)):
                ports = self._ports or self._choose_ports()
                if self._run(distribution, folder, ports):
                    self._ports = ports
                    return self
                self._explain(folder, distribution, ports, final=attempts_left == 0)
            raise AssertionError("unreachable: the last attempt is explained by an error")
        except BaseException:  # KeyboardInterrupt, too
            self.stop()
            raise

    def stop(self) -> None:
        """End the broker; a temporary folder is removed, a named one is left as a clean shutdown leaves it."""
        self._stopping = True
        child, self._child = self._child, None
        if child:
            if self._temporary:
                child.signal(signal.SIGKILL)  # nobody will read its data again
            child.end()
        if self._temporary and self._data_dir:
            shutil.rmtree(self._data_dir, ignore_errors=True)
            self._data_dir = None

    def kill(self) -> None:
        """End the broker with SIGKILL and keep its data; `start()` brings it back at the same address."""
        self._signal_and_wait(signal.SIGKILL)

    def restart(self) -> None:
        """Shut the broker down cleanly and start it again at the same address, with the same data."""
        self._signal_and_wait(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): it is there, but does not answer."""
        if self._child:
            self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        if self._child:
            self._child.signal(signal.SIGCONT)

    def _signal_and_wait(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        if child:
            child.signal(number)
            child.signal(signal.SIGCONT)
            child.wait(10.0)  # a broker whose only controller is itself shuts down in 0.4 s
            child.signal(signal.SIGKILL)
            child.wait()
            child.end()

    def _make_folder(self) -> Path:
        if self._data_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="registration-gate-kafka-"))
        folder = self._data_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()) and not (folder / "server.properties").exists():
                raise EmbeddedBrokerError(
                    f"{folder} is not empty and not a data folder of the embedded broker: name an empty or a new one"
                )
        except OSError as error:
            raise EmbeddedBrokerError(
                f"the embedded broker cannot keep its data in {folder}: {error.strerror}; name a folder that can be written"
            ) from error
        return folder

    def _choose_ports(self) -> tuple[int, int]:
        free = (port for port in random.sample(PORTS, len(PORTS)) if port_is_free(port))
        if self._given_port is not None:
            if not port_is_free(self._given_port):
                raise EmbeddedBrokerError(
                    f"port {self._given_port} on {HOST} is taken: end what listens there, or let the broker take any free port"
                )
            return self._given_port, next(free)
        if self._prefer_port is not None and port_is_free(self._prefer_port):
            return self._prefer_port, next(free)
        return next(free), next(free)

    def _run(self, distribution: Distribution, folder: Path, ports: tuple[int, int]) -> bool:
        """Start the process; return whether it came up."""
        self._write_configuration(distribution, folder, ports)
        java = [distribution.java, *JVM, f"-Dlog4j2.configurationFile={folder}/log4j2.properties", "-cp", distribution.classpath]
        log = folder / "broker.log"
        if log.exists():
            log.replace(folder / "broker.previous.log")
        with log.open("wb") as output:
            child = Child(
                [*java, "kafka.Kafka", str(folder / "server.properties")],
                output=output,
                remove=folder if self._temporary else None,
            )
        self._child = child
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            ended = child.returncode is not None or self._stopping
            if STARTED in log.read_text(encoding="utf-8", errors="replace"):
                return True
            if ended or time.monotonic() > deadline:
                self._kill_unstarted(child)
                return False
            time.sleep(0.02)

    def _kill_unstarted(self, child: Child) -> None:
        # Not `child.end()` at once: that removes a temporary folder, whose log is still to be read.
        child.signal(signal.SIGKILL)
        child.wait()
        child.end()
        self._child = None

    def _write_configuration(self, distribution: Distribution, folder: Path, ports: tuple[int, int]) -> None:
        ours = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{HOST}:{ports[0]},CONTROLLER://{HOST}:{ports[1]}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@{HOST}:{ports[1]}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "log.dirs": f"{folder}/data",
            "num.partitions": str(self._partitions),
            "auto.create.topics.enable": "false",
            "default.replication.factor": "1",
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
            "broker.session.timeout.ms": "3000",  # after a kill the next start waits this long (9 s by default) for the old session
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.dedupe.buffer.size": "4194304",  # 128 MB by default, a quarter of our heap
        }
        properties = {**ours, **self._properties}
        (folder / "server.properties").write_text(
            "".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8"
        )
        (folder / "log4j2.properties").write_text(LOGGING, encoding="utf-8")
        data = folder / "data"
        if not (data / "meta.properties").exists():
            _format(data, node_id=properties["node.id"], checkpoint=distribution.checkpoint)

    def _explain(self, folder: Path, distribution: Distribution, ports: tuple[int, int], *, final: bool) -> None:
        """Return if another attempt may help, else raise what went wrong."""
        log = folder / "broker.log"
        said = log.read_text(encoding="utf-8", errors="replace")
        if self._stopping:
            raise EmbeddedBrokerError("the embedded broker was stopped while it started")
        if PORT_TAKEN.search(said):
            if not final and self._given_port is None and self._ports is None:
                return
            raise EmbeddedBrokerError(
                f"the embedded broker could not listen on {HOST}:{ports[0]} (controller: {ports[1]}): a port is taken; try again"
            )
        if FOLDER_TAKEN.search(said):
            raise EmbeddedBrokerError(f"another broker is using {folder}: end it, or name another folder")
        if JARS_BROKEN.search(said):
            raise EmbeddedBrokerError(
                f"Kafka's jars in {distribution.home} are damaged: remove that folder, they are downloaded again at the next start"
            )
        lines = [line[:300] for line in said.splitlines() if line.strip()]
        telling = [line for line in lines if TELLING.search(line)] or lines
        quoted = "\n".join(f"  {line}" for line in (telling[-6:] or ["(nothing)"]))
        where = "" if self._temporary else f" (all of it is in {log})"
        raise EmbeddedBrokerError(
            f"the embedded Kafka {distribution.version} did not start within {self._start_timeout_s:g} s or gave up; it said{where}:\n{quoted}\n"
            f"Mend that, {OTHERWISE}"
        )


def _format(data: Path, *, node_id: str, checkpoint: Path) -> None:
    """Make a new data folder as `kafka-storage format` does, without its 1.8 s of JVM; meta.properties comes last and whole."""
    data.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint, data / "bootstrap.checkpoint")
    unfinished = data / "meta.properties.new"
    unfinished.write_text(f"version=1\nnode.id={node_id}\ncluster.id={cluster_id()}\ndirectory.id={cluster_id()}\n")
    os.replace(unfinished, data / "meta.properties")
