"""The commands as processes, as a person or a supervisor starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings

BIN = Path(sys.executable).parent
MARK = "REGISTRATION_GATE_ACCEPTANCE"


class Running:
    """One command that runs in the background, and what it has written so far."""

    def __init__(self, arguments: tuple[str, ...], *, cwd: Path, env: dict[str, str]) -> None:
        self.arguments = arguments
        number = uuid.uuid4().hex[:6]
        self._out, self._err = cwd / f".{number}.out", cwd / f".{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(BIN / "gate"), *arguments],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, check: Callable[[], Any], *, within_s: float = 40.0) -> Any:
        """Return what `check` returns once it is true; fail with the output if that takes too long or the command ends."""
        deadline = time.monotonic() + within_s
        while not (result := check()):
            ended = self.process.poll() is not None
            if ended and (result := check()):
                break
            if ended or time.monotonic() > deadline:
                pytest.fail(f"gate {' '.join(self.arguments)}: rc {self.process.returncode}\n{self.out}\n{self.err}")
            time.sleep(0.02)
        return result

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return self.process.wait(within_s)


class Gate:
    """Runs `gate …` in a folder of its own, with the settings of a test in its environment."""

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.mark = uuid.uuid4().hex
        self.env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", MARK: self.mark}
        self._running: list[Running] = []

    def use(self, settings: Settings) -> None:
        """Put what differs from the defaults into the environment of all later commands."""
        for name, value in settings.model_dump(exclude_defaults=True).items():
            self.env[f"GATE_{name.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)

    def __call__(self, *arguments: str, stdin: str = "", within_s: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [str(BIN / "gate"), *arguments],
            cwd=self.cwd, env={**self.env, **env}, input=stdin, capture_output=True, text=True, timeout=within_s, check=False,
        )  # fmt: skip

    def json(self, *arguments: str, code: int = 0, **options: Any) -> Any:
        """Run a command with --json and return the document, which must be all of stdout."""
        done = self(*arguments, "--json", **options)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str, **env: str) -> Running:
        """Start a command in the background; it is killed at the end of the test if it still runs."""
        running = Running(arguments, cwd=self.cwd, env={**self.env, **env})
        self._running.append(running)
        return running

    def processes(self) -> list[str]:
        """Return the command lines of all living processes that our commands have started, and theirs."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended meanwhile, or is not ours
        return found

    def close(self) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Run the commands in an empty folder."""
    made = Gate(tmp_path)
    yield made
    made.close()


@pytest.fixture
def here(gate: Gate, topics: Settings) -> Gate:
    """The same on the session's broker, with fresh topics."""
    gate.use(topics)
    return gate
