"""Limits on what an action may store: Auth0's sizes and keys, and nothing of a secret."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gate import Api, Event
from gate.chain.metadata import MAX_SCOPE_BYTES
from gate.model.decision import ActionOutcome, Cause, Status
from gate.model.readonly import Secrets

FILLER = '{"k":""}'


def sets(scope: str, key: str, value: Any) -> Any:
    async def action(event: Event, api: Api) -> None:
        getattr(api.user, f"set_{scope}")(key, value)

    return action


def value_of(size_bytes: int) -> str:
    """Return text that makes `{"k": text}` so large as JSON."""
    return "x" * (size_bytes - len(FILLER))


@pytest.mark.parametrize("scope", ["user_metadata", "app_metadata"])
@pytest.mark.parametrize(("size_bytes", "fits"), [(MAX_SCOPE_BYTES, True), (MAX_SCOPE_BYTES + 1, False)])
async def test_32_kb_fit_into_each_scope_and_one_byte_more_does_not(run: Any, scope: str, size_bytes: int, *, fits: bool) -> None:
    outcome = await run(sets(scope, "k", value_of(size_bytes)))

    assert (Status.APPROVED if fits else Status.DENIED) is outcome.status
    assert fits == (len(orjson.dumps(outcome.changes.get(scope))) == size_bytes)
    assert fits or outcome.trace[0].error == "ValueError"


async def test_the_limit_holds_for_the_chain_and_counts_what_is_stored_in_the_end(run: Any, make_action: Any) -> None:
    large = value_of(MAX_SCOPE_BYTES)
    outcome = await run(
        sets("user_metadata", "k", large),
        sets("app_metadata", "k", large),
        sets("user_metadata", "k", large),
        make_action(sets("user_metadata", "one_more", ""), on_error="skip"),
        sets("user_metadata", "k", "small"),
        sets("user_metadata", "one_more", ""),
    )

    assert [None, None, None, "ValueError", None, None] == [entry.error for entry in outcome.trace]
    assert {"user_metadata": {"k": "small", "one_more": ""}, "app_metadata": {"k": large}} == outcome.changes


async def test_escapes_count_as_they_are_written(run: Any) -> None:
    outcome = await run(sets("user_metadata", "k", "\x01" * (MAX_SCOPE_BYTES // 6)))

    assert Cause.ACTION_FAILED is outcome.denial.cause


@pytest.mark.parametrize(
    ("scope", "key", "problem"),
    [
        ("user_metadata", "a.b", "holds '.' or '$'"),
        ("app_metadata", "$inc", "holds '.' or '$'"),
        ("app_metadata", "user_id", "is reserved"),
        ("app_metadata", "__tenant", "is reserved"),
        ("user_metadata", "", "key is empty"),
    ],
)
async def test_keys_that_cannot_be_stored_raise_at_the_call(run: Any, scope: str, key: str, problem: str) -> None:
    raised: list[str] = []

    async def calls(event: Event, api: Api) -> None:
        try:
            getattr(api.user, f"set_{scope}")(key, 1)
        except ValueError as error:
            raised.append(str(error))

    outcome = await run(calls)

    assert [True] == [text.startswith(f"api.user.set_{scope}: key") and problem in text for text in raised]
    assert {} == outcome.changes


async def test_reserved_names_of_app_metadata_are_free_in_user_metadata(run: Any) -> None:
    assert {"user_metadata": {"email": "x"}} == (await run(sets("user_metadata", "email", "x"))).changes


async def test_a_secret_is_taken_out_of_metadata_with_a_warning(run: Any, make_action: Any) -> None:
    leaks = sets("app_metadata", "service", {"url": "https://hunter2.example", "hunter2": [1, "hunter2"]})
    outcome = await run(make_action(leaks, name="leaks", secrets=Secrets(KEY="hunter2")))

    assert {"service": {"url": "https://[secret].example", "[secret]": [1, "[secret]"]}} == outcome.changes["app_metadata"]
    assert [("secret_removed", "leaks")] == [(entry["code"], entry["action"]) for entry in outcome.warnings]


async def test_metadata_without_a_secret_is_left_alone(run: Any, make_action: Any) -> None:
    value = {"a": [1, True, None, "x"]}
    outcome = await run(make_action(sets("app_metadata", "k", value), secrets=Secrets(KEY="hunter2")))

    assert ({"k": value}, []) == (outcome.changes["app_metadata"], outcome.warnings)


async def test_dropped_metadata_of_passwordless_users_is_in_the_trace_by_key_only(run: Any) -> None:
    outcome = await run(sets("user_metadata", "plan", "personal"), event={"connection": {"strategy": "email"}})

    assert ["WARNING: users of passwordless connections get no metadata; dropped: user_metadata.plan"] == outcome.trace[0].logs


# -- The user's id ------------------------------------------------------------------------------------------------------


def chooses(user_id: Any) -> Any:
    async def action(event: Event, api: Api) -> None:
        api.user.set_user_id(user_id)

    return action


async def test_the_last_user_id_wins_and_a_denial_drops_it(run: Any) -> None:
    async def denies(event: Event, api: Api) -> None:
        api.access.deny("no")

    assert "b+1@x.y_z-0" == (await run(chooses("a"), chooses("b+1@x.y_z-0"))).user_id
    assert (await run(chooses("a"), denies)).user_id is None


@pytest.mark.parametrize("user_id", ["", "a|b", "ä", "x" * 256, 7, "a\n"])
async def test_what_is_no_user_id_fails_the_action(run: Any, user_id: Any) -> None:
    outcome = await run(chooses(user_id))

    assert (ActionOutcome.FAILED, None) == (outcome.trace[0].outcome, outcome.user_id)


async def test_a_secret_is_no_user_id(run: Any, make_action: Any) -> None:
    assert Cause.ACTION_FAILED is (await run(make_action(chooses("u-hunter2"), secrets=Secrets(K="hunter2")))).denial.cause


async def test_choosing_an_id_is_off_unless_the_setting_allows_it(run: Any) -> None:
    said: list[str] = []

    async def tries(event: Event, api: Api) -> None:
        try:
            api.user.set_user_id("a")
        except RuntimeError as error:
            said.append(str(error))

    chain = await run.chain(tries)
    run.resources.set_user_id = False

    assert (await run.once(chain)).user_id is None
    assert ["api.user.set_user_id is off; GATE_SET_USER_ID=true turns it on"] == said
