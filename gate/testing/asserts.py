"""Assertions on results; where one fails, its message says what came out instead, and what each action did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from gate.model.decision import Cause, Status
from gate.testing.cases import Case
from gate.testing.difference import ABSENT, Difference
from gate.testing.expectation import Expectation
from gate.testing.result import Result


class _Any(Enum):
    ANY = "any"

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any.ANY
"""Stands for an argument that was left out: None says that something must be absent."""


def assert_approved(
    result: Result,
    user_metadata: Mapping[str, Any] | _Any = ANY,
    app_metadata: Mapping[str, Any] | _Any = ANY,
    *,
    changes: Mapping[str, Any] | _Any = ANY,
    user_id: str | _Any | None = ANY,
    warnings: Sequence[str] | _Any = ANY,
) -> None:
    """Assert that the person may register, with exactly these metadata; what is left out may be anything.

    `warnings` are codes, all of them, in order.
    """
    __tracebackhide__ = True
    _compare(
        result,
        status=Status.APPROVED.value,
        user_metadata=user_metadata,
        app_metadata=app_metadata,
        changes=changes,
        user_id=user_id,
        warnings=warnings if isinstance(warnings, _Any) else list(warnings),
    )


def assert_denied(
    result: Result,
    reason: str | _Any = ANY,
    user_message: str | _Any | None = ANY,
    *,
    cause: Cause | str | _Any = ANY,
    action: str | _Any | None = ANY,
    warnings: Sequence[str] | _Any = ANY,
) -> None:
    """Assert that the person may not register, for this reason; what is left out may be anything, None must be absent."""
    __tracebackhide__ = True
    _compare(
        result,
        status=Status.DENIED.value,
        cause=cause,
        reason=reason,
        user_message=user_message,
        action=action,
        warnings=warnings if isinstance(warnings, _Any) else list(warnings),
    )


def assert_validation_error(result: Result, code: str, message: str | _Any = ANY, field: str | _Any | None = ANY) -> None:
    """Assert that the person may not register because of validation errors, and that this is one of them."""
    __tracebackhide__ = True
    _compare(result, status=Status.DENIED.value, cause=Cause.VALIDATION_ERROR.value)
    assert result.denial is not None
    wanted = {"code": code, "message": message, "field": field}

    if not any(_matches(error, wanted) for error in result.denial.errors):
        asked = {key: value for key, value in wanted.items() if value is not ANY}
        _fail(result, [Difference(path="errors", expected=asked, got=list(result.denial.errors), wanted="expected one with")])


def assert_expected(result: Result, case: Case) -> None:
    """Assert that a result is as a case expects it."""
    __tracebackhide__ = True
    _fail(result, case.differences(result.reply))


def _matches(error: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    return all(value is ANY or error.get(key) == value for key, value in wanted.items())


def _compare(result: Result, **wanted: Any) -> None:
    __tracebackhide__ = True
    values = {key: ABSENT if value is None else value for key, value in wanted.items() if value is not ANY}
    _fail(result, Expectation(values=values).differences(result.reply))


def _fail(result: Result, differences: Sequence[Difference]) -> None:
    """Raise AssertionError if there are differences."""
    __tracebackhide__ = True

    if differences:
        lines = [*map(str, differences), "", "This came out:", *result.describe().splitlines()]
        raise AssertionError("\n".join(lines))
