"""Runs a chain of actions on one event and says what it came to.

The rules are DESIGN.md section 3. `settle` decides, `Chain` does. A chain whose actions never wait is finished inside
`Chain.run`, with no task and no timer: that is the hot path, and the reason for the flat code there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self

from gate.chain import capture
from gate.chain.action import DEFAULT_TIMEOUT_S, Action
from gate.chain.api import Api
from gate.chain.effects import Effects, Resources, current
from gate.chain.http import HttpPool
from gate.chain.threads import DaemonThreads
from gate.model.decision import ActionOutcome, ActionTrace, Cause, Denial, Outcome, fixed_denial
from gate.model.event import Event
from gate.model.readonly import EMPTY, NO_SECRETS
from gate.model.wire import warning

CANCEL_GRACE_S: Final = 0.01
"""How long an action that was cut may take to notice, so that its open calls are recorded; then it is abandoned."""

MAX_CONNECTIONS: Final = 1000
SYNC_THREADS: Final = 64

# Looked up once: these stand in the hot path, and an enum's member takes a metaclass lookup.
_RAN: Final = ActionOutcome.RAN
_NOT_MATCHED: Final = ActionOutcome.NOT_MATCHED
_EXPIRED: Final = Cause.EXPIRED
_TIMED_OUT: Final = Cause.TIMED_OUT
_monotonic = time.monotonic
_get_effects = current.get
_set_effects = current.set


class Run:
    """One run of a chain: what it works on and what it has come to."""

    __slots__ = ("attempt_id", "cause", "deadline_s", "event", "outcome", "plain_event", "position")

    def __init__(self, event: Event, attempt_id: str, deadline_s: float, cause: Cause) -> None:
        self.event = event
        self.attempt_id = attempt_id
        self.deadline_s = deadline_s  # time.monotonic()
        self.cause = cause  # of a denial because the deadline passed
        self.outcome = Outcome(denial=None)
        self.plain_event: Event | None = None
        self.position = 0  # of the next action

    def event_for(self, action: Action) -> Event:
        """Return the event as the action sees it. It cannot be changed, so actions without secrets and config share one."""
        if not action.plain:
            return self.event.seen_by(secrets=action.secrets, config=action.config, attempt_id=self.attempt_id)

        if self.plain_event is None:
            self.plain_event = self.event.seen_by(secrets=NO_SECRETS, config=EMPTY, attempt_id=self.attempt_id)

        return self.plain_event


def settle(
    run: Run, action: Action, effects: Effects, error: BaseException | None, begun_s: float, ended_s: float, *, cut: bool = False
) -> bool:
    """Take an action's effects into the outcome of its run; return whether the chain ends here.

    `error` is what the action raised, `cut` that it was stopped by its time limit. One that ended by itself but too
    late has timed out, too.
    """
    outcome = run.outcome
    trace = ActionTrace(action.name, action.version, _RAN, (ended_s - begun_s) * 1000)
    outcome.trace.append(trace)
    own_limit_s = begun_s + action.timeout_s
    timed_out = cut or ended_s > run.deadline_s or ended_s > own_limit_s
    logs = effects.close()

    if logs:
        trace.logs = logs

    if error is None and not timed_out and effects.untouched:  # the usual case
        return False

    if error is not None:
        trace.error = type(error).__name__
    elif timed_out:
        trace.error = "TimeoutError"

    if effects.denial is not None:  # stands whatever came after it (rule 4)
        reason, user_message = effects.denial
        trace.outcome = ActionOutcome.DENIED
        return _deny(outcome, _worded(Cause.ACCESS_DENIED, reason, user_message, action, effects))

    if timed_out:
        trace.outcome = ActionOutcome.TIMED_OUT

        if ended_s >= run.deadline_s or own_limit_s >= run.deadline_s:  # the chain's end, which `on_error` never covers
            return _deny(outcome, fixed_denial(run.cause, action=action.name))

        return _failed(outcome, action, Cause.TIMED_OUT)

    if error is not None:
        trace.outcome = ActionOutcome.FAILED
        return _failed(outcome, action, Cause.ACTION_FAILED)

    if effects.errors:
        first = effects.errors[0]
        trace.outcome = ActionOutcome.DENIED
        return _deny(outcome, _worded(Cause.VALIDATION_ERROR, first["code"], first["message"], action, effects))

    _take_metadata(run, action, effects)
    return False


def _worded(cause: Cause, reason: str, user_message: str | None, action: Action, effects: Effects) -> Denial:
    """Return a denial in the action's own words, with all its validation errors."""
    return Denial(cause=cause, reason=reason, user_message=user_message, action=action.name, errors=tuple(effects.errors or ()))


