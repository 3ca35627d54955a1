"""Send attempts, one by one, as they are asked.

Acknowledged by all replicas, without idempotence: a doubled attempt has one decision by its id, and an idempotent
producer needs rebuilding after every lost batch (KAFKA.md section 4, 17).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
)

from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.closing import stop_producer
from gate.kafka.partitioner import partition_of
from gate.model.wire import Message

_log = logging.getLogger(__name__)  # the client lives in other people's processes: they say where log lines go

BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits between attempts to build a producer anew; the last one repeats."""

CLOSE_S: Final = 2.0
"""How long closing may wait for attempts that are on their way."""

REFUSALS: Final = (InvalidTopicError, MessageSizeTooLargeError, TopicAuthorizationFailedError, UnsupportedVersionError)


class NotTaken(Exception):
    """The brokers have not acknowledged an attempt.

    `refused` tells a refusal, which sending again will not change, from an outage, where the attempt may have been
    appended all the same.
    """

    def __init__(self, error: BaseException) -> None:
        self.refused = isinstance(error, REFUSALS)
        super().__init__(f"{type(error).__name__}: {error}".rstrip(": "))


class AttemptSender:
    """Appends attempts to their topic, on the partition of their key.

    A producer that failed is replaced: some of its states never heal (KAFKA.md section 4).
    """

    def __init__(self, options: Mapping[str, Any], topic: str) -> None:
        self._options = options  # of gate.kafka.connection.client_options
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None  # None: not started, stopped, or being replaced
        self._changed = asyncio.Event()  # there is a producer, or there will be none any more
        self._broken: asyncio.Queue[AIOKafkaProducer] = asyncio.Queue()  # producers to be replaced
        self._on_their_way: set[asyncio.Future[Any]] = set()
        self._mender: asyncio.Task[None] | None = None
        self.restarts = 0

    def __repr__(self) -> str:
        return f"<AttemptSender {self._topic}: {'ready' if self.ready else 'not ready'}, {len(self._on_their_way)} on their way>"

    @property
    def ready(self) -> bool:
        """Whether attempts can be sent; false while a producer is replaced."""
        return self._producer is not None

    async def start(self) -> None:
        """Connect and learn the topic's partitions, so that the first attempt waits for nothing.

        Raises ConfigError where the topic does not exist, KafkaUnavailable where the brokers do not do their part.
        """
        producer = self._new_producer()
        try:
            await producer.start()
            await self._learn(producer)
        except KafkaError as error:
            await _close(producer)
            address = self._options["bootstrap_servers"]
            raise KafkaUnavailable(f"{address} does not let us send to {self._topic}: {NotTaken(error)}") from error
        except BaseException:
            await _close(producer)
            raise
        self._use(producer)
        self._mender = asyncio.create_task(self._mend(), name=f"attempt sender {self._topic}")

    async def stop(self) -> None:
        """Send what is on its way, for a moment, and disconnect. Idempotent."""
        producer, self._producer = self._producer, None
        mender, self._mender = self._mender, None
        if mender is not None:
            mender.cancel()
            await asyncio.gather(mender, return_exceptions=True)
        self._changed.set()
        while not self._broken.empty():
            await _close(self._broken.get_nowait())
        if producer is not None:
            await _close(producer)

    async def send(self, message: Message) -> asyncio.Future[Any]:
        """Hand an attempt over and return the future of its acknowledgement.

        Waits while there is no connection; raises NotTaken where the attempt cannot be handed over. A future that fails or
        is cancelled was not acknowledged; `NotTaken(future.exception())` says whether it was refused.
        """
        await self._changed.wait()
        producer = self._producer
        if producer is None:
            raise NotTaken(ConnectionError("stopped"))
        try:
            partition = partition_of(message.key or b"", len(await producer.partitions_for(self._topic)))
            sent: asyncio.Future[Any] = await producer.send(
                self._topic, message.value, key=message.key, partition=partition, headers=message.headers
            )
        except KafkaError as error:
            self._blame(producer, error)
            raise NotTaken(error) from error
        self._on_their_way.add(sent)
        sent.add_done_callback(partial(self._settle, producer))
        return sent

    async def _learn(self, producer: AIOKafkaProducer) -> None:
        cluster = await producer.client.fetch_all_metadata()  # of all topics: naming a missing one could create it
        if self._topic not in cluster.topics():
            raise ConfigError([f"attempts topic {self._topic} does not exist: make it with `gate topics create`"])
        await producer.partitions_for(self._topic)

    def _use(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._changed.set()

    def _settle(self, producer: AIOKafkaProducer, sent: asyncio.Future[Any]) -> None:
        self._on_their_way.discard(sent)
        if not sent.cancelled() and (error := sent.exception()) is not None:
            self._blame(producer, error)

    def _blame(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        if producer is self._producer and not isinstance(error, REFUSALS):
            self._producer = None  # at once: whoever sends again must wait, not fail on the same producer in a loop
            self._changed.clear()
            self._broken.put_nowait(producer)
            _log.warning("attempts to %s are not acknowledged, connecting anew: %s", self._topic, NotTaken(error))

    async def _mend(self) -> None:
        while True:
            await _close(await self._broken.get())
            for sent in tuple(self._on_their_way):
                sent.cancel()  # nobody would settle them any more
            self._use(await self._connect())
            self.restarts += 1

    async def _connect(self) -> AIOKafkaProducer:
        attempt = 0
        while True:
            producer = self._new_producer()
            try:
                await producer.start()
            except Exception:  # noqa: BLE001 - whatever it is, attempts wait, and nobody else would try again
                await _close(producer)
            except BaseException:
                await _close(producer)
                raise
            else:
                return producer
            await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            attempt += 1

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=False,
            linger_ms=0,
            max_batch_size=128 * 1024,  # a full batch blocks every sender (KAFKA.md section 4, 19)
            request_timeout_ms=10_000,
        )


async def _close(producer: AIOKafkaProducer) -> None:
    await stop_producer(producer, within_s=CLOSE_S)
