"""Turns what actions print and log into lines of their trace, also when many run at once, and keeps it out of everything else.

The streams and the logging module are looked at only when something is printed or logged: which action did it is found in a
context variable, so an action that prints nothing pays nothing. What an action writes may be personal data or a secret: it goes
to its trace, where secrets are blanked out, and not to the log of the worker.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TextIO, cast

from gate.chain.effects import current
from gate.chain.places import innermost_action

ACTION_MODULES: Final = "gate_actions"
"""Parent of the modules that action files become, so of their `logging.getLogger(__name__)`, too."""


_loading: ContextVar[bool] = ContextVar("whether an action's file is being loaded in this context", default=False)


class _Output:
    """A standard stream for everybody: an action's output goes to its trace, everything else where it went before.

    What a file prints while it is loaded goes to stderr: stdout is for what commands print. What an action prints in a thread
    that it started itself goes nowhere, because that thread knows of no trace.
    """

    def __init__(self, original: TextIO, while_loading: TextIO) -> None:
        self.original = original
        self._while_loading = while_loading

    def write(self, text: str) -> int:
        effects = current.get()

        if effects is not None:
            effects.write(text)
        elif _loading.get():
            self._while_loading.write(text)
        elif not _action_on_stack():
            return self.original.write(text)

        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> _Buffer:
        return _Buffer(self)

    def detach(self) -> _Buffer:
        return self.buffer

    def close(self) -> None:
        """Leave it open: it is everybody's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Buffer:
    """The bytes under a standard stream, which take the same way as its text."""

    def __init__(self, stream: _Output) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode(errors="replace"))
        return len(data)

    def close(self) -> None:
        """Leave it open: it is everybody's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream.original.buffer, name)


class _Handler(logging.Handler):
    """Takes log records of the running action: level, message and, of an exception, the class."""

    def emit(self, record: logging.LogRecord) -> None:
        effects = current.get()

        if effects is None and not _loading.get():
            return

        try:
            line = f"{record.levelname}: {record.getMessage()}"
        except Exception:  # noqa: BLE001 - a log call with the wrong arguments is the action's mistake, not ours
            line = f"{record.levelname}: {record.msg}"

        if record.exc_info and record.exc_info[0] is not None:
            line += f" ({record.exc_info[0].__name__})"

        for part in line.splitlines():
            if effects is None:
                sys.stderr.write(part + "\n")
            else:
                effects.log(part)


def _not_of_an_action(record: logging.LogRecord) -> bool:
    """Keep what an action or a library that it calls logs out of other handlers; our own warnings about it go through."""
    return record.name.startswith("gate.") or (current.get() is None and not _action_on_stack())


def _action_on_stack() -> bool:
    """Tell whether an action's code runs here, though in none of its contexts."""
    return innermost_action(inspect.currentframe()) is not None


_handler: Final = _Handler()
_lock: Final = threading.Lock()  # a chain is loaded in a thread while another one runs
_filtered: Final[list[logging.Handler]] = []
_users = 0


def install() -> None:
    """Start capturing. Caller: whoever runs or loads actions; each call is undone by one of `remove()`."""
    global _users  # noqa: PLW0603 - stdout and logging are the process's, so is their state
    with _lock:
        _users += 1

        if _users > 1:
            return

        out, err = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = cast("TextIO", _Output(out, err)), cast("TextIO", _Output(err, err))
        root, actions = logging.getLogger(), logging.getLogger(ACTION_MODULES)
        _filtered.extend(root.handlers)

        for handler in _filtered:
            handler.addFilter(_not_of_an_action)

        root.addHandler(_handler)
        actions.addHandler(_handler)
        actions.setLevel(logging.DEBUG)
        actions.propagate = False


def remove() -> None:
    """Stop capturing when the last one who needs it is through."""
    global _users  # noqa: PLW0603 - see install()
    with _lock:
        _users -= 1

        if _users:
            return

        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)

            if isinstance(stream, _Output):
                setattr(sys, name, stream.original)

        for handler in _filtered:
            handler.removeFilter(_not_of_an_action)

        _filtered.clear()
        logging.getLogger().removeHandler(_handler)
        logging.getLogger(ACTION_MODULES).removeHandler(_handler)


@contextmanager
def loading() -> Iterator[None]:
    """Send what is printed and logged in this context to stderr: an action's file is being loaded."""
    install()
    token = _loading.set(True)
    try:
        yield
    finally:
        _loading.reset(token)
        remove()
