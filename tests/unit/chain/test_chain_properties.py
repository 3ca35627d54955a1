"""Any chain of any actions follows one small model: order, stop, merge, drop, try again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate import Api, Event
from gate.chain.action import Action
from gate.chain.python import CoroutineAction
from gate.chain.runner import Chain
from gate.model.decision import ActionOutcome, Outcome

command = st.one_of(
    st.tuples(st.just("user"), st.sampled_from("abc"), st.none() | st.integers(0, 3)),
    st.tuples(st.just("app"), st.sampled_from("abc"), st.none() | st.integers(0, 3)),
    st.tuples(st.just("deny"), st.sampled_from("xyz")),
    st.tuples(st.just("error"), st.sampled_from("xyz")),
    st.tuples(st.just("raise")),
)
script = st.fixed_dictionaries(
    {
        "commands": st.lists(command, max_size=4),
        "waits": st.booleans(),
        "on_error": st.sampled_from(["deny", "skip"]),
        "retries": st.sampled_from([0, 0, 1, 2]),
        "flaky": st.sampled_from([0, 0, 1, 2]),  # how many tries raise in the end
    }
)


def build(index: int, script: dict[str, Any], ran: list[int]) -> Action:
    async def entry(event: Event, api: Api) -> None:
        ran.append(index)

        if script["waits"]:
            await asyncio.sleep(0)

        for kind, *arguments in script["commands"]:
            match kind:
                case "user":
                    api.user.set_user_metadata(*arguments)
                case "app":
                    api.user.set_app_metadata(*arguments)
                case "deny":
                    api.access.deny(*arguments)
                case "error":
                    api.validation.error(*arguments, "Message.")
                case "raise":
                    raise ValueError

        if ran.count(index) <= script["flaky"]:
            raise ConnectionError

    code = CoroutineAction(entry, waits=script["waits"])
    return Action(name=str(index), code=code, on_error=script["on_error"], retries=script["retries"], backoff_s=0.0001)


def model(scripts: list[dict[str, Any]]) -> tuple[str | None, str | None, dict[str, dict[str, Any]], list[str], list[int]]:
    """Say what a chain comes to: cause and reason of its denial, changes, outcome and number of tries of each action."""
    changes: dict[str, dict[str, Any]] = {}
    trace: list[str] = []
    tries: list[int] = []

    for script in scripts:
        commands = script["commands"]
        raises = ("raise",) in commands
        done = commands[: commands.index(("raise",))] if raises else commands
        denials = [each[1] for each in done if each[0] == "deny"]
        errors = [each[1] for each in done if each[0] == "error"]
        denial = None
        needed = 1 if denials else 99 if raises else script["flaky"] + 1
        tries.append(min(needed, script["retries"] + 1))
        failed = raises or tries[-1] <= script["flaky"]

        if denials:
            denial = ("access_denied", denials[0], "denied")
        elif failed and script["on_error"] == "deny":
            denial = ("action_failed", "action_failed", "failed")
        elif failed:
            trace.append("failed")
            continue
        elif errors:
            denial = ("validation_error", errors[0], "denied")

        if denial is not None:
            trace.append(denial[2])
            missing = len(scripts) - len(trace)
            return denial[0], denial[1], {}, trace + ["not_reached"] * missing, tries

        trace.append("ran")

        for kind, key, value in done:
            changes.setdefault(f"{kind}_metadata", {})[key] = value

    return None, None, changes, trace, tries


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=100, deadline=None)
@given(st.lists(script, max_size=6))
def test_a_chain_does_what_its_model_says(scripts: list[dict[str, Any]]) -> None:
    ran: list[int] = []
    chain = Chain([build(index, script, ran) for index, script in enumerate(scripts)])
    event = Event.from_document({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    async def go() -> Outcome:
        outcome = chain.run(event, attempt_id="a", patience_s=30.0)
        return outcome if isinstance(outcome, Outcome) else await outcome

    outcome = asyncio.run(go())
    cause, reason, changes, trace, tries = model(scripts)

    assert (cause, reason) == ((None, None) if outcome.denial is None else (outcome.denial.cause.value, outcome.denial.reason))
    assert changes == outcome.changes
    assert trace == [entry.outcome.value for entry in outcome.trace]
    assert tries == [entry.tries for entry in outcome.trace if entry.outcome is not ActionOutcome.NOT_REACHED]
    assert [index for index, each in enumerate(tries) for _ in range(each)] == ran
