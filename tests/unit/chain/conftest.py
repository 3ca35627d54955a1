"""Chains made of functions that stand in the tests themselves."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from gate import Api, Event
from gate.chain.action import Action
from gate.chain.python import CoroutineAction, FunctionAction, may_suspend
from gate.chain.runner import Chain
from gate.model.decision import Outcome

Entry = Callable[[Event, Api], Any]
EVENT: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {}, "user": {"email": "ana@example.org"}}


def action(entry: Entry, **options: Any) -> Action:
    """Return the action that a file with this entry point would be."""
    code = (
        CoroutineAction(entry, waits=may_suspend(entry.__code__)) if inspect.iscoroutinefunction(entry) else FunctionAction(entry)
    )
    return Action(name=options.pop("name", entry.__name__), code=code, **options)


class Runner:
    """Runs chains, and closes them in the end."""

    def __init__(self) -> None:
        self.chains: list[Chain] = []

    async def chain(self, *actions: Action | Entry, sync_threads: int = 4, **options: Any) -> Chain:
        chain = Chain([each if isinstance(each, Action) else action(each) for each in actions], **options)
        await chain.start(connections=10, sync_threads=sync_threads)
        self.chains.append(chain)
        return chain

    async def __call__(
        self, *actions: Action | Entry, event: dict[str, Any] | None = None, patience_s: float = 30.0, **options: Any
    ) -> Outcome:
        chain = await self.chain(*actions, **options)
        return await self.once(chain, event=event, patience_s=patience_s)

    async def once(self, chain: Chain, *, event: dict[str, Any] | None = None, patience_s: float = 30.0) -> Outcome:
        outcome = chain.run(Event.from_document({**EVENT, **(event or {})}), attempt_id="a-1", patience_s=patience_s)
        return await asyncio.wait_for(outcome, 10) if isinstance(outcome, Coroutine) else outcome


@pytest.fixture
async def run() -> AsyncIterator[Runner]:
    runner = Runner()
    yield runner

    for chain in runner.chains:
        await chain.aclose()


@pytest.fixture
def make_action() -> Callable[..., Action]:
    return action
