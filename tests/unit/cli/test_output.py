from typing import Any

import pytest

from gate.cli.output import decision_json, milliseconds, told
from gate.model.decision import Decision

APPROVED = {
    "attempt_id": "a-1",
    "status": "approved",
    "user_metadata": {"plan": "free"},
    "app_metadata": {"crm_id": "42"},
    "changes": {"user_metadata": {"plan": "free", "old": None}},
    "warnings": [{"code": "late_call", "message": "too late", "action": "one"}],
    "chain": "sha256:00",
    "decided_at": "2026-01-02T03:04:05.678Z",
}
DENIED = {
    "attempt_id": "a-2",
    "status": "denied",
    "denial": {
        "cause": "validation_error",
        "reason": "too_short",
        "user_message": "Too short.",
        "action": "check",
        "errors": [{"code": "too_short", "message": "Too short."}, {"code": "no_digit", "message": "No digit."}],
    },
    "warnings": [],
    "chain": "sha256:00",
    "decided_at": "2026-01-02T03:04:05.678Z",
}


@pytest.mark.parametrize("document", [APPROVED, DENIED])
def test_json_is_what_the_reply_said(document: dict[str, Any]) -> None:
    assert document == decision_json(Decision.from_json({"version": 1, **document}))


def test_people_read_the_message_first_and_each_error_once() -> None:
    assert [
        ("message", "Too short."),
        ("cause", "validation_error: too_short"),
        ("action", "check"),
        ("error", "no_digit: No digit."),
    ] == told(Decision.from_json(DENIED))


def test_people_read_changes_and_warnings() -> None:
    assert [("user_metadata", '{"plan": "free", "old": null}'), ("warning", "too late")] == told(Decision.from_json(APPROVED))


@pytest.mark.parametrize(("seconds", "text"), [(0.00612, "6.1 ms"), (0.9999, "999.9 ms"), (1.5, "1.50 s")])
def test_durations(seconds: float, text: str) -> None:
    assert text == milliseconds(seconds)


def test_a_decision_cannot_steer_the_terminal() -> None:
    denial = {**DENIED["denial"], "user_message": "a\x1b[2Jb", "reason": "one\nattempt approved"}

    lines = told(Decision.from_json({**DENIED, "denial": denial}))

    assert [("message", "a\\x1b[2Jb"), ("cause", "validation_error: one\\nattempt approved")] == lines[:2]