def _deny(outcome: Outcome, denial: Denial) -> bool:
    outcome.denial = denial
    outcome.changes = {}  # rule 3
    return True


def _failed(outcome: Outcome, action: Action, cause: Cause) -> bool:
    if action.on_error == "deny":
        return _deny(outcome, fixed_denial(cause, action=action.name))

    outcome.warnings.append(warning("action_skipped", "the action failed; its effects are dropped", action.name))
    return False


def _take_metadata(run: Run, action: Action, effects: Effects) -> None:
    if run.event.connection.passwordless:  # rule 9
        run.outcome.warnings.append(
            warning("passwordless_metadata_dropped", "users of passwordless connections get no metadata", action.name)
        )
        return

    changes = run.outcome.changes

    if effects.user_metadata is not None:
        changes.setdefault("user_metadata", {}).update(effects.user_metadata)  # last write wins (rule 5)

    if effects.app_metadata is not None:
        changes.setdefault("app_metadata", {}).update(effects.app_metadata)


class Chain:
    """The ordered actions that decide; `run` them between `start` and `aclose`, or inside `async with`."""

    def __init__(self, actions: Sequence[Action], *, timeout_s: float = DEFAULT_TIMEOUT_S, hash: str = "sha256:") -> None:  # noqa: A002 - its name in decisions
        self.actions = tuple(actions)
        self.timeout_s = timeout_s
        self.hash = hash
        self._resources: Resources | None = None
        self._abandoned: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        names = " → ".join(action.name for action in self.actions) or "of no actions"
        return f"<Chain {names}, {self.timeout_s:g} s, {self.hash[:19]}>"

    @property
    def late_calls(self) -> int:
        """Calls on an `api` after its action had returned, since the chain was loaded; also those too late for any outcome."""
        return sum(action.late_calls for action in self.actions)

    @property
    def abandoned_threads(self) -> int:
        """Threads given up because a plain `def` action overran in them."""
        return 0 if self._resources is None else self._resources.threads.abandoned

    @property
    def started(self) -> bool:
        """Whether actions that wait can run."""
        return self._resources is not None

    async def start(self, *, connections: int = MAX_CONNECTIONS, sync_threads: int = SYNC_THREADS) -> None:
        """Open the HTTP pool and the threads for plain `def` actions; capture what actions print.

        `connections` is how many attempts may be in flight, `sync_threads` how many plain `def` actions run at once.
        A chain that is started already stays as it is.
        """
        if self._resources is not None:
            return

        self._resources = Resources(HttpPool(connections=connections), DaemonThreads(sync_threads))
        capture.install()

    async def aclose(self) -> None:
        """Close what `start` opened; an abandoned action is cancelled once more and never waited for."""
        resources, self._resources = self._resources, None

        if resources is None:
            return

        capture.remove()

        for task in self._abandoned:
            task.cancel()

        resources.threads.close()
        await resources.http.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def run(self, event: Event, *, attempt_id: str, patience_s: float = float("inf")) -> Outcome | Coroutine[Any, Any, Outcome]:
        """Run the chain on one event, within what is left of the asker's patience.

        Returns the outcome at once if no action that has to run can wait, else a coroutine that goes on from the first
        one that may. Cancelling that coroutine cancels the running action.
        """
        now = _monotonic()

        if patience_s < self.timeout_s:
            run = Run(event, attempt_id, now + patience_s, _EXPIRED)
        else:
            run = Run(event, attempt_id, now + self.timeout_s, _TIMED_OUT)

        return run.outcome if self._advance(run) else self._go_on(run)

    def _advance(self, run: Run) -> bool:
        """Run actions by hand up to the first that may wait; return whether the chain has ended instead."""
        outcome = run.outcome
        resources = self._resources
        outer = _get_effects()
        position = run.position
        now = _monotonic()

        try:
            for action in self.actions[position:]:
                if now >= run.deadline_s:
                    _deny(outcome, fixed_denial(run.cause))
                    break

                if action.when is not None and not action.when.matches(run.event):
                    outcome.trace.append(ActionTrace(action.name, action.version, _NOT_MATCHED))
                    position += 1
                    continue

                if action.waits:
                    run.position = position
                    return False

                position += 1
                begun_s = now
                effects = Effects(action, outcome, resources, run.deadline_s)
                _set_effects(effects)
                error: BaseException | None = None
                try:
                    action.run_by_hand(run.event_for(action), Api(effects))
                except KeyboardInterrupt:
                    raise
                except BaseException as raised:  # noqa: BLE001 - a foreign action; even its SystemExit harms only itself
                    error = raised

                now = _monotonic()

                if settle(run, action, effects, error, begun_s, now):
                    break
        finally:
            _set_effects(outer)

        if outcome.denial is not None:
            self._not_reached(outcome, position)

        return True

    async def _go_on(self, run: Run) -> Outcome:
        """Finish a run that has come to an action that may wait."""
        while True:
            action = self.actions[run.position]
            run.position += 1

            if await self._perform(run, action, _monotonic()):
                self._not_reached(run.outcome, run.position)
                return run.outcome

            if self._advance(run):
                return run.outcome

    async def _perform(self, run: Run, action: Action, begun_s: float) -> bool:
        """Run one action in a task of its own, no longer than it may; return whether the chain ends with it."""
        deadline_s = min(begun_s + action.timeout_s, run.deadline_s)
        effects = Effects(action, run.outcome, self._resources, deadline_s)
        event = run.event_for(action)
        task = asyncio.create_task(_guard(action, event, effects), name=f"action {action.name}")
        try:
            done, _ = await asyncio.wait((task,), timeout=deadline_s - begun_s)
            ended_s = _monotonic()

            if not done:
                effects.close()
                task.cancel()
                await asyncio.wait((task,), timeout=CANCEL_GRACE_S)
        except asyncio.CancelledError:
            effects.close()
            self._abandon(task)
            raise

        error: BaseException | None = None

        if not done:
            self._abandon(task)
        elif task.cancelled():  # by itself: nobody else has it
            error = asyncio.CancelledError()
        else:
            error = task.result()

        return settle(run, action, effects, error, begun_s, ended_s, cut=not done)

    def _abandon(self, task: asyncio.Task[BaseException | None]) -> None:
        """Cancel a task and wait for it no longer; it is kept only so that it is not collected while it runs."""
        if not task.done():
            task.cancel()
            self._abandoned.add(task)
            task.add_done_callback(self._abandoned.discard)

    def _not_reached(self, outcome: Outcome, position: int) -> None:
        outcome.trace.extend(
            ActionTrace(action.name, action.version, ActionOutcome.NOT_REACHED) for action in self.actions[position:]
        )


async def _guard(action: Action, event: Event, effects: Effects) -> BaseException | None:
    """Run a foreign action and return what it raised: a task that raised SystemExit would end the event loop."""
    _set_effects(effects)
    try:
        await action.code.run(event, Api(effects))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001 - a foreign action; even its SystemExit harms only itself
        return error
    else:
        return None
    finally:
        effects.close()
