"""Finds actions in tracebacks and stacks: the module of each carries the action's name."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

ACTION_NAME: Final = "__gate_action__"
"""Global of an action's module that holds the action's name; set when its file is loaded."""

MAX_CLASS_CHARACTERS: Final = 100

# A foreign exception's class may say anything under these names, or raise when they are read; these are Python's own.
_class_name: Any = vars(type)["__name__"].__get__
_traceback: Any = vars(BaseException)["__traceback__"].__get__


def class_name(error: BaseException, redact: Callable[[str], str] = str) -> str:
    """Return the name of an exception's class, without secrets, on one line and of no more than so many characters."""
    name = redact(_class_name(type(error)))[:MAX_CLASS_CHARACTERS]
    return name if name.isprintable() else "".join(each if each.isprintable() else "?" for each in name)


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return where an exception came through."""
    found: TracebackType | None = _traceback(error)
    return found


def action_of(frame: FrameType) -> str | None:
    """Return the name of the action whose file a frame's code stands in."""
    name = frame.f_globals.get(ACTION_NAME)
    return name if isinstance(name, str) else None


def innermost_action(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of a stack whose code stands in an action's file."""
    while frame is not None and action_of(frame) is None:
        frame = frame.f_back

    return frame


def action_behind(error: BaseException) -> str | None:
    """Return the name of the first action whose code an error came through."""
    return next((name for frame, _ in traceback.walk_tb(traceback_of(error)) if (name := action_of(frame)) is not None), None)


def place_in_action(error: BaseException, file: Path | None) -> str | None:
    """Return file:line of the innermost line of an action, or of `file`, that an error came through."""
    found: str | None = None

    for frame, line in traceback.walk_tb(traceback_of(error)):
        code = frame.f_code

        if action_of(frame) is not None or (file is not None and code.co_filename == str(file)):
            found = f"{code.co_filename}:{line}"

    return found
