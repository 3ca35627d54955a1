"""The api: argument checks at the call, so that a decision can always be written down."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate import Api
from gate.chain.action import Action
from gate.chain.effects import Effects
from gate.model.decision import Outcome
from gate.model.readonly import MAX_DEPTH, Secrets, freeze


class Nothing:
    waits = False

    def run_by_hand(self, event: Any, api: Any) -> None: ...
    async def run(self, event: Any, api: Any) -> None: ...


def new(**secrets: str) -> tuple[Api, Effects]:
    effects = Effects(Action(name="a", code=Nothing(), secrets=Secrets(secrets)), Outcome(denial=None), None, 0.0)
    return Api(effects), effects


def test_every_command_returns_the_api() -> None:
    api, _ = new()

    for result in (
        api.access.deny("r"),
        api.validation.error("c", "m"),
        api.user.set_user_metadata("k", 1),
        api.user.set_app_metadata("k", 1),
    ):
        assert api is result


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.access.deny(None),
        lambda api: api.access.deny("r", 5),
        lambda api: api.validation.error(1, "m"),
        lambda api: api.validation.error("c", None),
        lambda api: api.validation.error("c", "m", field=3),
        lambda api: api.user.set_user_metadata(1, "v"),
        lambda api: api.user.set_app_metadata(None, "v"),
    ],
)
def test_an_argument_of_the_wrong_type_raises_at_the_call(call: Any) -> None:
    api, effects = new()

    with pytest.raises(TypeError, match=r"^api\.\w+\.\w+: \w+ must be a string, not \w+$"):
        call(api)

    assert effects.untouched


@pytest.mark.parametrize("text", ["é" * 100, "😀" * 100])
def test_a_hundred_characters_are_code_points(text: str) -> None:
    api, effects = new()

    api.validation.error(text, text)

    assert [{"code": text, "message": text}] == effects.errors
    with pytest.raises(ValueError, match="has 101 characters, more than 100"):
        api.validation.error(text + "a", "m")
    with pytest.raises(ValueError, match="has 101 characters, more than 100"):
        api.validation.error("c", text + "a")


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.access.deny("\ud800"),
        lambda api: api.access.deny("r", "\ud800"),
        lambda api: api.validation.error("\ud800", "m"),
        lambda api: api.validation.error("c", "m", field="\ud800"),
        lambda api: api.user.set_user_metadata("\ud800", 1),
        lambda api: api.user.set_user_metadata("k", "\ud800"),
        lambda api: api.user.set_user_metadata("k", [{"\ud800": 1}]),
    ],
)
def test_text_that_utf8_cannot_hold_raises_at_the_call(call: Any) -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        call(new()[0])


def test_a_string_of_another_class_is_taken_as_its_text_whatever_it_prints() -> None:
    class Odd(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "\ud800"

    api, effects = new()
    api.access.deny(Odd("r"), Odd("m")).user.set_app_metadata(Odd("k"), {Odd("a"): 1})

    assert (("r", "m"), {"app_metadata": {"k": {"a": 1}}}) == (effects.denial, effects.changes)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", dt.datetime.now(dt.UTC), {"a": object()}, [{"b": b""}], {1: 2}, (x for x in [1])],
)
def test_a_value_that_is_not_json_raises_at_the_call(value: Any) -> None:
    with pytest.raises(TypeError, match=r"api\.user\.set_user_metadata: value of 'k'"):
        new()[0].user.set_user_metadata("k", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, -(2**63) - 1, [float("nan")]])
def test_a_number_that_json_cannot_hold_raises_at_the_call(value: Any) -> None:
    with pytest.raises(ValueError, match=r"api\.user\.set_app_metadata: value of 'k'"):
        new()[0].user.set_app_metadata("k", value)


def test_a_value_nested_too_deeply_or_within_itself_raises_at_the_call() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} levels"):
        new()[0].user.set_user_metadata("k", loop)


def test_an_empty_key_raises() -> None:
    with pytest.raises(ValueError, match="key is empty"):
        new()[0].user.set_user_metadata("", 1)


def test_a_value_is_taken_as_it_is_at_the_call() -> None:
    api, effects = new()
    value = {"list": [1]}

    api.user.set_user_metadata("k", value)
    value["list"].append(2)

    assert {"k": {"list": [1]}} == effects.changes["user_metadata"]


def test_tuples_enum_members_and_parts_of_the_event_become_plain_json() -> None:
    class Plan(enum.StrEnum):
        FREE = "free"

    api, effects = new()
    api.user.set_user_metadata("k", (Plan.FREE, freeze({"a": [1]})))

    written = effects.changes["user_metadata"]["k"]
    assert ["free", {"a": [1]}] == written
    assert [str, dict, list] == [type(each) for each in (*written, written[1]["a"])]


def test_secrets_are_blanked_out_of_denials() -> None:
    api, effects = new(URL="https://crm.example.org/key", LONGER="https://crm.example.org/key2")

    api.access.deny("no answer from https://crm.example.org/key", "https://crm.example.org/key2!")
    api.validation.error("https://crm.example.org/key", "at https://crm.example.org/key")

    assert ("no answer from [secret]", "[secret]!") == effects.denial
    assert [{"code": "[secret]", "message": "at [secret]"}] == effects.errors


def test_http_says_that_the_chain_is_not_started() -> None:
    with pytest.raises(RuntimeError, match="while the chain is started"):
        _ = new()[0].http


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aé\ud800", max_size=3) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_accepted_can_be_written_as_json(value: Any) -> None:
    api, effects = new()
    try:
        api.user.set_user_metadata("k", value)
    except (TypeError, ValueError):
        assert effects.changes is None
    else:
        written = (effects.changes or {})["user_metadata"]
        assert {"k": value} == orjson.loads(orjson.dumps(written)) == written
