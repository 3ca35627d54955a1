"""The folder of one embedded broker: its configuration, its formatted data, and what its log says."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from gate.errors import EmbeddedBrokerError
from gate.kafka.distribution import Distribution, new_id

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


class BrokerFolder:
    """One folder, used by one broker at a time.

    It holds `server.properties`, `log4j2.properties`, `broker.log` of this run and of the previous one, and `data`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "broker.log"
        self.properties = path / "server.properties"
        self.logging = path / "log4j2.properties"

    def __repr__(self) -> str:
        return f"BrokerFolder({str(self.path)!r})"

    def make(self) -> None:
        """Make the folder unless it is there; raise EmbeddedBrokerError if it is something else's."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = any(self.path.iterdir()) and not self.properties.exists()
        except OSError as error:
            raise EmbeddedBrokerError(
                f"the embedded broker cannot keep its data in {self.path}: {error.strerror}; name a folder that can be written"
            ) from error
        if foreign:
            raise EmbeddedBrokerError(
                f"{self.path} is not empty and not a data folder of the embedded broker: name an empty or a new folder"
            )

    def configure(self, properties: Mapping[str, str], distribution: Distribution, cluster_id: str) -> None:
        """Write the configuration, and format the data on first use as that cluster's."""
        settings = {**properties, "log.dirs": f"{self.path}/data"}
        self.properties.write_text("".join(f"{key}={_escaped(value)}\n" for key, value in settings.items()), encoding="ascii")
        self.logging.write_text(LOGGING, encoding="utf-8")
        self._format(settings["node.id"], distribution.checkpoint, cluster_id)

    def _format(self, node_id: str, checkpoint: Path, cluster_id: str) -> None:
        """Do as `kafka-storage format` does, without its 1.8 s of JVM; meta.properties, the sign of success, comes last."""
        data = self.path / "data"
        meta = data / "meta.properties"
        if meta.exists():
            return
        data.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint, data / "bootstrap.checkpoint")
        unfinished = data / "meta.properties.new"
        unfinished.write_text(f"version=1\nnode.id={node_id}\ncluster.id={cluster_id}\ndirectory.id={new_id()}\n")
        os.replace(unfinished, meta)

    def open_log(self) -> IO[bytes]:
        """Begin a new log, and keep the one before it."""
        if self.log.exists():
            self.log.replace(self.path / "broker.previous.log")
        return self.log.open("wb")

    def started(self) -> bool:
        """Tell whether the broker serves."""
        return STARTED in self._said()

    def port_taken(self) -> bool:
        """Tell whether the broker gave up because somebody else listens on one of its ports."""
        return PORT_TAKEN.search(self._said()) is not None

    def complaint(self, distribution: Distribution) -> str:
        """Return why the broker did not start, for a person: a known cause, or the lines of its log that tell most."""
        said = self._said()
        if FOLDER_TAKEN.search(said):
            return f"another broker is using {self.path}: end it, or name another folder"
        if JARS_BROKEN.search(said):
            return f"Kafka's jars in {distribution.home} are damaged: remove that folder, the next start downloads them again"
        lines = [line[:300] for line in said.splitlines() if line.strip()]
        telling = [line for line in lines if TELLING.search(line)] or lines
        return "\n".join(f"  {line}" for line in (telling[-6:] or ["(nothing)"]))

    def _said(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # stopped meanwhile
            return ""


def _escaped(value: str) -> str:
    """Write a value as java.util.Properties reads it: backslashes doubled, what is not ASCII as UTF-16 units."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join("\\\\" if code == 0x5C else chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)
