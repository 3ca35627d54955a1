"""What the end of an action means for its chain: the rules of DESIGN.md section 3, without doing anything."""

from __future__ import annotations

from typing import Final, NamedTuple

from gate.chain.action import Action
from gate.chain.effects import Effects, printable
from gate.chain.places import class_name, place_in_action
from gate.model.decision import ActionOutcome, ActionTrace, Cause, Denial, Outcome, fixed_denial
from gate.model.event import Event
from gate.model.readonly import EMPTY, NO_SECRETS
from gate.model.wire import warning

_RAN: Final = ActionOutcome.RAN  # looked up once: an enum's member takes a metaclass lookup, and this is the hot path


MAX_TEXT_CHARACTERS: Final = 500
"""Of what an exception says, in a trial."""


class Run:
    """One run of a chain: what it works on and what it has come to."""

    __slots__ = ("attempt_id", "cause", "deadline_s", "event", "outcome", "plain_event", "position")

    def __init__(self, event: Event, attempt_id: str, deadline_s: float, cause: Cause, chain: str) -> None:
        self.event = event
        self.attempt_id = attempt_id
        self.deadline_s = deadline_s  # time.monotonic()
        self.cause = cause  # of a denial because the deadline passed
        self.outcome = Outcome(denial=None, chain=chain)
        self.plain_event: Event | None = None
        self.position = 0  # of the next action

    def event_for(self, action: Action) -> Event:
        """Return the event as the action sees it. It cannot be changed, so actions without secrets and config share one."""
        if not action.plain:
            return self.event.seen_by(secrets=action.secrets, config=action.config, attempt_id=self.attempt_id)

        if self.plain_event is None:
            self.plain_event = self.event.seen_by(secrets=NO_SECRETS, config=EMPTY, attempt_id=self.attempt_id)

        return self.plain_event


class End(NamedTuple):
    """How one try of an action ended."""

    error: BaseException | None  # what it raised
    at_s: float  # time.monotonic()
    cut: bool = False  # by its time limit
    over: bool = True  # whether nothing of it runs any more

    def error_name(self, action: Action) -> str:
        """Return the class name of what it raised."""
        return "TimeoutError" if self.error is None else class_name(self.error, action.redact)


def may_try_again(run: Run, effects: Effects, end: End) -> bool:
    """Tell whether a try failed in a way that another one may mend, leaving no denial and nothing that still runs.

    The chain's end is not such a failure: only an action's own is.
    """
    failed = effects.deadline_s < run.deadline_s if end.cut else end.error is not None
    return failed and end.over and effects.denial is None


def settle(
    run: Run,
    action: Action,
    effects: Effects,
    error: BaseException | None,
    begun_s: float,
    ended_s: float,
    *,
    cut: bool = False,
    tries: int = 1,
    try_begun_s: float | None = None,
) -> bool:
    """Take an action's effects into the outcome of its run; return whether the chain ends here.

    `error` is what the action raised, `cut` that it was stopped by its time limit. One that ended by itself but too
    late has timed out, too. `effects`, `error` and `cut` are those of the last of its tries.
    """
    outcome = run.outcome
    trace = ActionTrace(action.name, action.version, _RAN, (ended_s - begun_s) * 1000)
    outcome.trace.append(trace)
    effects.trace = trace
    own_limit_s = (begun_s if try_begun_s is None else try_begun_s) + action.timeout_s
    timed_out = cut or ended_s > run.deadline_s or ended_s > own_limit_s
    logs = effects.close()

    if logs:
        trace.logs = logs

    if tries > 1:
        trace.tries = tries

    if error is None and not timed_out and effects.untouched:  # the usual case
        return False

    if error is not None:
        _name_error(trace, error, effects)
    elif timed_out:
        trace.error, trace.error_at = "TimeoutError", effects.cut_at

    # What was denied in time stands whatever came after it (rule 4); what was denied too late never was.
    if effects.denial is not None and effects.denied_at_s <= min(run.deadline_s, own_limit_s):
        reason, user_message = effects.denial
        trace.outcome = ActionOutcome.DENIED
        return deny(outcome, _worded(Cause.ACCESS_DENIED, reason, user_message, action, effects))

    if timed_out:
        trace.outcome = ActionOutcome.TIMED_OUT

        if ended_s >= run.deadline_s or own_limit_s >= run.deadline_s:  # the chain's end, which `on_error` never covers
            return deny(outcome, fixed_denial(run.cause, action=action.name))

        return _failed(outcome, action, Cause.TIMED_OUT)

    if error is not None:
        trace.outcome = ActionOutcome.FAILED
        return _failed(outcome, action, Cause.ACTION_FAILED)

    if effects.errors:
        first = effects.errors[0]
        trace.outcome = ActionOutcome.DENIED
        return deny(outcome, _worded(Cause.VALIDATION_ERROR, first["code"], first["message"], action, effects))

    _take_changes(run, action, effects)
    return False


def _name_error(trace: ActionTrace, error: BaseException, effects: Effects) -> None:
    """Say what an action raised and where. The text may hold anything, so it is for the author's own trials only."""
    trace.error = class_name(error, effects.action.redact)
    trace.error_at = place_in_action(error, effects.action.file)

    if effects.resources is not None and effects.resources.tells_texts:
        try:
            text = str(error)
        except BaseException as odd:  # noqa: BLE001 - a foreign exception may fail at this, too
            text = f"its text raised {class_name(odd)}"

        trace.error_text = effects.action.redact(printable(" ".join(text.split())))[:MAX_TEXT_CHARACTERS] or None


def _worded(cause: Cause, reason: str, user_message: str | None, action: Action, effects: Effects) -> Denial:
    """Return a denial in the action's own words, with all its validation errors."""
    return Denial(cause=cause, reason=reason, user_message=user_message, action=action.name, errors=tuple(effects.errors or ()))


def deny(outcome: Outcome, denial: Denial) -> bool:
    """Make an outcome a denial; returns True, for the chain ends."""
    outcome.denial = denial
    outcome.changes = {}  # rule 3
    outcome.user_id = None
    return True


def _failed(outcome: Outcome, action: Action, cause: Cause) -> bool:
    if action.on_error == "deny":
        return deny(outcome, fixed_denial(cause, action=action.name))

    outcome.warnings.append(warning("action_skipped", "the action failed; its effects are dropped", action.name))
    return False


def _take_changes(run: Run, action: Action, effects: Effects) -> None:
    outcome = run.outcome

    if effects.user_id is not None:
        outcome.user_id = effects.user_id

    if effects.changes is None:
        return

    if run.event.connection.passwordless:  # rule 9
        dropped = ", ".join(f"{scope}.{key}" for scope, values in effects.changes.items() for key in values)
        effects.note(f"WARNING: {_NO_METADATA}; dropped: {dropped}")
        outcome.warnings.append(warning("passwordless_metadata_dropped", _NO_METADATA, action.name))
        return

    for scope, values in effects.changes.items():
        outcome.changes.setdefault(scope, {}).update(values)  # last write wins (rule 5)

    if effects.secret_removed:
        outcome.warnings.append(warning("secret_removed", "metadata held a secret of the action; it was replaced", action.name))


_NO_METADATA: Final = "users of passwordless connections get no metadata"
