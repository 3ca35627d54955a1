"""Chains made of functions that stand in the tests themselves."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gate import Api, Event
from gate.chain.action import Action
from gate.chain.python import CoroutineAction, FunctionAction, may_suspend
from gate.chain.resources import Resources
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

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.resources: Resources | None = None  # of the chain made last

    async def chain(self, *actions: Action | Entry, sync_threads: int = 4, **options: Any) -> Chain:
        chain = Chain([each if isinstance(each, Action) else action(each) for each in actions], **options)
        resources = await self.stack.enter_async_context(Resources(connections=10, sync_threads=sync_threads, set_user_id=True))
        await chain.start(resources)
        self.stack.push_async_callback(chain.aclose)
        self.resources = resources
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
    async with AsyncExitStack() as stack:
        yield Runner(stack)


@pytest.fixture
def make_action() -> Callable[..., Action]:
    return action
