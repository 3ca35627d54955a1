"""Send batches of records to one partition at a time, with one future for a batch instead of one for each record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from gate import log as logs
from gate.kafka.closing import stop_producer
from gate.kafka.rights import forbidden
from gate.kafka.supervision import Supervised
from gate.ledger.ports import Appended, LogForbidden, LogRejected, LogUnavailable
from gate.model.wire import Message

BATCH_BYTES = 384 * 1024
"""What callers put into one batch at most, by their own measure; well below the broker's default limit of 1,048,588 bytes."""

_BUILDER_BYTES = 900 * 1024
_REQUEST_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 15.0  # the append timer of protocol/README.md; longer than one request, shorter than two
_WAIT_S = 1.0  # for a client that is being replaced
_CLOSE_S = 2.0  # whoever waits for an acknowledgement sends again
log = logs.get(__name__)


class BatchProducer:
    """A producer with acks=all and without idempotence (rule 14: aiokafka makes up offsets for duplicate batches).

    It replaces its client where that does not answer or fails in a way it never recovers from (KAFKA.md section 4).
    """

    def __init__(self, options: Mapping[str, Any], *, on_restart: Callable[[], None]) -> None:
        self._options = dict(options)
        self._clients: Supervised[AIOKafkaProducer] = Supervised(
            self._new_client, close=self._close, on_restart=on_restart, name="producer"
        )

    async def start(self) -> None:
        """Connect; raise LogUnavailable where no broker answers."""
        try:
            await self._clients.start()
        except (KafkaError, OSError) as error:
            raise LogUnavailable(str(error)) from error

    async def stop(self) -> None:
        """Close the connections; what is still unsent after a while is given up."""
        await self._clients.stop()

    async def send(self, topic: str, partition: int, batch: Sequence[Message]) -> Appended:
        """Write a batch of at most BATCH_BYTES as a whole, or a single record of any size.

        Raises LogRejected where the broker refuses its size, LogForbidden where it refuses us, and LogUnavailable where the
        outcome is unknown: the batch may stand in the log or come to stand there later.
        """
        client = self._clients.client or await self._clients.get(within_s=_WAIT_S)
        if client is None:
            raise LogUnavailable("not connected")
        builder = client.create_batch()
        for message in batch:
            if builder.append(timestamp=None, key=message.key, value=message.value, headers=message.headers) is None:
                raise LogRejected("the batch is too large")
        builder.close()
        future: asyncio.Future[Any] | None = None
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                future = await client.send_batch(builder, topic, partition=partition)
            await asyncio.wait({future}, timeout=_SEND_TIMEOUT_S)  # never cancels it: it may still land
            if not future.done():
                future.add_done_callback(_take_notice)
                raise TimeoutError
            metadata = future.result()
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            raise LogRejected(type(error).__name__) from error
        except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError) as error:
            raise LogForbidden(forbidden("topic", topic, "Write")) from error
        except UnknownTopicOrPartitionError as error:
            raise LogUnavailable(type(error).__name__) from error
        except AssertionError as error:  # a partition that was added after the client has looked
            client.client.force_metadata_update()
            raise LogUnavailable(f"{topic} has no partition {partition} yet") from error
        except (KafkaError, TimeoutError, OSError) as error:
            retriable = isinstance(error, KafkaError) and getattr(error, "retriable", False)
            if not retriable and self._clients.blame(client):
                log.warning("producer_restarted", why=type(error).__name__)
            raise LogUnavailable(type(error).__name__) from error
        finally:
            future = None  # what it raised has this frame in its traceback: a circle that would keep the batch
        return Appended(metadata.offset, metadata.timestamp)

    def _new_client(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=False,
            linger_ms=0,
            max_batch_size=_BUILDER_BYTES,
            request_timeout_ms=int(_REQUEST_TIMEOUT_S * 1000),
            retry_backoff_ms=100,
        )

    async def _close(self, client: AIOKafkaProducer) -> None:
        if not await stop_producer(client, within_s=_CLOSE_S):
            log.warning("producer_not_stopped_in_time")


def _take_notice(sent: asyncio.Future[Any]) -> None:
    """Hear how a batch ended that nobody waits for any more; asyncio would log an error without an owner."""
    if not sent.cancelled():
        sent.exception()
