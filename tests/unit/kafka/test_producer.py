"""What a batch producer leaves behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from gate.kafka.producer import BatchProducer
from gate.ledger.ports import LogRejected
from gate.model.wire import Message


class Builder:
    def append(self, **_: Any) -> object:
        return object()

    def close(self) -> None:
        pass


class RefusingClient:
    def __init__(self) -> None:
        self.builders: list[weakref.ref[Builder]] = []

    def create_batch(self) -> Builder:
        builder = Builder()
        self.builders.append(weakref.ref(builder))
        return builder

    async def send_batch(self, *_: Any, **__: Any) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(MessageSizeTooLargeError())
        return future


async def test_a_refused_batch_is_let_go_of_without_the_collector() -> None:
    """It may hold megabytes, and the collector of a worker is slow to come."""
    producer = BatchProducer({}, on_restart=lambda: None)
    client = RefusingClient()
    producer._clients._use(client)  # type: ignore[arg-type]
    gc.disable()
    try:
        with pytest.raises(LogRejected):
            await producer.send("t", 0, [Message(b"k", b"v", [])])
        await asyncio.sleep(0)

        assert [None] == [builder() for builder in client.builders]
    finally:
        gc.enable()
