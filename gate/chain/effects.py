"""What one action asked for through its `api`, and what it printed, while it ran on one event."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from gate.model.decision import ActionTrace, OutboundCall, Outcome

if TYPE_CHECKING:
    from gate.chain.action import Action
    from gate.chain.resources import Resources

MAX_LOG_CHARACTERS: Final = 4096
"""Captured per action; with 20 actions a ledger record stays below half of Kafka's 1 MB."""
MAX_LOG_LINES: Final = 64

current: ContextVar[Effects | None] = ContextVar("effects of the running action", default=None)
"""The action that runs in this context; `print()`, logging and `api.http` find it here, in tasks and threads alike."""


class Effects:
    """The record that an action's `api` writes and the runner reads. A closed one takes nothing more.

    What most actions never touch is a default of the class: one is made for every action of every attempt.
    """

    closed = False
    untouched = True  # nothing was commanded
    denial: tuple[str, str | None] | None = None  # the first: reason, user message
    denied_at_s = 0.0  # time.monotonic() of that
    errors: list[dict[str, str]] | None = None
    changes: dict[str, dict[str, Any]] | None = None  # of user_metadata and app_metadata, by key
    user_id: str | None = None
    cut_at: str | None = None  # file:line at which it waited when its time was over
    trace: ActionTrace | None = None  # what this came to, once that is settled
    secret_removed = False  # from a metadata value
    log_lines: list[str] | None = None
    log_partial = ""
    log_characters = 0

    def __init__(self, action: Action, outcome: Outcome, resources: Resources | None, deadline_s: float) -> None:
        self.action = action
        self.outcome = outcome  # of the whole chain; outbound and late calls are added there
        self.resources = resources
        self.deadline_s = deadline_s  # time.monotonic() at which the action is cut

    def __repr__(self) -> str:
        return f"<Effects of {self.action.name}: {'closed' if self.closed else 'open'}>"

    def renewed(self, deadline_s: float) -> Effects:
        """Return the record of the next try of the same action: nothing commanded yet, what was printed kept."""
        again = Effects(self.action, self.outcome, self.resources, deadline_s)
        again.log_lines, again.log_characters = self.log_lines, self.log_characters
        return again

    def late(self, call: str) -> None:
        """Count a call on an `api` whose action has ended (DESIGN.md section 3, 6)."""
        self.outcome.late_calls += 1
        self.action.warn_late_call(call)

        if self.resources is not None:
            self.resources.late_calls += 1

        if self.trace is not None:
            self.note(f"WARNING: api.{call} was called after the action had returned; the call is ignored")

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

        *lines, partial = (self.log_partial + text).split("\n")

        for line in lines:
            self.log(line)

        self.log_partial = partial[: 2 * MAX_LOG_CHARACTERS]  # cut where no line ends, so through no secret that is shown

    def log(self, line: str) -> None:
        """Take a log line of the action; secrets are blanked out, and lines past the bound dropped."""
        if not self.closed:
            self.note(line)

    def note(self, line: str) -> None:
        """Add a line of the gate's own, also after the action has ended; bounded like the action's."""
        if self.log_lines is None:
            self.log_lines = []

            if self.trace is not None:
                self.trace.logs = self.log_lines

        lines = self.log_lines
        room = MAX_LOG_CHARACTERS - self.log_characters

        if room <= 0 or len(lines) >= MAX_LOG_LINES:
            if lines[-1] != _DROPPED:
                lines.append(_DROPPED)

            return

        line = printable(self.action.redact(line))
        kept = line if len(line) <= room else line[: room - 1] + "…"
        self.log_characters += len(kept) + 1
        lines.append(kept)

    def close(self) -> list[str] | None:
        """Take nothing more; return the captured lines. May be called again."""
        if self.log_partial:
            self.log(self.log_partial)
            self.log_partial = ""

        self.closed = True
        return self.log_lines


_DROPPED = "… more lines were dropped"


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: half surrogate pairs become `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
