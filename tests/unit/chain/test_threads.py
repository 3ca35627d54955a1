"""Daemon threads: an action that does not come back costs one thread, and that one is replaced."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from gate.chain import threads as threads_module
from gate.chain.threads import DaemonThreads

variable: ContextVar[str] = ContextVar("variable", default="unset")


def alive_but(others: set[threading.Thread]) -> set[str]:
    """Return the names of the threads that are there, but for those of other tests."""
    return {thread.name for thread in set(threading.enumerate()) - others}


async def test_a_call_returns_what_its_function_returns_or_raises() -> None:
    threads = DaemonThreads(1)

    assert 3 == await threads.call(lambda a, b: a + b, 1, 2)
    with pytest.raises(ZeroDivisionError):
        await threads.call(lambda: 1 / 0)

    threads.close()


async def test_a_call_runs_in_a_daemon_thread_in_a_copy_of_its_context() -> None:
    threads = DaemonThreads(1)
    variable.set("here")

    def look() -> tuple[str, bool]:
        seen = variable.get()
        variable.set("there")
        return seen, threading.current_thread().daemon

    assert ("here", True) == await threads.call(look)
    assert "here" == variable.get()
    threads.close()


async def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    threads = DaemonThreads(2)
    lock = threading.Lock()
    running = most = 0
    gate = threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.call(work) for _ in range(10)))

    assert 2 == most
    assert "<DaemonThreads 0 busy, 2 idle, 0 waiting, 0 abandoned>" == repr(threads)
    threads.close()


async def test_a_cancelled_call_abandons_its_thread_and_the_next_gets_a_new_one(eventually: Any) -> None:
    others = set(threading.enumerate())
    threads = DaemonThreads(1)
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(10)

    hanging = asyncio.create_task(threads.call(hang))
    waiting = asyncio.create_task(threads.call(threading.get_ident))
    await eventually(begun.is_set, within_s=5)
    assert "<DaemonThreads 1 busy, 0 idle, 1 waiting, 0 abandoned>" == repr(threads)

    hanging.cancel()
    await asyncio.wait_for(waiting, 5)

    assert 1 == threads.abandoned
    names = alive_but(others)
    release.set()
    await eventually(lambda: "action-1" not in alive_but(others), within_s=5)
    assert {"action-1", "action-2"} <= names
    threads.close()


async def test_no_more_than_so_many_threads_are_replaced_and_those_that_come_back_make_room(
    eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "MAX_LOST", 2)
    threads = DaemonThreads(1)
    releases = [threading.Event() for _ in range(4)]
    begun = []

    def hang(number: int) -> None:
        begun.append(number)
        releases[number].wait(10)

    for number in range(3):
        hanging = asyncio.create_task(threads.call(hang, number))
        await eventually(lambda number=number: number in begun, within_s=5)
        hanging.cancel()
        await asyncio.wait({hanging})
    waiting = asyncio.create_task(threads.call(lambda: "done"))
    await asyncio.sleep(0)

    assert (3, 2) == (threads.abandoned, threads.lost)
    assert "<DaemonThreads 1 busy, 0 idle, 1 waiting, 3 abandoned>" == repr(threads)
    releases[2].set()  # the one that kept its place
    assert "done" == await asyncio.wait_for(waiting, 5)
    for release in releases:
        release.set()
    await eventually(lambda: threads.lost == 0, within_s=5)
    assert "<DaemonThreads 0 busy, 1 idle, 0 waiting, 3 abandoned>" == repr(threads)
    threads.close()


async def test_a_call_cancelled_while_it_waits_is_never_run(eventually: Any) -> None:
    threads = DaemonThreads(1)
    begun, release = threading.Event(), threading.Event()
    ran = []

    def hang() -> None:
        begun.set()
        release.wait(10)

    hanging = asyncio.create_task(threads.call(hang))
    waiting = asyncio.create_task(threads.call(ran.append, 1))
    await eventually(begun.is_set, within_s=5)
    waiting.cancel()
    await asyncio.wait({waiting})
    release.set()
    await hanging
    await threads.call(lambda: None)

    assert ([], 0) == (ran, threads.abandoned)
    threads.close()


async def test_closed_threads_end_and_take_no_calls(eventually: Any) -> None:
    others = set(threading.enumerate())
    threads = DaemonThreads(1)
    await threads.call(lambda: None)

    threads.close()

    with pytest.raises(RuntimeError, match="closed"):
        await threads.call(lambda: None)
    await eventually(lambda: "action-1" not in alive_but(others), within_s=5)
