"""Each rule of the table through the engine itself, for actions run by hand, in a task and in a thread."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gate.chain.loader import load_chain
from gate.chain.trial import run_trial, started
from gate.errors import ChainError
from gate.testing.expectation import Expectation

from .server import Server
from .table import FORMS, Rule, rules

ANSWERED = [rule for rule in rules() if rule.problem is None]
UNLOADABLE = [rule for rule in rules() if rule.problem is not None]


@pytest.mark.parametrize("rule", ANSWERED, ids=str)
async def test_rule(rule: Rule, tmp_path: Path, server: Server) -> None:
    await _check(rule, tmp_path, server)


@pytest.mark.parametrize(("rule", "form"), [(rule, form) for form in FORMS[1:] for rule in ANSWERED if rule.has(form)], ids=str)
async def test_rule_in_another_form(rule: Rule, form: str, tmp_path: Path, server: Server) -> None:
    await _check(rule, tmp_path, server, form=form)


@pytest.mark.parametrize("rule", UNLOADABLE, ids=str)
def test_rule_of_loading(rule: Rule, tmp_path: Path) -> None:
    rule.write(tmp_path)

    with pytest.raises(ChainError) as caught:
        load_chain(tmp_path, environ=rule.environ())

    problems = [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert rule.problem in problems
    assert all(re.match(r"[\w.-]+:\d+: ", problem) for problem in problems), problems


async def _check(rule: Rule, folder: Path, server: Server, *, form: str = "as written") -> None:
    rule.write(folder, form=form)

    async with started(load_chain(folder, environ=rule.environ(server.url)), **rule.settings) as chain:
        for number in range(rule.attempts + 1):
            reply = await run_trial(
                chain,
                rule.event,
                attempt_id=f"a-{number}",
                timeout_ms=30_000 if rule.timeout_ms is None else rule.timeout_ms,
                deny_invalid=True,
            )

    assert [] == rule.leaks(json.dumps(reply, ensure_ascii=False), server.url)

    if rule.invalid is not None:
        assert ("invalid_attempt", [rule.invalid]) == (
            reply["denial"]["cause"],
            [entry["message"] for entry in reply["warnings"]],
        )
    else:
        assert [] == [str(difference) for difference in Expectation.parse(rule.expect, actions=rule.names).differences(reply)]
