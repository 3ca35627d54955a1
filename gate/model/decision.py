"""The decision on one attempt: its words and the outcome of a chain that leads to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

DOCUMENT_VERSION = 1
"""Version of the reply and ledger documents (DESIGN.md section 2)."""


class Status(StrEnum):
    """What the signup service is told."""

    APPROVED = "approved"
    DENIED = "denied"


class Cause(StrEnum):
    """Why an attempt was denied; a closed set (DESIGN.md section 2)."""

    ACCESS_DENIED = "access_denied"  # an action called `api.access.deny`
    VALIDATION_ERROR = "validation_error"  # an action called `api.validation.error`
    ACTION_FAILED = "action_failed"  # an action raised, and its `on_error` is "deny"
    TIMED_OUT = "timed_out"  # the chain's or an action's own time limit
    EXPIRED = "expired"  # the asker's deadline passed first
    INVALID_ATTEMPT = "invalid_attempt"  # the value is not a readable event
    CONFLICT = "conflict"  # the id was used before for another content
    OVERLOADED = "overloaded"  # waited longer than GATE_MAX_QUEUE_MS


class Scope(StrEnum):
    """Which asks a ledger record decides (protocol rule 1)."""

    ID = "id"  # every ask of the attempt id within the window
    ASK = "ask"  # only the ask it was written for


SCOPES: dict[Cause | None, Scope] = {
    None: Scope.ID,
    Cause.ACCESS_DENIED: Scope.ID,
    Cause.VALIDATION_ERROR: Scope.ID,
    Cause.ACTION_FAILED: Scope.ID,
    Cause.TIMED_OUT: Scope.ID,
    Cause.EXPIRED: Scope.ASK,
    Cause.OVERLOADED: Scope.ASK,
    Cause.INVALID_ATTEMPT: Scope.ASK,
}
"""Scope of the record that an approval (None) or a denial of that cause is written as; a conflict is never written."""


class ActionOutcome(StrEnum):
    """How one action of the chain ended."""

    RAN = "ran"  # to its end, without denying
    DENIED = "denied"  # by `access.deny` or `validation.error`
    FAILED = "failed"  # raised
    TIMED_OUT = "timed_out"  # cut by its own or the chain's limit
    NOT_MATCHED = "not_matched"  # its `when` did not match
    NOT_REACHED = "not_reached"  # the chain ended before it


@dataclass(slots=True)
class ActionTrace:
    """What one action did; goes to the ledger and to `gate test`, never to the asker."""

    name: str
    version: str  # hash of the action's file
    outcome: ActionOutcome
    duration_ms: float = 0.0
    error: str | None = None  # class name of what it raised
    error_at: str | None = None  # file:line of the action where it came from
    error_text: str | None = None  # what it said; only in trials, never in a worker
    logs: Sequence[str] = ()  # captured lines, bounded
    tries: int = 1  # how often it ran, with `retries`

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the ledger's `trace` list."""
        document: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "outcome": self.outcome.value,
            "duration_ms": round(self.duration_ms, 3),
        }
        if self.tries > 1:
            document["tries"] = self.tries
        for name in ("error", "error_at", "error_text"):
            value = getattr(self, name)
            if value is not None:
                document[name] = value
        if self.logs:
            document["logs"] = self.logs
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why, for the logs (`reason`) and for the person (`user_message`)."""

    cause: Cause
    reason: str
    user_message: str | None = None
    action: str | None = None  # the action that denied, failed or was running when the budget ended
    errors: tuple[dict[str, str], ...] = ()  # validation errors in order: code, message and, if given, field

    def to_json(self) -> dict[str, Any]:
        """Return the `denial` of a reply."""
        document: dict[str, Any] = {"cause": self.cause.value, "reason": self.reason}
        if self.user_message is not None:
            document["user_message"] = self.user_message
        if self.action is not None:
            document["action"] = self.action
        document["errors"] = list(self.errors)
        return document


FIXED_TEXTS: dict[Cause, tuple[str, str]] = {
    Cause.ACTION_FAILED: ("action_failed", "Your registration could not be checked. Please try again later."),
    Cause.TIMED_OUT: ("timed_out", "Checking your registration took too long. Please try again later."),
    Cause.EXPIRED: ("expired", "Your registration could not be checked in time. Please try again."),
    Cause.INVALID_ATTEMPT: ("invalid_attempt", "Your registration could not be read."),
    Cause.CONFLICT: ("conflict", "This registration was already submitted with other details."),
    Cause.OVERLOADED: ("overloaded", "Too many people are registering right now. Please try again in a moment."),
}
"""Reason and user message of the denials that no action words."""


def fixed_denial(cause: Cause, *, action: str | None = None) -> Denial:
    """Return the denial of a cause that no action words."""
    reason, user_message = FIXED_TEXTS[cause]
    return Denial(cause=cause, reason=reason, user_message=user_message, action=action)


Texts = Mapping[Cause, str]
"""User messages of fixed denials in one language."""


def localised(denial: Denial, texts: Texts | None) -> Denial:
    """Return a denial with the user message that `texts` has for its cause; the reason is the same in every language."""
    if texts is None or denial.cause not in texts:
        return denial
    return replace(denial, user_message=texts[denial.cause])


@dataclass(slots=True, kw_only=True)
class OutboundCall:
    """One call made through `api.http`."""

    action: str
    result: str  # a status class ("2xx" … "5xx"), "timeout" or "error"
    duration_s: float


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What running a chain on one event came to. `denial` is None for an approval.

    `changes` maps `user_metadata` and `app_metadata` to the top-level keys that actions set (None removes a key); a
    scope nobody touched is absent, and a denial has none. A warning is `{"code", "message", "action"?}`.
    """

    denial: Denial | None
    chain: str | None = None  # hash of the chain that ran; None where none did
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    user_id: str | None = None  # chosen by an action, with GATE_SET_USER_ID
    warnings: list[dict[str, str]] = field(default_factory=list)
    trace: list[ActionTrace] = field(default_factory=list)
    outbound: list[OutboundCall] = field(default_factory=list)
    late_calls: int = 0  # calls on an `api` after its action had returned, ignored (DESIGN.md section 3, 6)
    metadata_bytes: int = 0  # at least what all metadata that actions set takes as JSON, ASCII text unescaped

    @property
    def status(self) -> Status:
        """Approved unless there is a denial."""
        return Status.APPROVED if self.denial is None else Status.DENIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an asker is told, read from a reply.

    `user_metadata` and `app_metadata` are the merged result: store these. `assumed` is true when no reply came and the
    client decided by its `on_timeout` (DESIGN.md section 5): then nothing but `attempt_id` and `status` is known.
    """

    attempt_id: str
    status: Status
    user_metadata: dict[str, Any] = field(default_factory=dict)
    app_metadata: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    user_id: str | None = None  # the id to create the user with, where an action chose one
    denial: Denial | None = None
    warnings: tuple[dict[str, str], ...] = ()
    chain: str | None = None
    decided_at: str | None = None
    assumed: bool = False

    @property
    def approved(self) -> bool:
        """Whether the person may register."""
        return self.status is Status.APPROVED

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Decision:
        """Read a reply document; unknown keys are ignored, so a newer gate can add some.

        Raises ValueError, KeyError, TypeError or AttributeError where it is none.
        """
        denial = document.get("denial")
        changes = _typed(dict, document.get("changes", {}))
        decision = cls(
            attempt_id=_typed(str, document["attempt_id"]),
            status=Status(document["status"]),
            user_metadata=_typed(dict, document.get("user_metadata", {})),
            app_metadata=_typed(dict, document.get("app_metadata", {})),
            changes={scope: _typed(dict, changed) for scope, changed in changes.items()},
            user_id=_typed(str | None, document.get("user_id")),
            denial=None if denial is None else _read_denial(denial),
            warnings=_objects(document.get("warnings", ())),
            chain=_typed(str | None, document.get("chain")),
            decided_at=_typed(str | None, document.get("decided_at")),
        )
        if decision.approved != (decision.denial is None):
            raise ValueError("a denial is there exactly where the status is denied")
        return decision


def _read_denial(denial: dict[str, Any]) -> Denial:
    return Denial(
        cause=Cause(denial["cause"]),
        reason=_typed(str, denial["reason"]),
        user_message=_typed(str | None, denial.get("user_message")),
        action=_typed(str | None, denial.get("action")),
        errors=_objects(denial.get("errors", ())),
    )


def _objects(values: Any) -> tuple[dict[str, str], ...]:
    return tuple(_typed(dict, value) for value in _typed(list | tuple, values))


def _typed(kind: Any, value: Any) -> Any:
    """Return a value of that type as it is; whoever reads a decision relies on it, whoever sent the reply."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind} should be")
    return value
