"""Keep a partition's table in step with the ledger: append decisions, read gaps, read back on assignment."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

from gate import log as logs
from gate.ledger.ports import Log, LogRejected, LogUnavailable
from gate.worker.batches import SelfClocked, Spawn
from gate.worker.clock import BrokerClock
from gate.worker.partitions import CLOCK_ALLOWANCE_MS, Append, Partition, Work
from gate.worker.recorder import Recorder

_APPEND_TIMER_S: Final = 15.0  # protocol/README.md, good values
_RETRY_S: Final = 0.1
_RETRY_MAX_S: Final = 2.0
_RECORD_OVERHEAD: Final = 320  # about what key, headers and framing of a ledger record take

log = logs.get(__name__)


class LedgerScribe:
    """Does the ledger's I/O for all partitions; what to do next comes from the partitions and goes to `on_work`."""

    def __init__(
        self,
        ledger: Log,
        *,
        clock: BrokerClock,
        recorder: Recorder,
        spawn: Spawn,
        max_batch_bytes: int,
        on_work: Callable[[Partition, Work], None],
        on_rejected: Callable[[Partition, Append], bool],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._recorder = recorder
        self._spawn = spawn
        self._on_work = on_work
        self._on_rejected = on_rejected  # decide something smaller than this (rule 15); False where that cannot be
        self._reading: set[int] = set()
        self._preparing: dict[int, asyncio.Lock] = {}
        self._partitions: dict[int, Partition] = {}
        self._troubles: dict[int, str] = {}  # per partition, why its ledger does not take appends right now
        self._unread: dict[int, str] = {}  # per partition, why its ledger cannot be read right now
        self._batches: SelfClocked[int, Append] = SelfClocked(
            self._append_batch,
            size_bytes=lambda append: len(append.message.value or b"") + _RECORD_OVERHEAD,
            max_bytes=max_batch_bytes,
            spawn=spawn,
            name="ledger",
        )

    @property
    def trouble(self) -> str | None:
        """Why some decisions cannot be written, or not be read back, right now."""
        for does_not, troubles in (("take decisions", self._troubles), ("let itself be read", self._unread)):
            for number, why in troubles.items():
                return f"the ledger does not {does_not}: partition {number}: {why}"
        return None

    @property
    def owed(self) -> int:
        """How many decisions are on their way to the ledger."""
        return len(self._batches)

    # -- Appending (rules 4 to 7, 14, 15) ---------------------------------------------------------------------------------

    def append(self, partition: Partition, append: Append) -> None:
        """Send a decision to the ledger; its partition learns of the acknowledgement."""
        self._partitions[partition.number] = partition
        append.flight.appended_at = math.inf  # its timer starts with the acknowledgement: until then it is tried anyway
        self._batches.add(partition.number, append)

    def append_again(self, partition: Partition, *, older_than_s: float = 0.0) -> None:
        """Append again what is not known to be in the ledger; first-wins makes a second copy harmless."""
        before = time.monotonic() - older_than_s
        for flight in partition.unresolved():
            if flight.append is not None and flight.appended_at <= before:
                self.append(partition, flight.append)

    async def _append_batch(self, number: int, batch: list[Append]) -> None:
        partition = self._partitions[number]
        started = time.monotonic()
        try:
            appended = await self._ledger.append(number, [append.message for append in batch])
        except LogRejected:
            if len(batch) > 1:
                for append in batch:
                    await self._append_batch(number, [append])
            elif not self._on_rejected(partition, batch[0]):
                await self._retry(partition, batch, "its max.message.bytes is too small for any decision", _RETRY_MAX_S)
        except LogUnavailable as error:
            await self._retry(partition, batch, str(error), (time.monotonic() - started) / 2)
        else:
            for append in batch:
                append.flight.appended_at = time.monotonic()
            if self._troubles.pop(number, None) is not None:
                log.info("ledger_available", partition=number)
            self._recorder.appended(time.monotonic() - started)
            self._clock.acknowledged(appended.timestamp_ms)
            self._apply(partition, partition.acknowledged(appended.base_offset, batch))

    async def _retry(self, partition: Partition, batch: list[Append], why: str, pause_s: float) -> None:
        """Append again what was not taken, after a pause."""
        if partition.number not in self._troubles:
            log.warning("ledger_unavailable", partition=partition.number, error=why)
        self._troubles[partition.number] = why
        await asyncio.sleep(min(_RETRY_MAX_S, max(_RETRY_S, pause_s)))
        for append in batch:
            if append.is_needed:
                self.append(partition, append)

    def _apply(self, partition: Partition, work: Work) -> None:
        if work.rewound:
            self._recorder.rewound()
            log.error("ledger_rewound", partition=partition.number)
            self._spawn(self._rewind(partition), name=f"rewind {partition.number}")
        self._on_work(partition, work)
        self.follow(partition)

    # -- Reading (rules 8, 9, 20) -----------------------------------------------------------------------------------------

    def follow(self, partition: Partition) -> None:
        """Start the one reader of a partition where something is to be read and none reads yet."""
        if partition.wants_ledger and partition.number not in self._reading:
            if partition.table.acked:
                self._recorder.gap()
            self._reading.add(partition.number)
            self._spawn(self._read(partition), name=f"read-ledger {partition.number}")

    async def _read(self, partition: Partition) -> None:
        try:
            while partition.wants_ledger:
                offset = partition.table.next
                try:
                    part = await self._ledger.read(partition.number, offset)
                    if part.next_offset == offset and partition.aims_beyond(part.end):
                        # nothing there: is what was to be read still to come, or lost?
                        partition.lower_aim((await self._ledger.bounds(partition.number))[1])
                except LogUnavailable as error:
                    await self._not_read(partition, error)
                    continue
                self._unread.pop(partition.number, None)
                if partition.table.next < offset:
                    continue  # the table was begun anew meanwhile
                if part.start > offset:  # retention took what we wanted: the table begins where the log does (rule 9)
                    partition.rebuild(part.start, from_ms=0, at_start=True, keep_acked=True)
                elif part.end < offset:
                    self._apply(partition, partition.rewound())
                    return
                else:
                    work = partition.read(part)
                    self._apply(partition, work)
                    if work.rewound:
                        return
        finally:
            self._reading.discard(partition.number)
            self._unread.pop(partition.number, None)

    # -- Beginning an assignment (rules 11, 18 to 20) ---------------------------------------------------------------------

    async def prepare(self, partition: Partition, since: Callable[[], Awaitable[float]]) -> None:
        """Bring a partition that was just assigned to where asks may be taken.

        `since` gives the timestamp of the first attempt to be taken. Asked again for an earlier one, the table is extended.
        """
        epoch = partition.offsets.epoch

        def ours() -> bool:
            return partition.offsets.owned and partition.offsets.epoch == epoch

        async with self._preparing.setdefault(partition.number, asyncio.Lock()):
            while ours():
                try:
                    since_ms = int(await since())
                    if ours() and not partition.keeps_table(since_ms):
                        await self._rebuild(partition, since_ms, keep_acked=True)
                    seen = partition.table.next
                    end = (await self._ledger.bounds(partition.number))[1]
                except LogUnavailable as error:
                    await self._not_read(partition, error)
                    continue
                if not ours():
                    break
                if end < seen:
                    self._apply(partition, partition.rewound())
                else:
                    partition.aim(end)
                    self.follow(partition)
                break
            self._unread.pop(partition.number, None)

    async def _not_read(self, partition: Partition, error: LogUnavailable) -> None:
        """Wait before the next try to read the ledger."""
        if partition.number not in self._unread:
            log.warning("ledger_not_read", partition=partition.number, error=str(error))
        self._unread[partition.number] = str(error)
        await asyncio.sleep(_RETRY_S)

    async def _rewind(self, partition: Partition) -> None:
        """Rebuild the table and append every unresolved ask again (rule 7)."""
        async with self._preparing.setdefault(partition.number, asyncio.Lock()):
            while True:
                try:
                    oldest_ms = min(
                        (flight.timestamp_ms for flight in partition.flying.values()), default=int(self._clock.now_ms())
                    )
                    await self._rebuild(partition, oldest_ms - CLOCK_ALLOWANCE_MS, keep_acked=False)
                    end = (await self._ledger.bounds(partition.number))[1]
                except LogUnavailable as error:
                    await self._not_read(partition, error)
                    continue
                self._unread.pop(partition.number, None)
                break
            partition.aim(end)
            self.follow(partition)
            self.append_again(partition)

    async def _rebuild(self, partition: Partition, since_ms: int, *, keep_acked: bool) -> None:
        from_ms = partition.read_back_from(since_ms, int(self._clock.now_ms()))
        offset = await self._ledger.offset_at(partition.number, from_ms)
        start, _ = await self._ledger.bounds(partition.number)
        partition.rebuild(max(offset, start), from_ms=from_ms, at_start=offset <= start, keep_acked=keep_acked)

    def sweep(self, partition: Partition) -> None:
        """Append again what got no answer for longer than the append timer (rule 14)."""
        self.append_again(partition, older_than_s=_APPEND_TIMER_S)
