"""Each rule of the table through `gate test` and its case files; rules of loading through `gate check`, too."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gate.cli.main import main

from .server import Server
from .table import Rule, rules

ANSWERED = [rule for rule in rules() if rule.expect is not None]
INVALID = [rule for rule in rules() if rule.invalid is not None]
UNLOADABLE = [rule for rule in rules() if rule.problem is not None]

OUR_FAULT, PROBLEMS = 2, re.compile(r"^(?:gate: |  )(?!\d+ problems$)")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        """What it said is wrong."""
        return [PROBLEMS.sub("", line) for line in self.err.splitlines() if PROBLEMS.match(line)]


Gate = Callable[..., Ended]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Gate]:
    """Run the command in this process, as a process of its own for each of hundreds would take minutes."""
    thresholds = gc.get_threshold()
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environ: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["gate", *arguments])
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(ended.value.code or 0, out, err)

    yield run

    gc.unfreeze()  # a command tunes the collector for the process that it usually has for itself
    gc.set_threshold(*thresholds)


def _case(rule: Rule) -> dict[str, Any]:
    shown = {"event": rule.event, "expect": rule.expect}
    before = [{"name": f"before {number}", "event": rule.event} for number in range(rule.attempts)]
    patience = {} if rule.timeout_ms is None else {"timeout_ms": rule.timeout_ms}
    return {**patience, "cases": [*before, {"name": "rule", **shown}]} if before else {**patience, **shown}


@pytest.mark.parametrize("rule", ANSWERED, ids=str)
def test_rule(rule: Rule, gate: Gate, tmp_path: Path, server: Server) -> None:
    (tmp_path / "chain").mkdir()
    rule.write(tmp_path / "chain")
    (tmp_path / "case.json").write_text(json.dumps(_case(rule)))
    settings = [part for name, value in rule.settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]

    ended = gate("test", "--chain", "chain", "--event", "case.json", "--json", *settings, **rule.environ(server.url))

    assert "" == ended.err
    assert [] == rule.leaks(ended.out, server.url)
    report = json.loads(ended.out)
    assert [] == [difference for case in report["cases"] for difference in case["differences"]]
    assert (0, rule.attempts + 1, 0) == (ended.code, report["passed"], report["failed"])


@pytest.mark.parametrize("rule", INVALID, ids=str)
def test_rule_of_events_that_are_none(rule: Rule, gate: Gate, tmp_path: Path) -> None:
    rule.write(tmp_path)
    (tmp_path / "event.json").write_text(json.dumps({"event": rule.event}))

    ended = gate("test", "--chain", str(tmp_path), "--event", "event.json")

    assert (OUR_FAULT, "", [f"event.json: {rule.invalid}"]) == (ended.code, ended.out, ended.problems)


@pytest.mark.parametrize("rule", UNLOADABLE, ids=str)
def test_rule_of_loading(rule: Rule, gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps(rule.event))
    rule.write(tmp_path)

    ended = gate("test", "--chain", ".", "--event", "event.json")

    assert (OUR_FAULT, "") == (ended.code, ended.out)
    assert rule.problem in ended.problems


@pytest.mark.parametrize("rule", UNLOADABLE, ids=str)
def test_rule_of_loading_as_check_finds_it(rule: Rule, gate: Gate, tmp_path: Path) -> None:
    rule.write(tmp_path)

    ended = gate("check", "--chain", ".", "--no-kafka", "--json")

    report = json.loads(ended.out)
    assert (1, False, "") == (ended.code, report["ok"], ended.err)
    assert rule.problem in [finding["problem"] for finding in report["findings"]]
