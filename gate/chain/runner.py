"""Runs a chain of actions on one event and says what it came to.

The rules are DESIGN.md section 3. `gate.chain.settling` decides, `Chain` does. A chain whose actions never wait is finished
inside `Chain.run`, with no task and no timer: that is the hot path, and the reason for the flat code there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self

from gate.chain.action import DEFAULT_TIMEOUT_S, Action
from gate.chain.api import Api
from gate.chain.caller import CallerGuard
from gate.chain.effects import Effects, current
from gate.chain.places import place_in_action
from gate.chain.resources import Resources
from gate.chain.settling import End, Run, deny, may_try_again, settle
from gate.chain.watchdog import BLOCKED_AFTER_S, TASK_PREFIX, Block
from gate.model.decision import ActionOutcome, ActionTrace, Cause, Outcome, fixed_denial
from gate.model.event import Event

CANCEL_GRACE_S: Final = 0.01
"""How long an action that was cut may take to notice, so that its open calls are recorded; then it is abandoned."""

# Looked up once: these stand in the hot path, and an enum's member takes a metaclass lookup.
_NOT_MATCHED: Final = ActionOutcome.NOT_MATCHED
_EXPIRED: Final = Cause.EXPIRED
_TIMED_OUT: Final = Cause.TIMED_OUT
_monotonic = time.monotonic
_get_effects = current.get
_set_effects = current.set


class Chain:
    """The ordered actions that decide; `run` them between `start` and `aclose`, or inside `async with`."""

    def __init__(self, actions: Sequence[Action], *, timeout_s: float = DEFAULT_TIMEOUT_S, hash: str = "sha256:") -> None:  # noqa: A002 - its name in decisions
        self.actions = tuple(actions)
        self.timeout_s = timeout_s
        self.hash = hash
        self._resources: Resources | None = None
        self._owned: Resources | None = None
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        names = " → ".join(action.name for action in self.actions) or "of no actions"
        return f"<Chain {names}, {self.timeout_s:g} s, {self.hash[:19]}>"

    def not_run(self, cause: Cause) -> Outcome:
        """Return the outcome of an attempt that is denied before any action could run."""
        outcome = Outcome(denial=fixed_denial(cause), chain=self.hash)
        self._not_reached(outcome, 0)
        return outcome

    def same_as(self, other: Chain) -> bool:
        """Whether both were loaded from the same files with the same secrets."""
        return self.hash == other.hash and [action.secrets for action in self.actions] == [
            action.secrets for action in other.actions
        ]

    @property
    def started(self) -> bool:
        """Whether actions that wait can run."""
        return self._resources is not None

    async def start(self, resources: Resources | None = None) -> None:
        """Make it ready to run, with what it shares with other chains; without that it opens, and later closes, its own.

        A chain that is started already stays as it is.
        """
        if self._resources is not None:
            return

        if resources is None:
            resources = self._owned = await Resources().__aenter__()

        self._resources = resources

    async def aclose(self) -> None:
        """Let go of what it was started with; an abandoned action is cancelled once more and never waited for."""
        owned, self._owned, self._resources = self._owned, None, None

        for task in self._abandoned:
            task.cancel()

        if owned is not None:
            await owned.__aexit__(None, None, None)

    async def retire(self) -> None:
        """Close it when its last run has ended: its place is taken by another chain."""
        await asyncio.sleep(0)  # a run whose coroutine was just made takes its first step
        await self._idle.wait()
        await self.aclose()
        self.release()

    def release(self) -> None:
        """Let go of what loading it took: it is used no more."""
        for action in self.actions:
            action.code.release()

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
            run = Run(event, attempt_id, now + patience_s, _EXPIRED, self.hash)
        else:
            run = Run(event, attempt_id, now + self.timeout_s, _TIMED_OUT, self.hash)

        return run.outcome if self._advance(run) else self._go_on(run)

    def _advance(self, run: Run) -> bool:
        """Run actions by hand up to the first that may wait; return whether the chain has ended instead."""
        outcome = run.outcome
        resources = self._resources
        outer = _get_effects()
        guard = CallerGuard().__enter__() if resources is None or not resources.caller.active else None
        position = run.position
        now = _monotonic()

        try:
            for action in self.actions[position:]:
                if now >= run.deadline_s:
                    deny(outcome, fixed_denial(run.cause))
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
                except BaseException as raised:  # noqa: BLE001 - a foreign action; even its SystemExit harms only itself
                    error = raised

                now = _monotonic()

                if now - begun_s > BLOCKED_AFTER_S and resources is not None:
                    _note_block(effects, resources.watchdog.block_now())

                if settle(run, action, effects, error, begun_s, now):
                    break
        finally:
            _set_effects(outer)

            if guard is not None:
                guard.__exit__()

        if outcome.denial is not None:
            self._not_reached(outcome, position)

        return True

    async def _go_on(self, run: Run) -> Outcome:
        """Finish a run that has come to an action that may wait."""
        self._running += 1
        self._idle.clear()
        try:
            while True:
                action = self.actions[run.position]
                run.position += 1

                if await self._perform(run, action):
                    self._not_reached(run.outcome, run.position)
                    return run.outcome

                if self._advance(run):
                    return run.outcome
        finally:
            self._running -= 1

            if not self._running:
                self._idle.set()

    async def _perform(self, run: Run, action: Action) -> bool:
        """Run one action, again where it fails and may; return whether the chain ends with it."""
        begun_s = try_begun_s = _monotonic()
        effects = Effects(action, run.outcome, self._resources, min(begun_s + action.timeout_s, run.deadline_s))
        tries = 1

        while True:
            end = await self._try(run, action, effects, try_begun_s)

            if tries > action.retries or not may_try_again(run, effects, end):
                break

            pause_s = action.backoff_s * 2 ** (tries - 1) * random.uniform(0.5, 1.0)

            if end.at_s + pause_s >= run.deadline_s:
                break

            effects.note(f"try {tries} failed: {end.error_name(action)}; again in {pause_s * 1000:.0f} ms")
            await asyncio.sleep(pause_s)
            tries += 1
            try_begun_s = _monotonic()
            effects = effects.renewed(min(try_begun_s + action.timeout_s, run.deadline_s))

        return settle(run, action, effects, end.error, begun_s, end.at_s, cut=end.cut, tries=tries, try_begun_s=try_begun_s)

    async def _try(self, run: Run, action: Action, effects: Effects, begun_s: float) -> End:
        """Run an action once, in a task of its own, no longer than it may."""
        task = asyncio.create_task(_guard(action, run.event_for(action), effects), name=TASK_PREFIX + action.name)
        try:
            done, _ = await asyncio.wait((task,), timeout=effects.deadline_s - begun_s)
            ended_s = _monotonic()

            if not done:
                effects.close()
                task.cancel()
                await asyncio.wait((task,), timeout=CANCEL_GRACE_S)
        except asyncio.CancelledError:
            effects.close()
            self._abandon(task)
            raise

        if ended_s - begun_s > BLOCKED_AFTER_S and self._resources is not None:
            _note_block(effects, self._resources.watchdog.block_by(task))

        if done:
            return End(asyncio.CancelledError() if task.cancelled() else task.result(), ended_s)  # cancelled by itself

        over = task.done() and action.code.ends_when_cancelled
        self._abandon(task)
        return End(None, ended_s, cut=True, over=over)

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
    except asyncio.CancelledError as error:
        effects.cut_at = place_in_action(error, action.file)
        raise
    except BaseException as error:  # noqa: BLE001 - a foreign action; even its SystemExit harms only itself
        return error
    else:
        return None
    finally:
        effects.close()


def _note_block(effects: Effects, block: Block | None) -> None:
    if block is not None and block.action in ("", effects.action.name):  # not one that ran before it in this turn
        effects.note(f"WARNING: blocked the event loop at {block.where}; blocking code belongs in a plain `def` action")
