"""Take attempts from the group's partitions while there is room, and commit what is complete."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from gate import log as logs
from gate.config import Settings
from gate.errors import ConfigError
from gate.kafka.consumer import AttemptsConsumer, ConsumerForbidden, ConsumerTrouble, UnreadableRecord
from gate.model.wire import Record
from gate.worker.batches import Spawn
from gate.worker.clock import BrokerClock
from gate.worker.commits import Committer
from gate.worker.partitions import CLOCK_ALLOWANCE_MS, Partition, Step, Work
from gate.worker.progress import Standstill
from gate.worker.recorder import Recorder
from gate.worker.scribe import LedgerScribe

_CHUNK: Final = 32  # records taken before the event loop gets a turn: about 5 ms of work
_POLL_MS: Final = 200
_POLL_NOT_READY_MS: Final = 10
_KEEP_ALIVE_S: Final = 30.0  # aiokafka leaves the group after 300 s without a poll
_DRAIN_S: Final = 0.5  # the group stands still while we drain (rule 21)
_FIRST_RECORD_S: Final = 2.0  # how long the first attempt of a partition may take to arrive before it is left to rule 11
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 5.0
_ERRORS_BEFORE_RESTART: Final = 3
_LAST_POLL_S: Final = 3.0
_LOST_S: Final = 10.0  # after so much silence more the consumer is made anew: some of its states never heal
_PULSE_S: Final = 1.0
_HOPELESS_RESTARTS: Final = 3  # new consumers in a row that bring nothing either: only a new process may
_SILENT_S: Final = 3.0  # no answer for so long is an outage

log = logs.get(__name__)


class Intake:
    """Owns the consumer: the only one who polls, seeks and commits."""

    def __init__(
        self,
        settings: Settings,
        options: Mapping[str, Any],
        *,
        scribe: LedgerScribe,
        clock: BrokerClock,
        recorder: Recorder,
        spawn: Spawn,
        ledger_partitions: Callable[[int], int],
        room: Callable[[], int],
        on_record: Callable[[Partition, Record], Step],
        on_work: Callable[[Partition, Work], None],
        caller: AbstractContextManager[object],
    ) -> None:
        self._settings = settings
        self._options = options
        self._scribe = scribe
        self._clock = clock
        self._recorder = recorder
        self._spawn = spawn
        self._ledger_partitions = ledger_partitions  # how many there are, looked up anew where there should be more
        self._room = room
        self._on_record = on_record
        self._on_work = on_work
        self._caller = caller  # around what runs actions by hand (`gate.chain.caller`)
        self._consumer: AttemptsConsumer | None = None
        self._stopping = False
        self._polling = asyncio.Lock()
        self._room_made = asyncio.Event()
        self._first: dict[int, asyncio.Future[None]] = {}  # partitions whose first record is looked for
        self._assigned = False
        self._unserved: set[int] = set()  # assigned, but without a ledger partition of their number
        self._trouble: str | None = None
        self._refused = False  # the trouble is a right that we lack
        self._broken = False  # the consumer has to be made anew
        self._silent = False
        self._replacing = False
        self._standstill = Standstill(rebalance_s=settings.session_timeout_ms / 1000)
        self._delivered = 0  # polls that brought something
        self._poll_limit: asyncio.Timeout | None = None  # of the poll that runs
        self._rebalance_began: float | None = None
        self.partitions: dict[int, Partition] = {}
        self._committer = Committer(self.partitions, recorder=recorder, consumer=lambda: self._consumer)

    def __repr__(self) -> str:
        return f"<Intake {[partition.number for partition in self.partitions.values() if partition.ready]}>"

    def reasons(self) -> Iterator[str]:
        """Why not every attempt of ours is being taken right now."""
        if self._stopping:
            yield "stopping"
        if self._trouble is not None:
            yield f"attempts cannot be received: {self._trouble}"
        if self._silent and not self._refused:  # aiokafka asks on where it is refused: that is no silence
            yield f"Kafka has not answered for more than {_SILENT_S:g} s"
        if self._standstill.why is not None:
            yield self._standstill.why
        if self._replacing:
            yield "the consumer is being replaced"
        elif not self._assigned:
            yield "no partitions assigned yet" if self._rebalance_began is None else "the group is being rebalanced"
        for number in sorted(self._unserved):
            yield f"attempts partition {number} has no partition {number} in {self._settings.decisions_topic}"
        reading = [partition.number for partition in self.partitions.values() if partition.offsets.owned and not partition.ready]
        if reading:
            yield f"reading the ledger back for partitions {', '.join(map(str, sorted(reading)))}"
        for partition in self.partitions.values():
            if partition.offsets.owned and partition.offsets.span >= self._settings.max_span:
                yield (
                    f"partition {partition.number}: the attempt at offset {partition.offsets.base} is not done, and "
                    f"GATE_MAX_SPAN={self._settings.max_span} were taken after it"
                )
        if self._full():
            yield f"the ledger table holds GATE_LEDGER_ENTRIES_MAX={self._settings.ledger_entries_max} entries"

    @property
    def partitions_seen(self) -> int:
        """How many partitions the attempts topic has at least."""
        return max((*self.partitions, *self._unserved), default=-1) + 1

    @property
    def silent(self) -> bool:
        """Whether Kafka has not answered for a while."""
        return self._silent

    @property
    def hopeless(self) -> bool:
        """Whether only another process may help: several new consumers in a row have brought nothing."""
        return self._standstill.times >= _HOPELESS_RESTARTS

    # -- Life -------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group."""
        consumer = AttemptsConsumer(
            self._options,
            topic=self._settings.attempts_topic,
            group_id=self._settings.group_id,
            session_timeout_ms=self._settings.session_timeout_ms,
            listener=self,
        )
        self._consumer = consumer  # the first assignment may come before start returns
        try:
            await consumer.start()
        except BaseException:
            self._consumer = None
            raise

    async def stop_taking(self) -> None:
        """Take no more attempts; returns when the last poll is over, or does not end because no broker answers."""
        self._stopping = True
        self._room_made.set()
        try:
            async with asyncio.timeout(_LAST_POLL_S), self._polling:
                pass
        except TimeoutError:
            log.warning("poll_does_not_end")  # during a rebalance it knows no time limit (KAFKA.md section 4, 5)
        for partition in self.partitions.values():
            partition.held.clear()

    async def leave(self) -> None:
        """Commit what is complete and leave the group. Idempotent."""
        if self._consumer is not None:
            await self._committer.commit()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    def make_room(self) -> None:
        """An attempt is through."""
        self._room_made.set()

    async def room_made(self, within_s: float) -> None:
        """Wait until an attempt is through, or so long."""
        self._room_made.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._room_made.wait()
        except TimeoutError:
            pass

    # -- Polling ----------------------------------------------------------------------------------------------------------

    async def poll_forever(self) -> None:
        """Take attempts until `stop_taking`; the consumer is made anew where it does not recover."""
        errors, delay_s = 0, _RETRY_S
        while not self._stopping:
            try:
                async with asyncio.timeout(None) as limit, self._polling:
                    self._poll_limit = limit
                    try:
                        await self._poll()
                    finally:
                        self._poll_limit = None
                errors, delay_s, self._trouble, self._refused = 0, _RETRY_S, None, False
            except asyncio.CancelledError:
                self._broken = True  # what a poll has received when it is cut off is lost, and the client is not whole any more
                raise
            except TimeoutError:  # by the pulse: the consumer is thrown away, so its poll may be cancelled
                await self._restart()
            except ConsumerTrouble as error:
                self._go_back()
                errors += 1
                self._trouble, self._refused = str(error), isinstance(error, ConsumerForbidden)
                log.warning("poll_failed", error=str(error), errors=errors)
                await asyncio.sleep(delay_s)
                delay_s = min(_RETRY_MAX_S, delay_s * 2)
                if errors >= _ERRORS_BEFORE_RESTART:
                    await self._restart()

    async def _poll(self) -> None:
        if self._broken or self._consumer is None:
            await self._restart()
        if self._consumer is None:  # the end came first
            return
        if self._unserved and min(self._unserved) < self._ledger_partitions(max(self._unserved) + 1):
            await self._serve_twins()
        for number in [number for number, found in self._first.items() if not found.done()]:
            self._receive(await self._fetch([number], max_records=1, timeout_ms=0))
        self._take_held()
        room = self._room()
        if room <= 0:
            await self.room_made(_KEEP_ALIVE_S)
            await self._consumer.keep_alive()
            return
        ready = self._ready()
        preparing = any(partition.offsets.owned and not partition.ready for partition in self.partitions.values())
        wait_ms = _POLL_NOT_READY_MS if preparing else _POLL_MS
        if not ready:
            await self._consumer.keep_alive()
            await self.room_made(wait_ms / 1000)
            return
        most = min(room, _CHUNK)
        if self._full():  # a trickle goes on: only newer attempts move the window that the table keeps
            await self.room_made(wait_ms / 1000)
            most = 1
        self._receive(await self._fetch(ready, max_records=most, timeout_ms=wait_ms))
        await asyncio.sleep(0)

    def _ready(self) -> list[int]:
        """Return the partitions that attempts may be taken from."""
        return [
            partition.number
            for partition in self.partitions.values()
            if partition.ready and not partition.held and partition.offsets.span < self._settings.max_span
        ]

    async def _fetch(self, numbers: list[int], *, max_records: int, timeout_ms: int) -> Mapping[int, list[Record]]:
        """Poll; where a record cannot be parsed, take what stands before it one by one, then step over it."""
        assert self._consumer is not None
        try:
            return await self._consumer.poll(numbers, max_records=max_records, timeout_ms=timeout_ms)
        except UnreadableRecord:
            self._go_back()
        for number in numbers:
            try:
                self._receive(await self._consumer.poll([number], max_records=1, timeout_ms=_POLL_MS))
            except UnreadableRecord as error:
                await self._step_over(self.partitions[number], str(error))
        return {}

    async def _step_over(self, partition: Partition, why: str) -> None:
        """Give up the one record at the position: nobody can read whom to answer."""
        assert self._consumer is not None
        offset = await self._consumer.position(partition.number)
        if partition.ready and self._rebalance_began is None:
            log.error("attempt_unreadable", partition=partition.number, offset=offset, why=why)
            self._recorder.unreadable()
            partition.offsets.receive(offset, int(self._clock.now_ms()))
            partition.offsets.complete(offset)
            self._consumer.seek(partition.number, offset + 1)

    def _go_back(self) -> None:
        """Have everything again that a failed poll may have passed over: aiokafka drops what it had collected by then."""
        if self._consumer is None or self._rebalance_began is not None:
            return
        for partition in self.partitions.values():
            if partition.offsets.owned:
                following = partition.held[-1].offset + 1 if partition.held else partition.offsets.position
                with contextlib.suppress(ConsumerTrouble):
                    self._consumer.seek(partition.number, following)

    def _receive(self, batches: Mapping[int, list[Record]]) -> None:
        """Take records, or hold them for a partition that is not ready; what comes before its position is set is dropped.

        Dropping is safe there: `on_assigned` seeks to the committed offset afterwards, so they come again.
        """
        if batches:
            self._delivered += 1
        for number, records in batches.items():
            partition = self.partitions.get(number)
            if partition is None or not partition.offsets.owned or self._rebalance_began is not None:
                continue
            partition.held.extend(records)
            found = self._first.get(number)
            if found is not None and not found.done():
                found.set_result(None)
            self._take_from(partition)

    def _take_held(self) -> None:
        for partition in self.partitions.values():
            self._take_from(partition)

    def _take_from(self, partition: Partition) -> None:
        held = partition.held
        if not held:
            return
        with self._caller:
            while held and partition.ready and self._room() > 0:
                record = held.popleft()
                if self._on_record(partition, record) is Step.EXTEND:
                    held.appendleft(record)
                    log.info("ledger_read_further_back", partition=partition.number)
                    self._prepare(partition)

    async def feel_pulse_forever(self) -> None:
        """Ask the leaders of our partitions for their ends: while no broker answers, aiokafka's polls just return nothing.

        A question is never cancelled: that cancels futures which the whole client shares, and it does not recover.
        """
        while True:
            await asyncio.sleep(_PULSE_S)
            consumer = self._consumer
            if consumer is None:
                continue
            ours = [partition.number for partition in self.partitions.values() if partition.offsets.owned]
            question = asyncio.create_task(self._look(consumer, ours or [0]), name="look")
            question.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may end when nobody asks any more
            answered, _ = await asyncio.wait({question}, timeout=_SILENT_S)
            if not answered:
                self._hear(silent=True)
                answered, _ = await asyncio.wait({question}, timeout=_LOST_S)
            if not answered:
                question.cancel()
                if consumer is self._consumer and self._poll_limit is not None:
                    log.warning("consumer_lost", silent_s=_SILENT_S + _LOST_S)
                    self._poll_limit.reschedule(asyncio.get_running_loop().time())
                continue
            silent = question.cancelled() or question.exception() is not None
            self._hear(silent=silent)
            if not silent and consumer is self._consumer:
                self._watch(question.result())

    async def _look(self, consumer: AttemptsConsumer, ours: list[int]) -> dict[int, int]:
        """Return the positions of the partitions that attempts wait in and can be taken from."""
        ends = await consumer.ends(ours)
        if self._stopping or self._rebalance_began is not None or self._room() <= 0 or self._full():
            return {}
        with contextlib.suppress(ConsumerTrouble):  # taken away in this moment
            positions = await consumer.positions(self._ready())
            return {number: position for number, position in positions.items() if position < ends.get(number, 0)}
        return {}

    def _watch(self, waiting: Mapping[int, int]) -> None:
        """Replace a consumer that stands still although attempts wait (KAFKA.md section 4, 14)."""
        preparing = any(partition.offsets.owned and not partition.ready for partition in self.partitions.values())
        why = self._standstill.look(waiting, self._delivered, assigned=self._assigned, preparing=preparing)
        if why is not None and self._poll_limit is not None:  # else it is being replaced, or a failed poll is waited out
            self._standstill.given_up(why)
            log.error("consumer_stalled", why=why, times=self._standstill.times, note="it is replaced")
            self._poll_limit.reschedule(asyncio.get_running_loop().time())

    def _hear(self, *, silent: bool) -> None:
        if silent and not self._silent:
            log.warning("kafka_silent", for_s=_SILENT_S)
        elif self._silent and not silent:
            log.info("kafka_answers")
        self._silent = silent

    def _full(self) -> bool:
        return sum(len(partition.table) for partition in self.partitions.values()) >= self._settings.ledger_entries_max

    async def _restart(self) -> None:
        """Replace a consumer that does not recover by itself (KAFKA.md section 4, 14)."""
        broken, self._consumer = self._consumer, None
        self._broken, self._replacing = False, True
        self._recorder.restarted("consumer")
        self._pause()
        if broken is not None:
            await broken.stop()
        self._committer.abandon()  # it asked the one that is gone
        while self._consumer is None and not self._stopping:
            try:
                await self.start()
            except (ConsumerTrouble, ConfigError) as error:  # what was right at the first start may become so again
                self._trouble = str(error)
                await asyncio.sleep(_RETRY_MAX_S)

    # -- Rebalances (rules 18 to 22) --------------------------------------------------------------------------------------

    def _pause(self) -> None:
        self._rebalance_began = time.monotonic()
        self._assigned = False
        for partition in self.partitions.values():
            partition.pause()

    async def on_revoked(self) -> None:
        """Stop taking, drain for a moment, commit. What runs, runs on."""
        self._pause()
        deadline = time.monotonic() + _DRAIN_S
        while (left := deadline - time.monotonic()) > 0 and any(
            partition.flying for partition in self.partitions.values() if partition.offsets.owned
        ):
            await self.room_made(left)
        await self._committer.commit()

    async def on_assigned(self, partitions: Collection[int]) -> None:
        """Adopt what is still ours, drop what is not, and read the ledger back for what is new."""
        consumer = self._consumer
        if consumer is None:  # we leave, or the one that is told of this is being replaced
            return
        count = self._ledger_partitions(max(partitions, default=0) + 1)
        served = [number for number in partitions if number < count]
        self._unserved = set(partitions) - set(served)
        for number in sorted(self._unserved):
            log.error("partition_not_served", partition=number, mend=f"add partitions to {self._settings.decisions_topic}")
        try:
            positions = await consumer.committed(served)
        except ConsumerTrouble as error:
            log.warning("committed_offsets_not_read", error=str(error))
            self._broken = True  # nobody would call us again: join anew
            return
        if consumer is not self._consumer:  # it has gone, or was replaced meanwhile
            return
        for number, partition in self.partitions.items():
            if partition.offsets.owned and number not in positions:
                self._on_work(partition, partition.lose())
        for number, position in positions.items():
            self._begin(number, position)
        self._assigned = True
        self._replacing = False
        began, self._rebalance_began = self._rebalance_began, None
        self._recorder.rebalanced(0.0 if began is None else time.monotonic() - began, len(partitions))
        log.info("assigned", partitions=sorted(positions))

    async def _serve_twins(self) -> None:
        """Begin with partitions that were assigned before the ledger had a partition of their number."""
        assert self._consumer is not None
        count = self._ledger_partitions(1)
        positions = await self._consumer.committed([number for number in self._unserved if number < count])
        still = self._consumer is not None and self._rebalance_began is None
        for number in positions.keys() & self._unserved if still else ():
            self._unserved.discard(number)
            self._begin(number, positions[number])
            log.info("partition_served", partition=number)

    def _begin(self, number: int, position: int) -> None:
        """Serve a partition from its committed offset on."""
        assert self._consumer is not None
        known = self.partitions.get(number)
        partition = known or Partition(
            number,
            window_ms=self._settings.window_ms,
            bodies_max=max(1, self._settings.ledger_bodies // max(1, self._ledger_partitions(1))),
        )
        self.partitions[number] = partition
        self._consumer.seek(number, position)
        partition.assign(position)
        self._prepare(partition)

    def _prepare(self, partition: Partition) -> None:
        self._spawn(self._scribe.prepare(partition, lambda: self._since(partition)), name=f"prepare {partition.number}")

    async def _since(self, partition: Partition) -> float:
        """Return the timestamp of the first attempt to be taken; where there is none yet, a time safely before it."""
        if not partition.held and partition.offsets.position < await self._end(partition.number):
            found = self._first[partition.number] = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_FIRST_RECORD_S):
                    await found
            except TimeoutError:
                pass  # what comes later than expected is read back for by rule 11
            finally:
                del self._first[partition.number]
        if partition.held:
            return float(partition.held[0].timestamp)
        return self._clock.now_ms() - CLOCK_ALLOWANCE_MS

    async def _end(self, number: int) -> int:
        """Return where a partition ends; 0 where the consumer does not say, or is being replaced.

        A consumer that is stopped meanwhile leaves the question open for as long as a request may take.
        """
        if self._consumer is None:
            return 0
        question = asyncio.create_task(self._consumer.ends([number]), name="end of attempts")
        question.add_done_callback(lambda task: task.cancelled() or task.exception())
        answered, _ = await asyncio.wait({question}, timeout=_SILENT_S)
        try:
            return question.result()[number] if answered else 0
        except ConsumerTrouble as error:
            log.warning("end_of_attempts_not_read", partition=number, error=str(error))
            return 0

    # -- Committing (rule 17) ---------------------------------------------------------------------------------------------

    async def commit_forever(self) -> None:
        """Commit completed offsets every `commit_interval_ms`."""
        while True:
            await asyncio.sleep(self._settings.commit_interval_ms / 1000)
            await self._committer.commit()
