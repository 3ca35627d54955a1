"""Finds actions in tracebacks and stacks: the module of each carries the action's name."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import FrameType
from typing import Final

ACTION_NAME: Final = "__gate_action__"
"""Global of an action's module that holds the action's name; set when its file is loaded."""


def action_of(frame: FrameType) -> str | None:
    """Return the name of the action whose file a frame's code stands in."""
    name = frame.f_globals.get(ACTION_NAME)
    return None if name is None else str(name)


def action_behind(error: BaseException) -> str | None:
    """Return the name of the first action whose code an error came through."""
    return next((name for frame, _ in traceback.walk_tb(error.__traceback__) if (name := action_of(frame)) is not None), None)


def place_in_action(error: BaseException, file: Path | None) -> str | None:
    """Return file:line of the innermost line of an action, or of `file`, that an error came through."""
    found: str | None = None

    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code

        if action_of(frame) is not None or (file is not None and code.co_filename == str(file)):
            found = f"{code.co_filename}:{line}"

    return found
