"""An expectation finds every difference and nothing else, and refuses what no reply can be."""

from __future__ import annotations

from typing import Any

import pytest

from gate.errors import CasesError
from gate.testing.expectation import KEYS, Expectation

APPROVED: dict[str, Any] = {
    "status": "approved",
    "user_metadata": {"plan": "free", "langs": ["en", "es"], "flag": True, "none": None},
    "app_metadata": {},
    "changes": {"user_metadata": {"plan": "free"}},
    "warnings": [{"code": "late_call", "message": "too late"}, {"code": "action_skipped", "message": "failed"}],
    "trace": [
        {"name": "one", "outcome": "ran", "logs": ["INFO: asked them", "done"], "tries": 2},
        {"name": "two", "outcome": "failed", "error": "KeyError"},
    ],
}
DENIED: dict[str, Any] = {
    "status": "denied",
    "denial": {
        "cause": "validation_error",
        "reason": "too_short",
        "user_message": "Too short.",
        "action": "one",
        "errors": [{"code": "too_short", "message": "Too short."}, {"code": "no_digit", "message": "No digit.", "field": "pin"}],
    },
    "warnings": [],
    "trace": [{"name": "one", "outcome": "denied"}, {"name": "two", "outcome": "not_reached"}],
}


def differences(expect: dict[str, Any], reply: dict[str, Any]) -> list[str]:
    return [str(difference) for difference in Expectation.parse(expect).differences(reply)]


@pytest.mark.parametrize(
    ("expect", "reply"),
    [
        ({}, DENIED),
        ({"status": "approved", "cause": None, "reason": None, "user_message": None, "action": None, "errors": []}, APPROVED),
        ({"user_metadata": APPROVED["user_metadata"], "app_metadata": {}, "changes": APPROVED["changes"]}, APPROVED),
        ({"user_id": None, "warnings": ["late_call", "action_skipped"]}, APPROVED),
        ({"trace": {"one": {"outcome": "ran", "error": None, "tries": 2, "logs": ["asked", "done", "INFO"]}}}, APPROVED),
        ({"trace": {"two": {"error": "KeyError", "tries": 1, "logs": []}}}, APPROVED),
        ({"status": "denied", "errors": DENIED["denial"]["errors"], "user_metadata": None, "warnings": []}, DENIED),
        ({"trace": {"one": "denied", "two": "not_reached"}}, DENIED),
    ],
)
def test_a_reply_that_is_as_expected_has_no_difference(expect: dict[str, Any], reply: dict[str, Any]) -> None:
    assert [] == differences(expect, reply)


@pytest.mark.parametrize(
    ("expect", "reply", "found"),
    [
        ({"status": "denied"}, APPROVED, ['status: expected "denied", got "approved"']),
        ({"cause": "access_denied"}, APPROVED, ['cause: expected "access_denied", got nothing']),
        ({"user_message": None}, DENIED, ['user_message: expected nothing, got "Too short."']),
        ({"user_message": "Zu kurz."}, DENIED, ['user_message: expected "Zu kurz.", got "Too short."']),
        (
            {"action": "two", "reason": "x"},
            DENIED,
            ['reason: expected "x", got "too_short"', 'action: expected "two", got "one"'],
        ),
        ({"user_metadata": {"plan": "pro"}}, DENIED, ['user_metadata: expected {"plan": "pro"}, got nothing']),
        (
            {"user_metadata": {"plan": "pro", "langs": ["en", "fr"], "flag": 1, "more": {}}},
            APPROVED,
            [
                'user_metadata.plan: expected "pro", got "free"',
                'user_metadata.langs[1]: expected "fr", got "es"',
                "user_metadata.flag: expected 1, got true",
                "user_metadata.more: expected {}, got nothing",
                "user_metadata.none: expected nothing, got null",
            ],
        ),
        ({"changes": {}}, APPROVED, ['changes.user_metadata: expected nothing, got {"plan": "free"}']),
        ({"errors": []}, DENIED, [f"errors: expected [], got {str(DENIED['denial']['errors']).replace(chr(39), chr(34))}"]),
        (
            {"errors": [{"code": "too_short", "message": "No."}, {"code": "no_digit", "message": "No digit."}]},
            DENIED,
            ['errors[0].message: expected "No.", got "Too short."', 'errors[1].field: expected nothing, got "pin"'],
        ),
        (
            {"warnings": ["action_skipped", "late_call"]},
            APPROVED,
            [
                'warnings[0]: expected "action_skipped", got "late_call"',
                'warnings[1]: expected "late_call", got "action_skipped"',
            ],
        ),
        ({"user_id": "u-1"}, APPROVED, ['user_id: expected "u-1", got nothing']),
        (
            {"trace": {"one": {"outcome": "failed", "error": "OSError", "tries": 1, "logs": ["asked", "gone"]}}},
            APPROVED,
            [
                'trace.one.outcome: expected "failed", got "ran"',
                'trace.one.error: expected "OSError", got nothing',
                "trace.one.tries: expected 1, got 2",
                'trace.one.logs: expected a line with "gone", got ["INFO: asked them", "done"]',
            ],
        ),
        ({"trace": {"one": {"logs": []}}}, APPROVED, ['trace.one.logs: expected nothing, got ["INFO: asked them", "done"]']),
        ({"trace": {"three": "ran"}}, APPROVED, ['trace.three: expected {"outcome": "ran"}, got nothing']),
    ],
)
def test_every_difference_is_named_with_what_was_expected_and_what_came(
    expect: dict[str, Any], reply: dict[str, Any], found: list[str]
) -> None:
    assert found == differences(expect, reply)


