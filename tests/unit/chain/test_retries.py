"""Retries: again after a failure of its own, one try at a time, inside the budget, with nothing left of the failed one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from gate import Api, Event
from gate.model.decision import ActionOutcome, Cause, Status

RAN, DENIED, FAILED, TIMED_OUT = ActionOutcome.RAN, ActionOutcome.DENIED, ActionOutcome.FAILED, ActionOutcome.TIMED_OUT


class Flaky:
    """Makes actions that fail so many times before they succeed."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.began_s: list[float] = []

    @property
    def tries(self) -> int:
        return len(self.began_s)

    def _begin(self, api: Api) -> None:
        self.began_s.append(time.monotonic())
        api.user.set_user_metadata(f"try_{self.tries}", True)
        print(f"try {self.tries}")

        if self.tries <= self.failures:
            api.validation.error("code", "Message.")
            raise ConnectionError

    def plain(self, event: Event, api: Api) -> None:
        self._begin(api)

    def coroutine(self) -> Any:
        async def action(event: Event, api: Api) -> None:
            self._begin(api)

        return action

    def waiting(self) -> Any:
        async def action(event: Event, api: Api) -> None:
            await asyncio.sleep(0)
            self._begin(api)

        return action

    def function(self) -> Any:
        def action(event: Event, api: Api) -> None:
            self._begin(api)

        return action


@pytest.mark.parametrize("kind", ["coroutine", "waiting", "function"])
async def test_a_failed_try_leaves_nothing_but_its_log_lines(run: Any, make_action: Any, kind: str) -> None:
    flaky = Flaky(2)
    outcome = await run(make_action(getattr(flaky, kind)(), retries=2, backoff_s=0.001))
    (entry,) = outcome.trace

    assert (Status.APPROVED, {"user_metadata": {"try_3": True}}) == (outcome.status, outcome.changes)
    assert (RAN, 3, None) == (entry.outcome, entry.tries, entry.error)
    assert ["try 1", "try 2", "try 3"] == [line for line in entry.logs if "failed" not in line]
    assert 2 == sum("failed: ConnectionError; again in" in line for line in entry.logs)
    assert 3 == entry.to_json()["tries"]


async def test_the_last_failure_follows_on_error(run: Any, make_action: Any) -> None:
    denied, skipped = Flaky(9), Flaky(9)
    first = await run(make_action(denied.coroutine(), retries=1, backoff_s=0.001))
    second = await run(make_action(skipped.coroutine(), retries=1, backoff_s=0.001, on_error="skip"))

    assert (Cause.ACTION_FAILED, 2) == (first.denial.cause, denied.tries)
    assert [(FAILED, "ConnectionError", 2)] == [(entry.outcome, entry.error, entry.tries) for entry in first.trace]
    assert (Status.APPROVED, {}, 2) == (second.status, second.changes, skipped.tries)


async def test_pauses_double_and_are_shortened_by_half_at_most(run: Any, make_action: Any) -> None:
    flaky = Flaky(2)
    await run(make_action(flaky.coroutine(), retries=2, backoff_s=0.05))
    first_s, second_s = (later - earlier for earlier, later in zip(flaky.began_s, flaky.began_s[1:], strict=False))

    assert first_s >= 0.025
    assert second_s >= 0.05


async def test_a_denial_is_never_tried_again(run: Any, make_action: Any) -> None:
    tries = []

    async def denies_then_raises(event: Event, api: Api) -> None:
        tries.append(1)
        api.access.deny("reason")
        raise ConnectionError

    outcome = await run(make_action(denies_then_raises, retries=3, backoff_s=0.001))

    assert ([1], DENIED) == (tries, outcome.trace[0].outcome)


async def test_a_validation_error_is_an_answer_and_not_tried_again(run: Any, make_action: Any) -> None:
    tries = []

    async def refuses(event: Event, api: Api) -> None:
        tries.append(1)
        api.validation.error("code", "Message.")

    await run(make_action(refuses, retries=3, backoff_s=0.001))

    assert [1] == tries


async def test_a_try_that_overran_is_ended_before_the_next_one_begins(run: Any, make_action: Any) -> None:
    running, most = 0, 0

    async def hangs_at_first(event: Event, api: Api) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if len(ends) < 1:
                await asyncio.sleep(60)
        finally:
            running -= 1
            ends.append(1)

    ends: list[int] = []
    outcome = await run(make_action(hangs_at_first, retries=1, backoff_s=0.001, timeout_s=0.05))

    assert (RAN, 2) == (outcome.trace[0].outcome, outcome.trace[0].tries)
    assert 1 == most


async def test_one_that_swallows_its_cancellation_is_not_tried_again(run: Any, make_action: Any) -> None:
    released, tries = asyncio.Event(), []

    async def holds_on(event: Event, api: Api) -> None:
        tries.append(1)
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    outcome = await run(make_action(holds_on, retries=3, backoff_s=0.001, timeout_s=0.05))
    released.set()

    assert ([1], TIMED_OUT) == (tries, outcome.trace[0].outcome)


async def test_a_thread_that_overran_is_not_tried_again(run: Any, make_action: Any) -> None:
    tries = []

    def blocks(event: Event, api: Api) -> None:
        tries.append(1)
        time.sleep(0.3)

    outcome = await run(make_action(blocks, retries=3, backoff_s=0.001, timeout_s=0.05))

    assert ([1], TIMED_OUT) == (tries, outcome.trace[0].outcome)


async def test_no_pause_goes_beyond_the_budget(run: Any, make_action: Any) -> None:
    flaky = Flaky(9)
    began_s = time.monotonic()
    outcome = await run(make_action(flaky.coroutine(), retries=5, backoff_s=60.0), timeout_s=5)

    assert (Cause.ACTION_FAILED, 1) == (outcome.denial.cause, flaky.tries)
    assert time.monotonic() - began_s < 5


async def test_the_chains_end_is_not_retried(run: Any, make_action: Any) -> None:
    tries = []

    async def hangs(event: Event, api: Api) -> None:
        tries.append(1)
        await asyncio.sleep(60)

    outcome = await run(make_action(hangs, retries=5, backoff_s=0.001), timeout_s=0.05)

    assert ([1], Cause.TIMED_OUT) == (tries, outcome.denial.cause)


async def test_a_task_left_over_by_a_failed_try_commands_nothing_in_the_next(run: Any, make_action: Any) -> None:
    left: list[asyncio.Task[None]] = []

    async def later(api: Api) -> None:
        await asyncio.sleep(0.02)
        api.access.deny("late")

    async def fails_at_first(event: Event, api: Api) -> None:
        if not left:
            left.append(asyncio.create_task(later(api)))
            raise ConnectionError
        await left[0]

    outcome = await run(make_action(fails_at_first, retries=1, backoff_s=0.001))

    assert (Status.APPROVED, 1) == (outcome.status, outcome.late_calls)
