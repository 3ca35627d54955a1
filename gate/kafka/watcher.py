"""Run one command and end it when the process that asked for it ends, however that happens.

Run as a script with the standard library only, so that it starts in some 20 ms:

    python -I -S watcher.py [--remove FOLDER] [--grace SECONDS] COMMAND…

Standard input is a pipe whose other end only the parent holds. Each byte on it is the number of a signal for the command.
Its end means that the parent is gone, be it by `kill -9`: the command is terminated, killed after the grace period,
and the folder is removed. When the command ends by itself the watcher exits with its code, and removes nothing.

Standard output carries one line, the process id of the command; the command itself inherits standard error for both of its
streams.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

PR_SET_PDEATHSIG: Final = 1
ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PARENT_CHECK_S: Final = 1.0
"""How often the parent is looked for: a child that it forked without exec holds the pipe open, too."""


def _die_with_me() -> Callable[[], None] | None:
    """Return what makes a child die when this process is killed with -9 (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    child.terminate()
    child.send_signal(signal.SIGCONT)  # a stopped process sees no SIGTERM
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def watch(command: list[str], *, remove: str | None, grace_s: float) -> int:
    """Run `command` until it ends or the parent does; return the exit code."""
    parent = os.getppid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake)

    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        preexec_fn=_die_with_me(),  # noqa: PLW1509 -- this process has one thread
    )
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), b"%d\n" % child.pid)

    while child.poll() is None:
        readable, _, _ = select.select([0, woken], [], [], PARENT_CHECK_S)
        orders = os.read(0, 16) if 0 in readable else None
        signals = os.read(woken, 64) if woken in readable else b""
        if orders == b"" or os.getppid() != parent or any(number in signals for number in ENDING):
            _end(child, grace_s)
            if remove:
                shutil.rmtree(remove, ignore_errors=True)
            break
        for order in orders or b"":
            child.send_signal(order)
    code = child.returncode
    return code if code >= 0 else 128 - code


def main() -> int:
    """Read the command line and watch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--remove")
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    return watch(arguments.command, remove=arguments.remove, grace_s=arguments.grace)


if __name__ == "__main__":
    sys.exit(main())