def test_a_difference_as_json_has_no_key_for_what_is_absent() -> None:
    absent, null = Expectation.parse({"user_metadata": {"a": 1}}).differences(
        {"status": "approved", "user_metadata": {"none": None}, "warnings": []}
    )

    assert {"path": "user_metadata.a", "expected": 1} == absent.to_json()
    assert {"path": "user_metadata.none", "got": None} == null.to_json()


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ([], "$.expect: must be an object"),
        ({"usr_message": "x"}, "$.expect.usr_message: there is no such key; did you mean user_message?"),
        ({"zzz": 1}, f"$.expect.zzz: there is no such key; known are {', '.join(KEYS)}"),
        ({"status": "aproved"}, '$.expect.status: there is no "aproved"; did you mean approved?'),
        ({"status": None}, "$.expect.status: there is no null; known are approved, denied"),
        ({"cause": "acces_denied"}, '$.expect.cause: there is no "acces_denied"; did you mean access_denied?'),
        ({"cause": ["access_denied"]}, '$.expect.cause: there is no ["access_denied"]'),
        ({"action": "thre"}, '$.expect.action: the chain has no action "thre"; known are one, two'),
        ({"reason": 1}, "$.expect.reason: must be a text, not 1"),
        ({"user_id": 7}, "$.expect.user_id: must be a text, not 7"),
        ({"user_metadata": []}, "$.expect.user_metadata: must be an object, not []"),
        ({"changes": {"metadata": {}}}, "$.expect.changes.metadata: there is no such key; did you mean app_metadata?"),
        ({"errors": {}}, "$.expect.errors: must be a list of objects"),
        ({"errors": [1]}, "$.expect.errors[0]: must be an object, not 1"),
        ({"errors": [{"code": "x"}]}, "$.expect.errors[0].message: must be a text, not null"),
        ({"warnings": "late_call"}, "$.expect.warnings: must be a list of texts"),
        ({"warnings": None}, "$.expect.warnings: must be a list of texts"),
        ({"trace": ["one"]}, "$.expect.trace: must be an object by name of the action"),
        ({"trace": {"on": "ran"}}, '$.expect.trace.on: the chain has no action "on"; did you mean one?'),
        ({"trace": {"one": "run"}}, '$.expect.trace.one.outcome: there is no "run"; did you mean ran?'),
        ({"trace": {"one": 1}}, "$.expect.trace.one: must be an outcome"),
        ({"trace": {"one": {"log": []}}}, "$.expect.trace.one.log: there is no such key; did you mean logs?"),
        ({"trace": {"one": {"tries": True}}}, "$.expect.trace.one.tries: must be a whole number from 1 on, not true"),
        ({"trace": {"one": {"logs": "x"}}}, "$.expect.trace.one.logs: must be a list of texts"),
        ({"trace": {"one": {"error": 1}}}, "$.expect.trace.one.error: must be a text"),
        ({"status": "approved", "reason": "x"}, "$.expect: no reply can be so: status is of an approval, reason of a denial"),
        ({"status": "denied", "changes": {}}, "$.expect: no reply can be so: changes is of an approval, status of a denial"),
        (
            {"cause": "access_denied", "user_id": "u"},
            "$.expect: no reply can be so: user_id is of an approval, cause of a denial",
        ),
    ],
)
def test_what_cannot_be_is_a_mistake_with_its_place_and_mend(expect: Any, problem: str) -> None:
    with pytest.raises(CasesError) as mistake:
        Expectation.parse(expect, actions={"one": 1, "two": 2})

    (found,) = mistake.value.problems
    assert found.startswith(problem)


def test_all_mistakes_are_found_at_once() -> None:
    with pytest.raises(CasesError) as mistakes:
        Expectation.parse({"status": 1, "cause": 2, "trace": {"one": "x"}}, place="$.cases[3].expect")

    assert ["$.cases[3].expect.status", "$.cases[3].expect.cause", "$.cases[3].expect.trace.one.outcome"] == [
        problem.partition(":")[0] for problem in mistakes.value.problems
    ]
