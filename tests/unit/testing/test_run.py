"""Actions and chains run in users' tests as they do in a worker."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import gate.testing
from gate import Api, Event
from gate.errors import ChainError, InvalidEvent
from gate.testing import (
    Case,
    Expectation,
    assert_approved,
    assert_denied,
    assert_expected,
    assert_validation_error,
    build_event,
    load_chain,
    run_action,
    run_chain,
)

COUNTING = """
seen = []

async def on_execute_pre_user_registration(event, api):
    seen.append(event.attempt_id)
    api.user.set_user_metadata("seen", list(seen))
    api.user.set_app_metadata("key", len(event.secrets["KEY"]))
"""
MANIFEST = '[[action]]\nname = "count"\nfile = "count.py"\nsecrets = ["KEY"]\n'


@pytest.fixture
def chain_folder(tmp_path: Path) -> Path:
    (tmp_path / "count.py").write_text(COUNTING)
    (tmp_path / "chain.toml").write_text(MANIFEST)
    return tmp_path


async def deny_north(event: Event, api: Api) -> None:
    print("asked for", event.request.geoip.continent_code)

    if event.request.geoip.continent_code in event.config["continents"]:
        api.access.deny("too_far", f"Not from {event.secrets['WHERE']}.")


async def fails(event: Event, api: Api) -> None:
    await asyncio.sleep(0)
    raise LookupError(f"no such {event.secrets['WHERE']}")


async def check_pin(event: Event, api: Api) -> None:
    api.validation.error("too_short", "Too short.").validation.error("no_digit", "No digit.")


def test_the_public_names_are_these_and_all_there() -> None:
    assert sorted(gate.testing.__all__) == gate.testing.__all__
    assert [] == [name for name in gate.testing.__all__ if not hasattr(gate.testing, name)]


async def test_a_function_runs_with_its_secrets_and_config() -> None:
    event = build_event(request={"geoip": {"continentCode": "NA"}})

    result = await run_action(deny_north, event, secrets={"WHERE": "Ohio-7"}, config={"continents": ["NA"]})

    assert_denied(result, "too_far", "Not from [secret].", cause="access_denied", action="test_run")
    assert (False, ["asked for NA"], {"test_run": "denied"}) == (result.approved, result.logs, result.outcomes)
    assert "<Result denied access_denied: too_far by test_run | test_run denied>" == repr(result)


async def test_a_file_runs_anew_each_time_and_takes_the_attempt_id(chain_folder: Path) -> None:
    for attempt_id in ("a-1", "a-2"):
        result = await run_action(chain_folder / "count.py", secrets={"KEY": "1234"}, attempt_id=attempt_id)

        assert_approved(result, {"seen": [attempt_id]}, {"key": 4}, warnings=[])


async def test_what_was_loaded_for_one_call_is_let_go_of_after_it(chain_folder: Path) -> None:
    before = set(sys.modules)
    await run_action(chain_folder / "count.py", secrets={"KEY": "k"})
    await run_chain(chain_folder, secrets={"count": {"KEY": "k"}})

    assert set() == {name for name in set(sys.modules) - before if name.startswith("gate_actions")}


async def test_of_a_partial_event_only_what_is_required_is_filled_in() -> None:
    async def keeps(event: Event, api: Api) -> None:
        api.user.set_user_metadata("seen", [event.connection.strategy, event.user.email, event.client, event.request.ip])

    given = await run_action(keeps, {"connection": {"name": "x"}, "request": {"ip": "192.0.2.9"}, "user": {}})
    none = await run_action(keeps, {})

    assert ["auth0", None, None, "192.0.2.9"] == given.user_metadata["seen"]
    assert ["auth0", "nora.byrne@mail.example", None, "198.51.100.23"] == none.user_metadata["seen"]


async def test_an_event_that_cannot_be_read_is_the_tests_mistake() -> None:
    with pytest.raises(InvalidEvent, match=r"\$\.user\.email: must be a string"):
        await run_action(deny_north, {"user": {"email": 1}})
    with pytest.raises(InvalidEvent, match="cannot be written as JSON"):
        await run_action(deny_north, {"user": {"email": {1}}})


async def test_an_action_that_overruns_its_limit_is_cut_where_it_waits() -> None:
    async def waits(event: Event, api: Api) -> None:
        await asyncio.Event().wait()

    result = await run_action(waits, timeout_s=0.02)

    assert_denied(result, cause="timed_out")
    assert result.trace["test_run"]["error_at"].startswith(f"{__file__}:")


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        ("nowhere.py", "nowhere.py: the action cannot be read: No such file"),
        (".", r"not an action; its name must end in \.py \(run_chain"),
        (3, "not a function but int"),
        (lambda event: None, r"test_run\.py:\d+: .* must take two arguments"),
    ],
)
async def test_what_is_no_action_is_refused_with_its_place(action: Any, problem: str) -> None:
    with pytest.raises(ChainError, match=problem):
        await run_action(action)


async def test_a_chain_is_given_its_secrets_by_action_and_key(chain_folder: Path) -> None:
    result = await run_chain(chain_folder, secrets={"count": {"KEY": "12345"}})

    assert_approved(result, {"seen": ["test"]}, {"key": 5}, changes=result.changes, user_id=None)


async def test_a_started_chain_keeps_what_its_modules_hold(chain_folder: Path) -> None:
    async with load_chain(chain_folder, environ={"GATE_SECRET_COUNT_KEY": "1"}) as chain:
        await run_chain(chain, attempt_id="a-1")
        result = await run_chain(chain, attempt_id="a-2")

        with pytest.raises(TypeError, match="when it is loaded"):
            await run_chain(chain, secrets={})

    assert ["a-1", "a-2"] == result.user_metadata["seen"]


async def test_a_case_brings_its_event_id_and_patience_and_may_be_unreadable(chain_folder: Path) -> None:
    options: dict[str, Any] = {"name": "c", "file": Path("c.json"), "attempt_id": "a-7"}
    bad = Case(event={"user": 1}, expectation=Expectation.parse({"cause": "invalid_attempt"}), **options)
    late = Case(event=build_event(), timeout_ms=0, expectation=Expectation.parse({"cause": "expired"}), **options)
    good = Case(event=build_event(), expectation=Expectation.parse({"user_metadata": {"seen": ["a-7"]}}), **options)

    for case in (bad, late, good):
        assert_expected(await run_chain(chain_folder, case, secrets={"count": {"KEY": "1"}}), case)


async def test_a_failed_assertion_says_what_came_out_and_what_the_actions_did() -> None:
    result = await run_action(fails, secrets={"WHERE": "Ohio-7"})

    with pytest.raises(AssertionError) as failed:
        assert_approved(result, {"plan": "free"})

    line = fails.__code__.co_firstlineno + 2
    assert [
        'status: expected "approved", got "denied"',
        'user_metadata: expected {"plan": "free"}, got nothing',
        "",
        "This came out:",
        "denied action_failed by test_run",
        "  user_message 'Your registration could not be checked. Please try again later.'",
        "  test_run failed",
        f"    | LookupError: no such [secret], {__file__}:{line}",
    ] == str(failed.value).splitlines()


async def test_a_validation_error_may_be_any_of_them() -> None:
    result = await run_action(check_pin)

    assert_validation_error(result, "too_short")
    assert_validation_error(result, "no_digit", "No digit.", field=None)
    with pytest.raises(AssertionError, match=r"errors: expected one with .*no_digit.*pin.*, got .*too_short"):
        assert_validation_error(result, "no_digit", field="pin")


@pytest.mark.parametrize(
    ("check", "path"),
    [
        (assert_denied, "status"),
        (lambda result: assert_validation_error(result, "x"), "status"),
        (lambda result: assert_approved(result, app_metadata={"a": 1}), "app_metadata.a"),
        (lambda result: assert_approved(result, user_id="u"), "user_id"),
        (lambda result: assert_approved(result, changes={"app_metadata": {}}), "changes.app_metadata"),
        (lambda result: assert_approved(result, warnings=("late_call",)), "warnings"),
    ],
)
async def test_each_argument_of_an_assertion_counts(check: Any, path: str) -> None:
    async def nothing(event: Event, api: Api) -> None: ...

    result = await run_action(nothing)

    with pytest.raises(AssertionError) as failed:
        check(result)
    assert str(failed.value).startswith(f"{path}: ")


def test_an_event_is_built_by_merging_objects_and_replacing_the_rest() -> None:
    event = build_event(request={"geoip": {"countryCode": "FR"}, "language": None}, client=None, user={"user_metadata": {"a": 1}})

    assert ("FR", "EU", None) == (
        event["request"]["geoip"]["countryCode"],
        event["request"]["geoip"]["continentCode"],
        event["request"]["language"],
    )
    assert (None, {"a": 1}) == (event["client"], event["user"]["user_metadata"])
    event["user"]["user_metadata"]["b"] = 2
    assert {} == build_event()["user"]["user_metadata"]
    Event.from_document(build_event())
