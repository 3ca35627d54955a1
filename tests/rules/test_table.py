"""The table itself: every rule that is written down has a row, every row a name of its own."""

from __future__ import annotations

from collections import Counter

import pytest

from .table import FORMS, rules

EVENT = (
    "anonymous_session",
    "authentication",
    "authentication akamaiBot",
    "authentication akamaiUserRisk",
    "client",
    "configuration",
    "connection",
    "custom_domain",
    "experiment",
    "organization",
    "request",
    "request.body",
    "request.geoip",
    "secrets",
    "security_context",
    "tenant",
    "transaction",
    "transaction correlation_id",
    "transaction optional",
    "transaction protocol",
    "transaction response",
    "unknown keys",
    "user",
)
"""Rows of AUTH0.md 1.1."""

API = (
    "access.deny",
    "validation.error",
    "both called",
    "user.setUserMetadata",
    "user.setAppMetadata",
    "user.setUserId",
    "cache.get",
    "cache.set",
    "cache.delete",
    "cache limits",
    "cache expiry",
    "cache check order",
    "cache error codes",
    "cache code CacheKeyDoesNotExist",
    "cache code CacheKeySizeExceeded",
    "cache code CacheSizeExceeded",
    "cache code CacheValueSizeExceeded",
    "cache code FailedToDeleteCacheRecord",
    "cache code FailedToSetCacheRecord",
    "cache code InvalidExpiry",
    "cache code ItemAlreadyExpired",
    "cache code MaxSideEffectsExceeded",
    "not in this trigger",
)
"""Rows of AUTH0.md 1.2."""

RUNNER = ("console", "module", "return", "signature", "top-level throw")
"""Facts of AUTH0.md 1.3 that are not of JavaScript alone."""

PLATFORM = (
    "counts",
    "metadata",
    "metadata limit",
    "official examples",
    "order",
    "passwordless",
    "secrets",
    "throw",
    "time",
)
"""Rows of AUTH0.md 1.4 that concern what an action may count on."""

DECISIONS = tuple(str(number) for number in range(1, 14))
"""Of DESIGN.md section 3, what Auth0's docs leave open."""

DESIGN = (
    "2 attempt",
    "2 invalid_attempt",
    "2 ours to set",
    "2 reply",
    *(f"3.{number}" for number in DECISIONS),
    "3 config",
    "3 event.attempt_id",
    "3 http",
    "3 loading",
    "3 manifest",
    "3 on_error",
    "3 read-only",
    "3 retries",
    "3 secrets",
    "3 threads",
    "3 when",
)
"""Decisions and other rules of DESIGN.md."""

WRITTEN_DOWN = [
    *(f"AUTH0.md 1.1 {row}" for row in EVENT),
    *(f"AUTH0.md 1.2 {row}" for row in API),
    *(f"AUTH0.md 1.3 {row}" for row in RUNNER),
    *(f"AUTH0.md 1.4 {row}" for row in PLATFORM),
    *(f"DESIGN.md {row}" for row in DESIGN),
    "actions/README.md Messages",
]


@pytest.mark.parametrize("source", WRITTEN_DOWN)
def test_every_rule_that_is_written_down_has_a_row(source: str) -> None:
    assert any(source in rule.source for rule in rules())


def test_no_row_names_a_source_that_is_not_in_the_list() -> None:
    assert set() == {source for rule in rules() for source in rule.source} - set(WRITTEN_DOWN)


def test_every_row_has_a_name_of_its_own() -> None:
    assert [] == [name for name, count in Counter(rule.name for rule in rules()).items() if count > 1]


@pytest.mark.parametrize("form", FORMS[1:])
def test_most_rows_hold_in_every_form_that_an_action_may_have(form: str) -> None:
    answered = [rule for rule in rules() if rule.problem is None]

    assert len(answered) / 2 < sum(rule.has(form) for rule in answered)
