"""An action that blocks the event loop is named with its line, in the log, to the worker and in its own trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from gate.chain.loader import load_chain
from gate.chain.resources import Resources
from gate.chain.runner import Chain
from gate.model.decision import Outcome
from gate.model.event import Event

EVENT = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}

NEVER_WAITS = """
import time

async def on_execute_pre_user_registration(event, api):
    helper()

def helper():
    time.sleep(0.6)
"""
WAITS = """
import asyncio, time

async def on_execute_pre_user_registration(event, api):
    await asyncio.sleep(0)
    time.sleep(0.6)
    await asyncio.sleep(0)
"""
BEHAVES = """
import asyncio

async def on_execute_pre_user_registration(event, api):
    await asyncio.sleep(0.6)
"""
IN_A_THREAD = """
import time

def on_execute_pre_user_registration(event, api):
    time.sleep(0.6)
"""


class Watched:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard: list[tuple[str, float]] = []
        self.resources = Resources(on_blocked=lambda action, seconds: self.heard.append((action, seconds)))

    async def run(self, source: str) -> Outcome:
        path = self.folder / "one.py"
        path.write_text(source)
        chain: Chain = load_chain(path, environ={})
        await chain.start(self.resources)
        outcome = chain.run(Event.from_document(EVENT), attempt_id="a")
        outcome = await outcome if asyncio.iscoroutine(outcome) else outcome
        await asyncio.sleep(0.2)  # the loop turns again and tells

        await chain.aclose()
        return outcome  # type: ignore[return-value]  # awaited above


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    async with made.resources:
        yield made


@pytest.fixture
def lines() -> Any:
    with structlog.testing.capture_logs() as captured:
        yield captured


def of(lines: list[EventDict], event: str) -> list[EventDict]:
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(("source", "where"), [(NEVER_WAITS, "one.py:8 in helper"), (WAITS, "one.py:6 in on_execute")])
async def test_the_action_and_its_line_are_named(watched: Watched, lines: list[EventDict], source: str, where: str) -> None:
    outcome = await watched.run(source)

    ((action, seconds),) = watched.heard
    (begun,), (ended,) = of(lines, "event_loop_blocked"), of(lines, "event_loop_free_again")
    assert "one" == action == begun["action"] == ended["action"]
    assert where in begun["where"]
    assert 0.25 < seconds
    assert [True] == [line.startswith("WARNING: blocked the event loop at ") and where in line for line in outcome.trace[0].logs]


@pytest.mark.parametrize("source", [BEHAVES, IN_A_THREAD])
async def test_an_action_that_waits_properly_is_not_accused(watched: Watched, lines: list[EventDict], source: str) -> None:
    outcome = await watched.run(source)

    assert [] == watched.heard == of(lines, "event_loop_blocked") == list(outcome.trace[0].logs)


async def test_what_is_no_action_is_called_so(watched: Watched, lines: list[EventDict]) -> None:
    time.sleep(0.6)  # noqa: ASYNC251 - the block under test
    await asyncio.sleep(0.2)

    assert [""] == [action for action, _ in watched.heard]
    assert [True] == ["test_watchdog.py" in line["where"] for line in of(lines, "event_loop_blocked")]


async def test_it_is_silent_once_stopped(watched: Watched, eventually: Callable[..., Any]) -> None:
    watched.resources.watchdog.stop()
    time.sleep(0.6)  # noqa: ASYNC251 - the block under test
    await asyncio.sleep(0.2)

    assert [] == watched.heard


async def test_an_action_is_not_blamed_for_the_line_of_the_one_before_it(watched: Watched) -> None:
    watched.folder.joinpath("chain.toml").write_text('[[action]]\nfile = "first.py"\n[[action]]\nfile = "second.py"\n')
    watched.folder.joinpath("first.py").write_text(NEVER_WAITS)
    watched.folder.joinpath("second.py").write_text(NEVER_WAITS)
    chain = load_chain(watched.folder, environ={})
    await chain.start(watched.resources)
    outcome = chain.run(Event.from_document(EVENT), attempt_id="a")

    assert isinstance(outcome, Outcome)
    assert [[True], []] == [["first.py" in line for line in each.logs] for each in outcome.trace]
