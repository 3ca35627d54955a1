"""What aiokafka gets wrong is right once the gate has clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

import gate.kafka.connection  # noqa: F401 - mends it


class ClosedWriter:
    """What uvloop's transport does once the other side has reset the connection."""

    def write(self, _: Any) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    def close(self) -> None:
        pass


async def test_writing_to_a_connection_that_was_reset_is_an_error_that_aiokafka_goes_on_from() -> None:
    connection = AIOKafkaConnection("127.0.0.1", 1)
    connection._versions = {3: (0, 5)}  # what a broker says that it can
    connection._read_task = asyncio.create_task(asyncio.sleep(0))
    connection._reader, connection._writer = asyncio.StreamReader(), ClosedWriter()

    with pytest.raises(KafkaConnectionError, match=r"127\.0\.0\.1:1 is broken"):
        connection.send(MetadataRequest([]))

    assert not connection.connected()
