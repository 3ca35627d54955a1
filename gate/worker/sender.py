"""Send replies and dead letters until the broker has them, and say when an ask is through (rule 16)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gate import log as logs
from gate.kafka.partitioner import partition_of
from gate.ledger.ports import Appended, LogForbidden, LogRejected, LogUnavailable
from gate.model.wire import Message, encode_dead_letter, encode_reply
from gate.worker.batches import SelfClocked, Spawn
from gate.worker.clock import BrokerClock
from gate.worker.partitions import Flight
from gate.worker.recorder import Recorder
from gate.worker.replies import Address, AddressBook, Reason, Unlisted

_GIVE_UP_S: Final = 30.0  # of unknown outcomes while the broker takes other records
_RETRY_S: Final = 0.25
_RETRY_MAX_S: Final = 5.0
_FORBIDDEN_LOG_S: Final = 60.0
_DEAD_LETTER_BYTES: Final = 900_000  # below the broker's default limit of 1,048,588 bytes for a batch
_RECORD_OVERHEAD: Final = 512  # about what key, headers and framing of a reply take

log = logs.get(__name__)


class Producer(Protocol):
    """Writes batches to any topic (`gate.kafka.producer.BatchProducer`)."""

    async def send(self, topic: str, partition: int, batch: list[Message]) -> Appended:
        """Write a batch; raise LogRejected, LogForbidden or LogUnavailable."""


@dataclass(slots=True)
class _Outgoing:
    flight: Flight
    message: Message
    fault: Reason | None  # the attempt becomes a dead letter once the reply is out
    since: float  # monotonic seconds of the first try


class ReplySender:
    """Replies in self-clocked batches, dead letters one by one; both are tried until the broker answers."""

    def __init__(
        self,
        *,
        replies: Producer,
        dead_letters: Producer,
        addresses: AddressBook,
        unlisted: Unlisted,
        dlq_topic: str,
        partitions: Callable[[str], int | None],
        clock: BrokerClock,
        recorder: Recorder,
        spawn: Spawn,
        max_batch_bytes: int,
        on_out: Callable[[Flight], None],
        on_done: Callable[[Flight], None],
    ) -> None:
        self._producer = replies
        self._dead_letters = dead_letters
        self._addresses = addresses
        self._unlisted = unlisted
        self._dlq_topic = dlq_topic
        self._partitions = partitions
        self._clock = clock
        self._recorder = recorder
        self._spawn = spawn
        self._on_out = on_out  # the reply is out, or cannot go out: the asker waits no longer
        self._on_done = on_done  # nothing is left to do for the ask
        self._broker_answered_at = self._broker_back_at = time.monotonic()
        self._troubles: dict[tuple[str, int], str] = {}  # per partition of a reply topic, why it does not acknowledge right now
        self._forbidden_logged_at = float("-inf")
        self.burying = 0  # dead letters that are not written yet; each keeps its record in memory
        self._batches: SelfClocked[tuple[str, int], _Outgoing] = SelfClocked(
            self._send_batch,
            size_bytes=lambda out: len(out.message.value or b"") + _RECORD_OVERHEAD,
            max_bytes=max_batch_bytes,
            spawn=spawn,
            name="replies",
        )

    @property
    def trouble(self) -> str | None:
        """Why some replies are not acknowledged right now."""
        return next((f"{topic}-{number}: {why}" for (topic, number), why in self._troubles.items()), None)

    def send(self, flight: Flight, document: dict[str, Any]) -> None:
        """Send the answer to an ask; afterwards, where it could not be served as asked, its dead letter."""
        address = self._addresses.find(flight.ask)
        if address.fault is Reason.REPLY_TOPIC_UNKNOWN and self._unlisted.admits(self._addresses.topic_of(flight.ask)):
            self._spawn(self._send_when_listed(flight, document, self._unlisted.enter()), name=f"find-topic {flight.source}")
        else:
            self._send_to(address, flight, document)

    async def _send_when_listed(self, flight: Flight, document: dict[str, Any], due: int) -> None:
        """Send the answer to a topic that may have been made since the topics were listed."""
        await self._unlisted.leave(due)
        address = self._addresses.find(flight.ask)
        if address.fault is Reason.REPLY_TOPIC_UNKNOWN:
            self._unlisted.refuse(self._addresses.topic_of(flight.ask))
        self._send_to(address, flight, document)

    def _send_to(self, address: Address, flight: Flight, document: dict[str, Any]) -> None:
        fault = Reason.INVALID_ATTEMPT if document.get("denial", {}).get("cause") == "invalid_attempt" else address.fault
        if address.topic is None:
            self._recorder.reply("undeliverable")
            self._out(flight, fault)
            return
        mine = flight.append is not None and document is flight.document
        body = flight.append.body if mine and flight.append is not None else None
        message = encode_reply(flight.ask, document, flight.user, body)
        self._batches.add((address.topic, address.partition), _Outgoing(flight, message, fault, time.monotonic()))

    async def _send_batch(self, key: tuple[str, int], batch: list[_Outgoing]) -> None:
        topic, partition = key
        try:
            await self._producer.send(topic, partition, [out.message for out in batch])
        except LogRejected:
            if len(batch) > 1:
                for out in batch:
                    await self._send_batch(key, [out])
                return
            self._troubles.pop(key, None)
            self._recorder.reply("rejected")
            self._out(batch[0].flight, Reason.REPLY_REJECTED)
        except LogForbidden as error:
            self._troubles.pop(key, None)
            if time.monotonic() - self._forbidden_logged_at > _FORBIDDEN_LOG_S:
                self._forbidden_logged_at = time.monotonic()
                log.error("reply_forbidden", topic=topic, error=str(error))
            for out in batch:
                self._recorder.reply("forbidden")
                self._out(out.flight, Reason.REPLY_FORBIDDEN)
        except LogUnavailable as error:
            if key not in self._troubles:
                log.warning("replies_not_acknowledged", topic=topic, partition=partition, replies=len(batch), error=str(error))
            self._troubles[key] = str(error)
            await asyncio.sleep(_RETRY_S)
            if not self._again(key, batch):
                del self._troubles[key]
        else:
            self._troubles.pop(key, None)
            now = time.monotonic()
            if now - self._broker_answered_at > _GIVE_UP_S:
                self._broker_back_at = now  # what was tried in vain before counts for nothing
            self._broker_answered_at = now
            for out in batch:
                self._recorder.reply("sent")
                self._out(out.flight, out.fault)

    def _again(self, key: tuple[str, int], batch: list[_Outgoing]) -> bool:
        """Send again, unless the broker takes other records and refuses just these for too long; return whether any is.

        An outage of everything does not count, however long it is.
        """
        again, now = False, time.monotonic()
        for out in batch:
            began = max(out.since, self._broker_back_at)
            if self._broker_answered_at > began and now - began > _GIVE_UP_S:
                self._recorder.reply("unknown")
                self._out(out.flight, Reason.REPLY_UNKNOWN)
            else:
                self._batches.add(key, out)
                again = True
        return again

    @property
    def looking(self) -> int:
        """How many replies wait for the next list of topics."""
        return self._unlisted.waiting

    def _out(self, flight: Flight, fault: Reason | None) -> None:
        self._on_out(flight)
        if fault is None:
            self._on_done(flight)
        else:
            self.burying += 1
            self._spawn(self._bury(flight, fault), name=f"dead-letter {flight.source}")

    async def _bury(self, flight: Flight, reason: Reason) -> None:
        """Write the dead letter, however long it takes: the offset stays incomplete until it is written."""
        record = flight.ask.record
        max_bytes, delay_s = _DEAD_LETTER_BYTES, _RETRY_S
        while True:
            letter = encode_dead_letter(record, reason=reason, at=self._clock.text(self._clock.now_ms()), max_bytes=max_bytes)
            try:
                count = self._partitions(self._dlq_topic)
                if not count:
                    raise LogUnavailable(f"the topic {self._dlq_topic} does not exist")
                await self._dead_letters.send(
                    self._dlq_topic, partition_of(letter.key or flight.attempt_id.encode(), count), [letter]
                )
                break
            except LogRejected as error:
                if max_bytes == 0:  # headers alone are too large: nothing more can be kept of it
                    log.error("dead_letter_lost", source=flight.source, reason=reason.value, error=str(error))
                    break
                max_bytes = 0
            except LogUnavailable as error:
                log.warning("dead_letter_not_written", source=flight.source, reason=reason.value, error=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(_RETRY_MAX_S, delay_s * 2)
        self.burying -= 1
        self._recorder.dead_letter(reason)
        log.warning("dead_letter", attempt_id=flight.attempt_id, source=flight.source, reason=reason.value)
        self._on_done(flight)
