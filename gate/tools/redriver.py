"""Carry out what is planned for dead letters, a handful at a time, and say what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.connection import wait_for_kafka
from gate.kafka.producer import BatchProducer
from gate.ledger.ports import Appended, LogForbidden, LogRejected, LogUnavailable
from gate.model.dead_letter import DeadLetter, Place
from gate.model.wire import Message
from gate.tools.decided import Decided
from gate.tools.dlq import Found
from gate.tools.redrive import Deed, Outcome, Planner, forbidden, left, rejected, unacknowledged

HANDFUL: Final = 500
"""How many dead letters are looked up in the ledger together."""
HANDFUL_BYTES: Final = 32 * 1024 * 1024
RETRIES_S: Final = (0.5, 1.0, 2.0)
"""Waits between tries: a topic made a moment ago may have no leader yet."""


class Producer(Protocol):
    """Writes batches to any topic (`gate.kafka.producer.BatchProducer`)."""

    async def send(self, topic: str, partition: int, batch: Sequence[Message]) -> Appended:
        """Write a batch; raise LogRejected, LogForbidden or LogUnavailable."""


class Redriver:
    """Redrives dead letters in the order given. Raises KafkaUnavailable; what was said until then is done."""

    def __init__(
        self,
        settings: Settings,
        bootstrap: str,
        *,
        decided: Decided,
        planner: Planner,
        producer: Producer | None,
        decide_again: bool,
    ) -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._decided = decided
        self._planner = planner
        self._producer = producer  # None: only say what would be done
        self._decide_again = decide_again
        self._taken: set[str] = set()  # attempts of which a letter was taken

    async def redrive(self, letters: AsyncIterator[Found]) -> AsyncIterator[Outcome]:
        """Yield what became of each dead letter as soon as it did."""
        handful: list[Found] = []
        size_bytes = 0
        async for found in letters:
            handful.append(found)
            size_bytes += found.size_bytes
            if len(handful) >= HANDFUL or size_bytes >= HANDFUL_BYTES:
                async for outcome in self._some(handful):
                    yield outcome
                handful, size_bytes = [], 0
        async for outcome in self._some(handful):
            yield outcome

    async def _some(self, handful: Sequence[Found]) -> AsyncIterator[Outcome]:
        known: dict[Place, Outcome] = {}
        taken: dict[Place, DeadLetter] = {}
        for found in handful:
            if (why := self._planner.refused(found)) is not None or found.letter is None:
                known[found.place] = left(found, why or "")
            elif found.letter.source in self._taken:
                known[found.place] = Outcome(found=found, deed=Deed.REPEATED)
            else:
                self._taken.add(found.letter.source)
                taken[found.place] = found.letter
        cases = dict(zip(taken, await self._decided.open(list(taken.values())), strict=True))
        if not self._decide_again:
            await self._decided.look_up(cases.values())
        for found in handful:
            outcome = known.get(found.place) or self._planner.plan(found, cases[found.place])
            yield outcome if self._producer is None or outcome.message is None else await self._carried_out(outcome)

    async def _carried_out(self, outcome: Outcome) -> Outcome:
        assert self._producer is not None
        assert outcome.topic is not None
        assert outcome.partition is not None
        assert outcome.message is not None
        error = ""
        for wait_s in (0.0, *RETRIES_S):
            await asyncio.sleep(wait_s)
            try:
                await self._producer.send(outcome.topic, outcome.partition, [outcome.message])
            except LogRejected:
                return rejected(outcome)
            except LogForbidden:
                return forbidden(outcome)
            except LogUnavailable as unavailable:
                error = str(unavailable)
            else:
                return outcome
        await wait_for_kafka(self._settings, self._bootstrap)
        return unacknowledged(outcome, error)


@asynccontextmanager
async def connected(producer: BatchProducer, bootstrap: str) -> AsyncIterator[None]:
    """Keep a producer connected; raise KafkaUnavailable where no broker answers."""
    try:
        await producer.start()
    except LogUnavailable as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not answer: {error}; run it again") from error
    try:
        yield
    finally:
        await producer.stop()
