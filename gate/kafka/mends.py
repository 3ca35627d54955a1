"""What is wrong in aiokafka and must be right before any of its clients is used; importing this mends it for the process.

uvloop raises RuntimeError where something is written to a connection that the other side has just reset. aiokafka expects
OSError there (its issue 1038, open): the routines that fetch, send and keep the group end, and the client is dead for good.
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send = AIOKafkaConnection.send


def send(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
    """Send a request; a connection that is gone is closed and raises what aiokafka goes on from."""
    try:
        return _send(connection, request, expect_response)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # NotImplementedError: a broker of another version
            raise
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"connection to {connection.host}:{connection.port} is broken: {error}") from error


AIOKafkaConnection.send = send
