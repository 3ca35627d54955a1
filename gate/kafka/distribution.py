"""The jars of Apache Kafka: fetched once through Maven, kept in the user's cache."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gate.config import packaged
from gate.errors import EmbeddedBrokerError
from gate.kafka.child import Child

JAVA_AT_LEAST: Final = 17  # Kafka 4 brokers: https://kafka.apache.org/43/documentation/compatibility.html
MAVEN_TIMEOUT_S: Final = 600.0
OTHERWISE: Final = "or set GATE_BOOTSTRAP_SERVERS to the address of a running broker"


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One version of Kafka, ready to be started."""

    java: str  # the program
    home: Path  # the cache folder
    version: str  # of Kafka

    @property
    def classpath(self) -> str:
        """All jars, as the JVM's wildcard."""
        return f"{self.home}/lib/*"

    @property
    def checkpoint(self) -> Path:
        """What `kafka-storage format` writes beside meta.properties: the features a new cluster starts with."""
        return self.home / "bootstrap.checkpoint"


def new_id() -> str:
    """Return a new random id of a cluster or folder in Kafka's form: 16 bytes in URL-safe base64, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def fetch(progress: Callable[[str], None] = lambda _: None) -> Distribution:
    """Return the distribution, downloading it on first use (about 44 MB).

    `progress` gets one line before anything that takes seconds. Safe when several processes do it at once: one downloads,
    the others wait, and the cache folder appears whole or not at all. Raises EmbeddedBrokerError.
    """
    java = _java()
    pom = packaged("kafka/pom.xml")
    text = pom.read_text(encoding="utf-8")
    version = re.findall(r"<version>([^<]+)</version>", text)[0]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "registration-gate"
    home = cache / f"kafka-{version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not home.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(cache / ".lock"):
                if not home.is_dir():
                    _download(java, pom, version, home, progress)
        except OSError as error:
            raise EmbeddedBrokerError(
                f"cannot keep Kafka's jars in {cache}: {error.strerror or error}; "
                f"set XDG_CACHE_HOME to a folder that can be written, {OTHERWISE}"
            ) from error
    return Distribution(java=java, home=home, version=version)


def _java() -> str:
    """Return the path of a Java that is new enough: of JAVA_HOME, else of PATH."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    install = f"install it (Debian: `apt install openjdk-17-jre-headless`, macOS: `brew install openjdk`), {OTHERWISE}"
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH"
        raise EmbeddedBrokerError(f"the embedded Kafka needs Java {JAVA_AT_LEAST} or newer, but {where}: {install}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if said.returncode or not found:
        raise EmbeddedBrokerError(f"the embedded Kafka needs Java {JAVA_AT_LEAST} or newer, but {java} fails: {install}")
    if int(found[1]) < JAVA_AT_LEAST:
        raise EmbeddedBrokerError(
            f"the embedded Kafka needs Java {JAVA_AT_LEAST} or newer, but {java} is Java {found[1]}: {install}"
        )
    return java


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of the cache: Maven's own repository does not bear two downloads at once either."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when this process is killed
        yield


def _download(java: str, pom: Path, version: str, home: Path, progress: Callable[[str], None]) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise EmbeddedBrokerError(
            "the embedded Kafka is downloaded with Maven, but there is no `mvn` on the PATH: "
            f"install it (Debian: `apt install maven`, macOS: `brew install maven`), {OTHERWISE}"
        )
    for left_over in home.parent.glob(".fetching-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    progress(f"downloading Apache Kafka {version} through Maven, once (44 MB)")
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=home.parent, ignore_cleanup_errors=True) as folder:
        staging = Path(folder) / "home"
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={staging}/lib"]
        _run(
            [maven, "--batch-mode", "--no-transfer-progress", "--quiet", "--file", str(pom), *goal],
            log=Path(folder) / "maven.log",
            what=f"Maven could not download Apache Kafka {version}",
            mend=f"Mend what it says (proxies and mirrors are set in ~/.m2/settings.xml), {OTHERWISE}",
        )
        _format_once(java, staging, Path(folder))
        staging.rename(home)


def _format_once(java: str, staging: Path, scratch: Path) -> None:
    """Let Kafka's own tool format a folder, and keep the checkpoint that every new broker begins with.

    The tool takes 1.8 s, which each start would pay; the checkpoint depends on the version alone.
    """
    properties = scratch / "server.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n"
        f"controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@127.0.0.1:9093\nlog.dirs={scratch}/data\n"
    )
    _run(
        [java, "-cp", f"{staging}/lib/*", "kafka.tools.StorageTool", "format", "-t", new_id(), "-c", str(properties)],
        log=scratch / "format.log",
        what="Kafka's storage tool failed",
        mend=f"Check that {java} works, {OTHERWISE}",
    )
    (scratch / "data" / "bootstrap.checkpoint").rename(staging / "bootstrap.checkpoint")


def _run(command: list[str], *, log: Path, what: str, mend: str) -> None:
    with log.open("wb") as output:
        child = Child(command, output=output, grace_s=1.0)
        try:
            code = child.wait(MAVEN_TIMEOUT_S)
        finally:
            child.end()
    if code != 0:
        said = _last_lines(log.read_text(encoding="utf-8", errors="replace")) or "it said nothing"
        reason = f"took longer than {MAVEN_TIMEOUT_S:g} s" if code is None else f"exit code {code}"
        raise EmbeddedBrokerError(f"{what} ({reason}):\n{said}\n{mend}")


def _last_lines(text: str) -> str:
    """Return the lines that tell what went wrong: the first errors that Maven prints, else the last lines."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip() not in {"", "[ERROR]"}]
    telling = [line for line in lines if line.startswith("[ERROR]") and "Re-run Maven" not in line and "[Help" not in line[:14]]
    return "\n".join(f"  {line[:300]}" for line in (telling[:3] or lines[-5:]))
