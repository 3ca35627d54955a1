"""A child process cannot outlive the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from gate.kafka.child import Child

SLEEPS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
PARENT = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from gate.kafka.child import Child

    folder, *command = sys.argv[1:]
    with Path(folder, "log").open("wb") as output:
        child = Child(command, output=output, remove=Path(folder), grace_s=0.2)
    print(child.pid, child._watcher.pid, flush=True)
    time.sleep(600)
""")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "output").open("w+b") as file:
        yield file


def start_parent(folder: Path, command: list[str]) -> tuple[subprocess.Popen[str], int, int]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder), *command], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout as announced:
        child, watcher = map(int, announced.readline().split())
    return parent, child, watcher


@pytest.mark.parametrize("command", [SLEEPS, STUBBORN], ids=["well behaved", "ignores SIGTERM"])
async def test_a_child_and_its_folder_are_gone_after_kill_9_of_the_parent(tmp_path, command, alive, eventually):
    folder = tmp_path / "folder"
    folder.mkdir()
    parent, child, watcher = start_parent(folder, command)
    await eventually(lambda: (folder / "log").read_bytes() == b"up\n")

    parent.kill()
    parent.wait()

    await eventually(lambda: not alive(child) and not alive(watcher))
    assert not folder.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
async def test_a_child_dies_with_its_watcher_too(tmp_path, alive, eventually):
    parent, child, watcher = start_parent(tmp_path, SLEEPS)

    os.kill(watcher, signal.SIGKILL)

    await eventually(lambda: not alive(child))
    parent.kill()
    parent.wait()


async def test_a_forked_sibling_that_holds_the_pipe_open_does_not_keep_the_child_alive(tmp_path, alive, eventually):
    forks = PARENT.replace("print(", "import os\nif os.fork() == 0: time.sleep(30)\nprint(")
    folder = tmp_path / "folder"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", forks, str(folder), *SLEEPS], stdout=subprocess.PIPE, start_new_session=True)  # noqa: ASYNC220 -- nothing else runs here
    assert parent.stdout
    child, watcher = map(int, parent.stdout.readline().split())
    try:
        parent.kill()
        await eventually(lambda: not alive(child) and not alive(watcher))
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # the sibling
        parent.stdout.close()
        parent.wait()


def test_the_exit_code_is_the_commands_own(output):
    child = Child([sys.executable, "-c", "raise SystemExit(7)"], output=output)

    assert 7 == child.wait(10)
    child.end()
    assert 7 == child.returncode


def test_signals_reach_the_command_and_show_in_the_exit_code(output):
    child = Child(SLEEPS, output=output)
    assert child.wait(0.01) is None

    child.signal(signal.SIGKILL)

    assert 128 + signal.SIGKILL == child.wait(10)
    child.signal(signal.SIGKILL)  # nobody is there any more: nothing happens
    child.end()


def test_both_streams_of_the_command_go_to_the_output(output):
    child = Child([sys.executable, "-c", "import sys; print('out', flush=True); print('err', file=sys.stderr)"], output=output)
    child.wait(10)
    child.end()
    output.seek(0)

    assert b"out\nerr\n" == output.read()


def test_a_stopped_child_can_be_ended(output, alive):
    child = Child(STUBBORN, output=output, grace_s=0.1)
    child.signal(signal.SIGSTOP)

    child.end()

    assert child.pid
    assert not alive(child.pid)


def test_a_program_that_does_not_exist_is_an_ended_child_with_a_reason(output):
    child = Child(["/nowhere/java"], output=output)

    assert 0 != child.wait(10)
    child.end()
    output.seek(0)
    assert child.pid is None
    assert b"/nowhere/java" in output.read()


def test_the_child_is_in_another_session_so_ctrl_c_reaches_us_first(output):
    child = Child(SLEEPS, output=output)
    assert child.pid

    assert os.getsid(child.pid) != os.getsid(0)
    child.end()
