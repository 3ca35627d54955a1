"""What one action asked for through its `api`, and what it printed, while it ran on one event."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from gate.model.decision import OutboundCall, Outcome

if TYPE_CHECKING:
    from gate.chain.action import Action
    from gate.chain.http import HttpPool
    from gate.chain.threads import DaemonThreads

MAX_LOG_CHARACTERS: Final = 4096
"""Captured per action; with 20 actions a ledger record stays below half of Kafka's 1 MB."""
MAX_LOG_LINES: Final = 64

logger = logging.getLogger(__name__)

current: ContextVar[Effects | None] = ContextVar("effects of the running action", default=None)
"""The action that runs in this context; `print()`, logging and `api.http` find it here, in tasks and threads alike."""


class Effects:
    """The record that an action's `api` writes and the runner reads. A closed one takes nothing more."""

    __slots__ = (
        "action",
        "app_metadata",
        "closed",
        "deadline_s",
        "denial",
        "errors",
        "log_characters",
        "log_lines",
        "log_partial",
        "outcome",
        "pool",
        "threads",
        "user_metadata",
    )

    def __init__(
        self, action: Action, outcome: Outcome, pool: HttpPool | None, threads: DaemonThreads | None, deadline_s: float
    ) -> None:
        self.action = action
        self.outcome = outcome  # of the whole chain; outbound and late calls are added there
        self.pool = pool
        self.threads = threads
        self.deadline_s = deadline_s  # time.monotonic() at which the action is cut
        self.closed = False
        self.denial: tuple[str, str | None] | None = None  # the first: reason, user message
        self.errors: list[dict[str, str]] | None = None
        self.user_metadata: dict[str, Any] | None = None
        self.app_metadata: dict[str, Any] | None = None
        self.log_lines: list[str] | None = None

    def __repr__(self) -> str:
        return f"<Effects of {self.action.name}: {'closed' if self.closed else 'open'}>"

    def late(self, call: str) -> None:
        """Count a call on an `api` whose action has ended (DESIGN.md section 3, 6)."""
        self.outcome.late_calls += 1
        self.action.count_late_call(call)

    def outbound(self, result: str, duration_s: float) -> None:
        """Record a call made through `api.http`."""
        self.outcome.outbound.append(OutboundCall(action=self.action.name, result=result, duration_s=duration_s))

    def left_s(self) -> float:
        """Return what is left of the action's time limit, in seconds."""
        return self.deadline_s - time.monotonic()

    def write(self, text: str) -> None:
        """Take what the action printed: whole lines at once, the rest when its line ends."""
        if self.closed:
            return

        *lines, partial = (self.log_partial + text if self.log_lines is not None else text).split("\n")

        for line in lines:
            self.log(line)

        if self.log_lines is None:
            self._begin_log()

        self.log_partial = partial[:MAX_LOG_CHARACTERS]

    def log(self, line: str) -> None:
        """Take a log line of the action; secrets are blanked out, and lines past the bound dropped."""
        if self.closed:
            return

        if self.log_lines is None:
            self._begin_log()

        lines = self.log_lines
        assert lines is not None  # noqa: S101 - _begin_log made it
        room = MAX_LOG_CHARACTERS - self.log_characters

        if room <= 0 or len(lines) >= MAX_LOG_LINES:
            if lines[-1] != _DROPPED:
                lines.append(_DROPPED)

            return

        line = printable(self.action.redact(line))
        kept = line if len(line) <= room else line[: room - 1] + "…"
        self.log_characters += len(kept) + 1
        lines.append(kept)

    def close(self) -> list[str]:
        """Take nothing more; return the captured lines. May be called again."""
        if self.log_lines is None:
            self.closed = True
            return []

        if self.log_partial:
            self.log(self.log_partial)
            self.log_partial = ""

        self.closed = True
        return self.log_lines

    def _begin_log(self) -> None:
        self.log_lines = []
        self.log_partial = ""
        self.log_characters = 0


_DROPPED = "… more lines were dropped"


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: half surrogate pairs become `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
