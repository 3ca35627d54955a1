"""Commit what is complete, one snapshot at a time (rule 17 of protocol/README.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from gate import log as logs
from gate.kafka.consumer import AttemptsConsumer, ConsumerTrouble
from gate.worker.partitions import Partition
from gate.worker.recorder import Recorder

_TIMEOUT_S: Final = 3.0

log = logs.get(__name__)


class Committer:
    """Commits for the consumer that there is at the moment; a failure is counted, and tried again with the next snapshot."""

    def __init__(
        self, partitions: Mapping[int, Partition], *, recorder: Recorder, consumer: Callable[[], AttemptsConsumer | None]
    ) -> None:
        self._partitions = partitions
        self._recorder = recorder
        self._consumer = consumer
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Committer of {len(self._partitions)} partitions, {'busy' if self._running else 'idle'}>"

    def abandon(self) -> None:
        """Give up the commit that runs: its consumer is gone."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def commit(self) -> None:
        """Commit what is complete now, unless the commit before does not end: aiokafka retries for ever (KAFKA.md section 4, 11).

        A commit is waited for, never cancelled: that cancels futures which the whole client shares.
        """
        async with self._turn:
            if self._running is None or await self._ended(self._running):
                self._running = asyncio.create_task(self._commit(), name="commit offsets")
                await self._ended(self._running)

    async def _ended(self, commit: asyncio.Task[None]) -> bool:
        ended, _ = await asyncio.wait({commit}, timeout=_TIMEOUT_S)
        if not ended:
            self._recorder.commit_failed()
            log.warning("commit_failed", error=f"no answer within {_TIMEOUT_S:g} s")
            return False
        self._running = None
        if not commit.cancelled():
            commit.result()
        return True

    async def _commit(self) -> None:
        """Commit one snapshot."""
        consumer = self._consumer()
        snapshot = {
            number: commit
            for number, partition in self._partitions.items()
            if (commit := partition.offsets.committable()) is not None
        }
        if consumer is not None:
            self._measure(consumer)
        if consumer is None or not snapshot:
            return
        started = time.monotonic()
        try:
            done = await consumer.commit({number: commit.offset for number, commit in snapshot.items()})
        except ConsumerTrouble as error:
            self._recorder.commit_failed()
            log.warning("commit_failed", error=str(error))
            return
        for number in done:
            self._partitions[number].offsets.commit_succeeded(snapshot[number])
        self._recorder.committed(time.monotonic() - started)

    def _measure(self, consumer: AttemptsConsumer) -> None:
        for number, partition in self._partitions.items():
            if partition.offsets.owned:
                end = consumer.known_end(number)
                lag = None if end is None else max(0, end - partition.offsets.committed)
                self._recorder.lag(number, lag, partition.offsets.span)
            else:
                self._recorder.lag(number, 0, 0)
