"""Run a command's coroutine: the event loop, and what signals do to it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import typer

from gate.cli.output import say

T = TypeVar("T")

INTERRUPTED = 128 + signal.SIGINT

LEFT_BEHIND_S: Final = 2.0
"""How long tasks that actions left behind may take to end once a command has done its work; asyncio would wait for ever."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; Ctrl-C cancels it, and the command ends with exit code 130.

    What actions left behind and what does not end when it is cancelled ends with the process, whose exit code is then the
    coroutine's result, if that is a number.
    """
    # What is loaded by now stays. What is made for an attempt goes without the collector, so it need not look at a
    # thousand of them in flight every 700 objects, the default: that was a quarter of all CPU (`make bench`).
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    leaving: list[threading.Timer] = []

    async def work() -> T:
        code = 1
        try:
            result = await coroutine
            code = result if isinstance(result, int) else 0
        finally:
            leaving.append(threading.Timer(LEFT_BEHIND_S, _leave, (code,)))
            leaving[0].daemon = True
            leaving[0].start()
        return result

    try:
        if sys.platform == "win32":
            return asyncio.run(work())

        import uvloop

        return uvloop.run(work())
    except KeyboardInterrupt:
        # A task that was interrupted would say so, with a traceback, when it is collected.
        logging.getLogger("asyncio").disabled = True
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for timer in leaving:
            timer.cancel()


def _leave(code: int) -> None:
    say("what actions left behind does not end; leaving without it")
    sys.stdout.flush()
    os._exit(code)


@contextmanager
def stop_on_signals(on_stop: Callable[[], None] = lambda: None) -> Iterator[asyncio.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets, after calling `on_stop`. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def heard(number: int) -> None:
        if stop.is_set():
            # No clean-up of any kind: whoever sends a second signal does not want to wait for one.
            os._exit(128 + number)
        stop.set()
        on_stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, heard, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """Call it on every SIGHUP, the signal by which daemons are told to read their configuration again."""
    if sys.platform == "win32":
        yield
        return

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, call)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def until_signal(work: Coroutine[Any, Any, T]) -> T | None:
    """Run until the end or a signal; a signal cancels it, waits for its clean-up and returns None."""
    with stop_on_signals(lambda: say("stopping (once more to exit at once)")) as stop:
        working = asyncio.create_task(work, name="command")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
        try:
            return await working
        except asyncio.CancelledError:
            # Only the signal cancels it; whoever awaits us and is cancelled gets that at the next await.
            return None


async def or_stopped(waiting: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Await something unless the stop comes first, which cancels it; return whether it came to its end."""
    task = asyncio.create_task(waiting, name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait({task})
    return False
