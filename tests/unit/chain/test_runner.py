"""The rules of a chain: order, stop, budgets, failures (DESIGN.md section 3)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import time
from typing import Any

import pytest

from gate import Api, Event
from gate.chain.action import When
from gate.model.decision import ActionOutcome, Cause, Outcome, Status
from gate.model.readonly import ReadOnlyDict, Secrets

RAN, DENIED, FAILED = ActionOutcome.RAN, ActionOutcome.DENIED, ActionOutcome.FAILED
TIMED_OUT, NOT_MATCHED, NOT_REACHED = ActionOutcome.TIMED_OUT, ActionOutcome.NOT_MATCHED, ActionOutcome.NOT_REACHED


EVENT: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}


async def sets_a(event: Event, api: Api) -> None:
    api.user.set_user_metadata("a", 1).user.set_app_metadata("b", {"c": [1]})


async def sets_after_waiting(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    api.user.set_user_metadata("a", 2)


def sets_in_thread(event: Event, api: Api) -> None:
    api.user.set_user_metadata("a", 3)


async def denies(event: Event, api: Api) -> None:
    api.access.deny("reason", "message")
    api.user.set_user_metadata("after_deny", True)


async def refuses(event: Event, api: Api) -> None:
    api.validation.error("code_1", "Message 1.").validation.error("code_2", "Message 2.", field="email")


async def raises(event: Event, api: Api) -> None:
    api.user.set_user_metadata("dropped", True)
    raise ValueError("secret text")


async def sleeps(event: Event, api: Api) -> None:
    await asyncio.sleep(60)


def outcomes(outcome: Outcome) -> list[ActionOutcome]:
    return [entry.outcome for entry in outcome.trace]


# -- Order, stop, merge -------------------------------------------------------------------------------------------------


async def test_a_chain_of_no_actions_approves(run: Any) -> None:
    outcome = await run()

    assert (Status.APPROVED, {}, []) == (outcome.status, outcome.changes, outcome.trace)


async def test_the_last_write_to_a_key_wins_whatever_kind_of_action_made_it(run: Any) -> None:
    for last, value in ((sets_a, 1), (sets_after_waiting, 2), (sets_in_thread, 3)):
        outcome = await run(sets_a, sets_after_waiting, sets_in_thread, last)

        assert {"user_metadata": {"a": value}, "app_metadata": {"b": {"c": [1]}}} == outcome.changes
        assert [RAN] * 4 == outcomes(outcome)


async def test_a_chain_whose_actions_never_wait_is_done_at_once(run: Any) -> None:
    chain = await run.chain(sets_a, denies)
    event = Event.from_document({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    assert isinstance(chain.run(event, attempt_id="a", patience_s=1.0), Outcome)


async def test_a_chain_goes_on_from_the_first_action_that_may_wait(run: Any, make_action: Any) -> None:
    chain = await run.chain(sets_a, sets_after_waiting, denies)
    event = Event.from_document({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    waiting = chain.run(event, attempt_id="a", patience_s=1.0)

    assert inspect.iscoroutine(waiting)
    assert [RAN, RAN, DENIED] == outcomes(await waiting)


async def test_a_waiting_action_whose_when_does_not_match_costs_no_task(run: Any, make_action: Any) -> None:
    chain = await run.chain(sets_a, make_action(sleeps, when=When(clients=frozenset({"other"}))))
    event = Event.from_document({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    outcome = chain.run(event, attempt_id="a", patience_s=1.0)

    assert [RAN, NOT_MATCHED] == outcomes(outcome)


@pytest.mark.parametrize("between", [[], [sets_after_waiting], [sets_in_thread]])
async def test_a_denial_lets_its_action_finish_stops_later_ones_and_drops_all_changes(run: Any, between: list[Any]) -> None:
    finished = []

    async def denies_and_finishes(event: Event, api: Api) -> None:
        api.access.deny("reason", "message")
        finished.append(True)

    outcome = await run(sets_a, *between, denies_and_finishes, sets_a, sleeps)

    assert [True] == finished
    assert {} == outcome.changes
    assert [RAN] * (1 + len(between)) + [DENIED, NOT_REACHED, NOT_REACHED] == outcomes(outcome)
    assert {
        "cause": "access_denied",
        "reason": "reason",
        "user_message": "message",
        "action": "denies_and_finishes",
        "errors": [],
    } == outcome.denial.to_json()


async def test_a_validation_error_denies_with_its_first_error_and_keeps_all(run: Any) -> None:
    outcome = await run(refuses, sets_a)

    assert {
        "cause": "validation_error",
        "reason": "code_1",
        "user_message": "Message 1.",
        "action": "refuses",
        "errors": [{"code": "code_1", "message": "Message 1."}, {"code": "code_2", "message": "Message 2.", "field": "email"}],
    } == outcome.denial.to_json()
    assert [DENIED, NOT_REACHED] == outcomes(outcome)


@pytest.mark.parametrize("deny_first", [True, False])
async def test_deny_beats_validation_error_in_either_order_and_the_first_deny_wins(run: Any, *, deny_first: bool) -> None:
    async def both(event: Event, api: Api) -> None:
        if deny_first:
            api.access.deny("first")
        api.validation.error("code", "Message.")
        api.access.deny("second" if deny_first else "first").access.deny("third")

    denial = (await run(both)).denial

    assert (Cause.ACCESS_DENIED, "first", None) == (denial.cause, denial.reason, denial.user_message)
    assert ({"code": "code", "message": "Message."},) == denial.errors


async def test_metadata_of_one_action_is_not_seen_by_the_next(run: Any) -> None:
    seen = []

    async def looks(event: Event, api: Api) -> None:
        seen.append(dict(event.user.user_metadata))

    await run(sets_a, looks, event={"user": {"user_metadata": {"old": 1}}})

    assert [{"old": 1}] == seen


@pytest.mark.parametrize("strategy", ["email", "sms"])
async def test_metadata_for_passwordless_users_is_dropped_with_a_warning(run: Any, strategy: str) -> None:
    outcome = await run(sets_a, sets_after_waiting, event={"connection": {"strategy": strategy}})

    assert (Status.APPROVED, {}) == (outcome.status, outcome.changes)
    assert [("passwordless_metadata_dropped", "sets_a"), ("passwordless_metadata_dropped", "sets_after_waiting")] == [
        (entry["code"], entry["action"]) for entry in outcome.warnings
    ]


async def test_passwordless_users_can_be_denied(run: Any) -> None:
    assert Cause.ACCESS_DENIED is (await run(denies, event={"connection": {"strategy": "sms"}})).denial.cause


# -- What each action sees ----------------------------------------------------------------------------------------------


async def test_each_action_sees_its_own_secrets_and_config_and_the_attempt_id(run: Any, make_action: Any) -> None:
    seen = {}

    async def looks(event: Event, api: Api) -> None:
        seen[event.config.get("name")] = (dict(event.secrets), event.attempt_id)

    await run(
        make_action(looks, name="one", secrets=Secrets(K="1"), config=ReadOnlyDict(name="one")),
        make_action(looks, name="two", secrets=Secrets(K="2"), config=ReadOnlyDict(name="two")),
        make_action(looks, name="plain"),
    )

    assert {"one": ({"K": "1"}, "a-1"), "two": ({"K": "2"}, "a-1"), None: ({}, "a-1")} == seen


async def test_an_action_that_writes_to_the_event_fails_and_changes_nothing(run: Any, make_action: Any) -> None:
    async def writes(event: Event, api: Api) -> None:
        event.user.user_metadata["x"] = 1  # type: ignore[index]  # the mistake under test

    async def looks(event: Event, api: Api) -> None:
        api.user.set_user_metadata("seen", "x" in event.user.user_metadata)

    outcome = await run(make_action(writes, on_error="skip"), looks)

    assert [(FAILED, "TypeError"), (RAN, None)] == [(entry.outcome, entry.error) for entry in outcome.trace]
    assert {"user_metadata": {"seen": False}} == outcome.changes


@pytest.mark.parametrize(
    ("when", "event", "runs"),
    [
        (When(strategies=frozenset({"auth0"})), {"connection": {"strategy": "auth0"}}, True),
        (When(strategies=frozenset({"auth0"})), {"connection": {"strategy": "brand-new"}}, True),
        (When(strategies=frozenset({"auth0"})), {"connection": {"strategy": "sms"}}, False),
        (When(strategies=frozenset({"sms"})), {"connection": {"strategy": "sms"}}, True),
        (When(strategies=frozenset({"sms"})), {"connection": {"strategy": "auth0"}}, False),
        (When(strategies=frozenset({"brand-new"})), {"connection": {"strategy": "brand-new"}}, True),
        (When(connections=frozenset({"con_1"})), {"connection": {"strategy": "auth0", "id": "con_1"}}, True),
        (When(connections=frozenset({"Users"})), {"connection": {"strategy": "auth0", "name": "Users"}}, True),
        (When(connections=frozenset({"Users"})), {}, False),
        (When(clients=frozenset({"c1"})), {"client": {"client_id": "c1"}}, True),
        (When(clients=frozenset({"Shop"})), {"client": {"name": "Shop"}}, True),
        (When(clients=frozenset({"Shop"})), {}, False),
        (When(tenants=frozenset({"t"})), {"tenant": {"id": "t"}}, True),
        (When(tenants=frozenset({"t"})), {}, False),
        (When(countries=frozenset({"FR"})), {"request": {"geoip": {"countryCode": "fr"}}}, True),
        (When(countries=frozenset({"FR"})), {}, False),
        (When(countries=frozenset({"FR"}), tenants=frozenset({"t"})), {"tenant": {"id": "t"}}, False),
    ],
)
async def test_an_action_runs_only_when_all_its_conditions_match(
    run: Any, make_action: Any, when: When, event: Any, *, runs: bool
) -> None:
    for entry in (sets_a, sets_after_waiting):
        assert [RAN if runs else NOT_MATCHED] == outcomes(await run(make_action(entry, when=when), event=event))


# -- Failures -----------------------------------------------------------------------------------------------------------


async def exits(event: Event, api: Api) -> None:
    sys.exit(3)


async def exits_after_waiting(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    sys.exit(3)


def exits_in_thread(event: Event, api: Api) -> None:
    sys.exit(3)


def stops_iteration_in_thread(event: Event, api: Api) -> None:
    raise StopIteration


class Odd(BaseException):
    pass


async def raises_base_exception(event: Event, api: Api) -> None:
    raise Odd


async def cancels_itself(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def cancels_its_caller(event: Event, api: Api) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def cancels_its_own_task(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    await cancels_its_caller(event, api)


async def returns_a_coroutine(event: Event, api: Api) -> Any:
    return sets_a(event, api)


async def returns_a_coroutine_after_waiting(event: Event, api: Api) -> Any:
    await asyncio.sleep(0)
    return sets_a(event, api)


def returns_a_coroutine_in_thread(event: Event, api: Api) -> Any:
    return sets_a(event, api)


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (raises, "ValueError"),
        (exits, "SystemExit"),
        (exits_after_waiting, "SystemExit"),
        (exits_in_thread, "SystemExit"),
        (stops_iteration_in_thread, "RuntimeError"),  # PEP 479
        (raises_base_exception, "Odd"),
        (cancels_itself, "CancelledError"),
        (cancels_its_caller, "CancelledError"),
        (cancels_its_own_task, "CancelledError"),
        (returns_a_coroutine, "TypeError"),
        (returns_a_coroutine_after_waiting, "TypeError"),
        (returns_a_coroutine_in_thread, "TypeError"),
    ],
)
async def test_whatever_an_action_raises_is_its_own_failure(run: Any, make_action: Any, entry: Any, error: str) -> None:
    denied = await run(sets_a, entry, sets_a)
    skipped = await run(make_action(entry, on_error="skip"), sets_a)

    assert (Cause.ACTION_FAILED, entry.__name__) == (denied.denial.cause, denied.denial.action)
    assert [(RAN, None), (FAILED, error), (NOT_REACHED, None)] == [(each.outcome, each.error) for each in denied.trace]
    assert {} == denied.changes
    assert [FAILED, RAN] == outcomes(skipped)
    assert {"a": 1} == skipped.changes["user_metadata"]
    assert ["action_skipped"] == [entry["code"] for entry in skipped.warnings]


@pytest.mark.parametrize("first", [[], [sets_after_waiting]])
async def test_an_action_that_cancels_its_caller_leaves_the_task_it_runs_in_alone(run: Any, first: list[Any]) -> None:
    task = asyncio.current_task()
    outcome = await run(*first, cancels_its_caller)
    await asyncio.sleep(0)  # where a cancellation would come out

    assert task is asyncio.current_task()
    assert task is not None
    assert 0 == task.cancelling()
    assert Cause.ACTION_FAILED is outcome.denial.cause


async def test_an_action_that_runs_by_hand_sees_the_name_of_its_task(run: Any) -> None:
    seen = []

    async def looks(event: Event, api: Api) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append(task.get_name())

    chain = await run.chain(looks)
    with chain._resources.caller:  # as a worker does, once for many attempts
        assert isinstance(chain.run(Event.from_document(EVENT), attempt_id="a"), Outcome)
    await run.once(chain)

    task = asyncio.current_task()
    assert task is not None
    assert [task.get_name()] * 2 == seen


async def test_a_failure_tells_the_asker_nothing_of_its_text(run: Any) -> None:
    outcome = await run(raises)

    assert "secret text" not in repr(outcome)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_denial_stands_whatever_its_action_does_next(run: Any, make_action: Any, *, waits: bool) -> None:
    async def denies_then_raises(event: Event, api: Api) -> None:
        api.access.deny("reason")
        raise ValueError

    async def denies_then_hangs(event: Event, api: Api) -> None:
        api.access.deny("reason")
        await asyncio.sleep(60)

    entry = make_action(denies_then_hangs, timeout_s=0.02) if waits else make_action(denies_then_raises, on_error="skip")
    outcome = await run(entry)

    assert (Cause.ACCESS_DENIED, "reason") == (outcome.denial.cause, outcome.denial.reason)
    assert [(DENIED, "TimeoutError" if waits else "ValueError")] == [(each.outcome, each.error) for each in outcome.trace]


async def test_a_validation_error_followed_by_an_exception_is_a_failure(run: Any, make_action: Any) -> None:
    async def refuses_then_raises(event: Event, api: Api) -> None:
        api.validation.error("code", "Message.")
        raise ValueError

    assert Cause.ACTION_FAILED is (await run(refuses_then_raises)).denial.cause
    assert Status.APPROVED is (await run(make_action(refuses_then_raises, on_error="skip"))).status


async def test_no_exception_of_an_action_gets_out_of_its_chain_whatever_its_class_does(run: Any) -> None:
    class Nameless(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]  # hostile on purpose
            raise LookupError

    class Hostile(Exception, metaclass=Nameless):
        @property
        def __traceback__(self) -> None:  # type: ignore[override]  # hostile on purpose
            raise LookupError

    async def interrupts(event: Event, api: Api) -> None:
        raise KeyboardInterrupt

    async def interrupts_later(event: Event, api: Api) -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    def interrupts_in_a_thread(event: Event, api: Api) -> None:
        raise KeyboardInterrupt

    async def is_hostile(event: Event, api: Api) -> None:
        raise Hostile

    try:
        found = [await run(entry) for entry in (interrupts, interrupts_later, interrupts_in_a_thread, is_hostile)]
    except BaseException:  # noqa: BLE001 - pytest cannot print them
        pytest.fail("an exception got out", pytrace=False)

    assert [Cause.ACTION_FAILED] * 4 == [outcome.denial.cause for outcome in found]
    assert ["KeyboardInterrupt"] * 3 + ["Hostile"] == [outcome.trace[0].error for outcome in found]


async def test_the_name_of_an_errors_class_is_short_one_line_and_without_secrets(run: Any, make_action: Any) -> None:
    async def raises(event: Event, api: Api) -> None:
        raise type("Bad\nhunter2-" + "A" * 1_000_000, (Exception,), {})

    outcome = await run(make_action(raises, secrets=Secrets(KEY="hunter2"), retries=1, backoff_s=0.001))

    assert "Bad?[secret]-" + "A" * 87 == outcome.trace[0].error
    assert [True] == [line.startswith("try 1 failed: Bad?[secret]-AAA") for line in outcome.trace[0].logs]


# -- Budgets ------------------------------------------------------------------------------------------------------------


async def swallows_cancellation(event: Event, api: Api) -> None:
    released = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, released.set)

    while not released.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await released.wait()

    api.access.deny("too late")


def blocks(event: Event, api: Api) -> None:
    time.sleep(0.3)
    api.access.deny("too late")


async def blocks_the_loop(event: Event, api: Api) -> None:
    time.sleep(0.05)  # noqa: ASYNC251 - the mistake under test


async def blocks_the_loop_then_denies(event: Event, api: Api) -> None:
    time.sleep(0.05)  # noqa: ASYNC251 - the mistake under test
    api.access.deny("too late")


async def blocks_the_loop_then_denies_and_waits(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    await blocks_the_loop_then_denies(event, api)


SLOW = [
    sleeps,
    swallows_cancellation,
    blocks,
    blocks_the_loop,
    blocks_the_loop_then_denies,
    blocks_the_loop_then_denies_and_waits,
]


@pytest.mark.parametrize("entry", SLOW)
async def test_an_action_that_overruns_its_own_limit_times_out_and_can_be_skipped(run: Any, make_action: Any, entry: Any) -> None:
    denied = await run(make_action(entry, timeout_s=0.02))
    skipped = await run(make_action(entry, timeout_s=0.02, on_error="skip"), sets_a)

    assert (Cause.TIMED_OUT, entry.__name__) == (denied.denial.cause, denied.denial.action)
    assert [(TIMED_OUT, "TimeoutError")] == [(each.outcome, each.error) for each in denied.trace]
    assert ([TIMED_OUT, RAN], {"a": 1}) == (outcomes(skipped), skipped.changes["user_metadata"])


@pytest.mark.parametrize("entry", SLOW)
async def test_the_end_of_the_chains_budget_is_never_skipped(run: Any, make_action: Any, entry: Any) -> None:
    outcome = await run(make_action(entry, on_error="skip"), sets_a, timeout_s=0.02)

    assert (Cause.TIMED_OUT, entry.__name__) == (outcome.denial.cause, outcome.denial.action)
    assert [TIMED_OUT, NOT_REACHED] == outcomes(outcome)


@pytest.mark.parametrize("entry", SLOW)
async def test_a_chain_cut_by_the_askers_deadline_is_expired(run: Any, entry: Any) -> None:
    outcome = await run(entry, patience_s=0.02)

    assert (Cause.EXPIRED, entry.__name__) == (outcome.denial.cause, outcome.denial.action)


@pytest.mark.parametrize("patience_s", [0.0, -1.0])
@pytest.mark.parametrize("entry", [sets_a, sets_after_waiting])
async def test_a_chain_with_no_patience_left_runs_nothing(run: Any, entry: Any, patience_s: float) -> None:
    outcome = await run(entry, patience_s=patience_s)

    assert (Cause.EXPIRED, None) == (outcome.denial.cause, outcome.denial.action)
    assert [NOT_REACHED] == outcomes(outcome)


async def test_the_budget_is_shared_by_all_actions(run: Any) -> None:
    async def naps(event: Event, api: Api) -> None:
        await asyncio.sleep(0.06)

    outcome = await run(naps, naps, naps, timeout_s=0.1)

    assert Cause.TIMED_OUT is outcome.denial.cause
    assert [RAN, TIMED_OUT, NOT_REACHED] == outcomes(outcome)


async def test_cancelling_a_run_cancels_its_action(run: Any) -> None:
    ended = asyncio.Event()
    begun = asyncio.Event()

    async def waits(event: Event, api: Api) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(run(waits))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    await asyncio.wait_for(ended.wait(), 5)


async def test_a_cancelled_run_does_not_wait_for_an_action_that_swallows_it(run: Any) -> None:
    released = asyncio.Event()
    begun = asyncio.Event()

    async def holds_on(event: Event, api: Api) -> None:
        begun.set()
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    task = asyncio.create_task(run(holds_on))
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)

    released.set()


# -- Late calls ---------------------------------------------------------------------------------------------------------


async def test_calls_after_the_action_has_returned_are_ignored_and_counted(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Api] = []

    async def keeps(event: Event, api: Api) -> None:
        kept.append(api)

    async def calls_late(event: Event, api: Api) -> None:
        kept[0].access.deny("late").user.set_user_metadata("late", 1)

    chain = await run.chain(keeps, calls_late)
    outcome = await run.once(chain)
    kept[0].validation.error("late", "Late.").user.set_app_metadata("late", 1)

    assert (Status.APPROVED, {}) == (outcome.status, outcome.changes)
    assert (4, 4) == (outcome.late_calls, run.resources.late_calls)
    assert ["action keeps called api.access.deny after it had returned; the call is ignored"] == [
        record.getMessage() for record in caplog.records if record.name == "gate.chain.action"
    ]


async def test_a_call_from_a_leftover_task_is_in_the_trace_of_its_action(run: Any) -> None:
    left: list[asyncio.Task[None]] = []

    async def calls(api: Api) -> None:
        await asyncio.sleep(0.01)
        api.user.set_user_metadata("late", 1)

    async def leaves_a_task(event: Event, api: Api) -> None:
        left.append(asyncio.create_task(calls(api)))

    async def waits(event: Event, api: Api) -> None:
        await left[0]

    outcome = await run(leaves_a_task, waits)

    assert ["WARNING: api.user.set_user_metadata was called after the action had returned; the call is ignored"] == list(
        outcome.trace[0].logs
    )


async def test_an_abandoned_action_can_command_nothing(run: Any, make_action: Any, eventually: Any) -> None:
    chain = await run.chain(make_action(blocks, timeout_s=0.02, on_error="skip"))

    outcome = await run.once(chain)

    assert Status.APPROVED is outcome.status
    await eventually(lambda: run.resources.late_calls == 1, within_s=5)
    assert Status.APPROVED is outcome.status


# -- The chain itself ---------------------------------------------------------------------------------------------------


async def test_starting_twice_and_closing_twice_is_harmless(run: Any) -> None:
    chain = await run.chain(sets_a)
    await chain.start()
    await chain.aclose()
    await chain.aclose()

    assert not chain.started


async def test_a_chain_says_what_it_is(run: Any) -> None:
    chain = await run.chain(sets_a, denies, timeout_s=5)

    assert "<Chain sets_a → denies, 5 s, sha256:>" == repr(chain)
