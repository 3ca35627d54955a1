"""Stop aiokafka clients for good, also while no broker answers.

`AIOKafkaConsumer.stop()` ends in a CancelledError of its own where a fetch has just failed, and then leaves its connections
open; `AIOKafkaProducer.stop()` waits for batches that no broker takes. Neither may reach the task that stops them: it
would count as cancelled and end without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

CLOSE_S: Final = 5.0
_FORCE_S: Final = 1.0


async def stop_consumer(client: AIOKafkaConsumer, *, within_s: float = CLOSE_S) -> bool:
    """Leave the group and close the connections; return whether that went as it should. Never raises."""

    async def give_up() -> None:
        fetcher = client._fetcher  # noqa: SLF001 - what its own `stop` forgets
        for task in tuple(fetcher._pending_tasks) if fetcher else ():  # noqa: SLF001
            task.cancel()
        await client._client.close()  # noqa: SLF001

    return await _stop(client.stop(), give_up, within_s)


async def stop_producer(client: AIOKafkaProducer, *, within_s: float = CLOSE_S) -> bool:
    """Send what is on its way and close the connections; return whether that went as it should. Never raises."""

    async def give_up() -> None:
        if client._sender is not None:  # noqa: SLF001 - the task that would try for ever
            with contextlib.suppress(asyncio.CancelledError):
                await client._sender.close()  # noqa: SLF001
        await client.client.close()

    return await _stop(client.stop(), give_up, within_s)


async def _stop(stop: Coroutine[Any, Any, None], give_up: Callable[[], Awaitable[None]], within_s: float) -> bool:
    if await _ended(asyncio.create_task(stop, name="stop client"), within_s):
        return True
    await _ended(asyncio.ensure_future(give_up()), _FORCE_S)
    return False


async def _ended(task: asyncio.Future[None], within_s: float) -> bool:
    """Wait for a task; return whether it came to its end. What it raised is of no use to anybody."""
    done, _ = await asyncio.wait({task}, timeout=within_s)
    if not done:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=_FORCE_S)
        if done and not task.cancelled():
            task.exception()
        return False
    return not task.cancelled() and task.exception() is None
