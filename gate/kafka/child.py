"""A child process that cannot outlive this one: the parent's side of `watcher.py`."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

WATCHER = Path(__file__).with_name("watcher.py")


class Child:
    """One command, run in its own session by a watcher that ends it when this process ends.

    Its own session keeps the terminal's Ctrl-C from reaching the command before we have shut down in order.
    """

    def __init__(self, command: Sequence[str], *, output: IO[bytes], remove: Path | None = None, grace_s: float = 10.0) -> None:
        options = ["--grace", f"{grace_s:g}", *(("--remove", str(remove)) if remove else ())]
        self._lock = threading.Lock()
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WATCHER), *options, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
        assert self._watcher.stdout
        with self._watcher.stdout as announced:
            line = announced.readline()
        self.pid = int(line) if line else None  # None: the command could not even be run; `output` says why

    def __repr__(self) -> str:
        code = self.returncode
        return f"<Child pid={self.pid} {'running' if code is None else f'ended with {code}'}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, 128 + n after signal n, or None while the command runs."""
        return self._watcher.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command; nothing happens if it has ended."""
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            pipe = self._watcher.stdin
            assert pipe
            pipe.write(bytes([number]))
            pipe.flush()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None if the command still runs after `timeout_s`."""
        try:
            return self._watcher.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End the command as if this process had died; wait until it is gone."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            assert self._watcher.stdin
            self._watcher.stdin.close()
        self._watcher.wait()
