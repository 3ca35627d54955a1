"""The programs that answer attempts, started as processes and watched by the kernel's clocks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

HERE = Path(__file__).parent
GATE = Path(sys.executable).with_name("gate")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a contestant works on."""

    bootstrap: str
    attempts: str
    decisions: str
    replies: str
    dlq: str
    group: str


class Contestant(Protocol):
    """A program that answers attempts."""

    name: str

    def command(self, stage: Stage) -> Sequence[str]:
        """Return what to run."""

    def environment(self, stage: Stage) -> dict[str, str]:
        """Return what to set."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program under peers/."""

    name: str
    file: str

    def command(self, stage: Stage) -> Sequence[str]:
        return [sys.executable, str(HERE / "peers" / self.file), stage.bootstrap, stage.attempts, stage.group]

    def environment(self, stage: Stage) -> dict[str, str]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """`gate worker` as it is shipped, with the chain of the benchmarks."""

    name: str = "gate"
    mode: str = "strict"
    settings: dict[str, str] = field(default_factory=dict)

    def command(self, stage: Stage) -> Sequence[str]:
        return [str(GATE), "worker"]

    def environment(self, stage: Stage) -> dict[str, str]:
        return {
            "GATE_BOOTSTRAP_SERVERS": stage.bootstrap,
            "GATE_ATTEMPTS_TOPIC": stage.attempts,
            "GATE_DECISIONS_TOPIC": stage.decisions,
            "GATE_REPLIES_TOPIC": stage.replies,
            "GATE_DLQ_TOPIC": stage.dlq,
            "GATE_REPLY_TOPICS": stage.replies,
            "GATE_GROUP_ID": stage.group,
            "GATE_CHAIN": str(HERE / "actions" / "chain.toml"),
            "GATE_MODE": self.mode,
            "GATE_HTTP_PORT": "0",
            "GATE_LOG_LEVEL": "warning",
            **self.settings,
        }


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, all its threads, by its own clock (Linux: MAKE_PROCESS_CPUCLOCK, nanoseconds)."""
    return time.clock_gettime((~pid << 3) | 2)


def peak_mb(pid: int) -> float:
    """Return the largest resident memory that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Running:
    """A contestant at work; a context manager that ends it."""

    def __init__(self, contestant: Contestant, stage: Stage) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GATE_")}
        self.name = contestant.name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            contestant.command(stage),
            env={**clean, **contestant.environment(stage)},
            cwd=tempfile.gettempdir(),  # no gate.toml of the working directory
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise if the process has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}: {self.said()}")

    def said(self) -> str:
        """Return the end of what it wrote."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:].strip() or "(it said nothing)"
