"""What becomes of errors in tasks, threads and objects that an action leaves behind: a line that names the action and the class.

Python would print such an exception with its text, which may hold a secret or personal data, into the worker's log.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gate import log as logs
from gate.chain.places import action_behind, class_name

log = logs.get(__name__)


@contextmanager
def quiet(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Say so, and no more, while the context is open; errors that did not come out of an action go where they went before."""
    in_task, in_thread, in_object = loop.get_exception_handler(), threading.excepthook, sys.unraisablehook

    def of_task(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if _say(context.get("exception"), "task"):
            return

        if in_task is None:
            loop.default_exception_handler(context)
        else:
            in_task(loop, context)

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if not _say(arguments.exc_value, "thread"):
            in_thread(arguments)

    def of_object(arguments: sys.UnraisableHookArgs) -> None:
        if not _say(arguments.exc_value, "object"):
            in_object(arguments)

    loop.set_exception_handler(of_task)
    threading.excepthook = of_thread
    sys.unraisablehook = of_object
    try:
        yield
    finally:
        loop.set_exception_handler(in_task)
        threading.excepthook = in_thread
        sys.unraisablehook = in_object


def _say(error: BaseException | None, where: str) -> bool:
    """Log the error if it came out of an action's code; return whether it did."""
    if error is None or (action := action_behind(error)) is None:
        return False

    log.warning("action_left_error", action=action, where=where, error=class_name(error))
    return True
