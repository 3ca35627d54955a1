"""The life of a worker: take attempts while there is room, decide each once, stop without losing any."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Coroutine
from typing import Any, Final

import orjson

from gate import log as logs
from gate.chain.resources import Resources
from gate.chain.runner import Chain
from gate.chain.texts import load_texts
from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.connection import client_options
from gate.kafka.consumer import ConsumerTrouble
from gate.kafka.granted import missing_rights
from gate.kafka.ledger import KafkaLedger
from gate.kafka.partitioner import partition_of
from gate.kafka.producer import BATCH_BYTES, BatchProducer
from gate.kafka.rights import Role
from gate.kafka.topics import TopicList, time_stamps
from gate.ledger.ports import LogUnavailable
from gate.metrics import Metrics
from gate.model.decision import Cause, Outcome, fixed_denial
from gate.model.wire import Record
from gate.worker.clock import BrokerClock
from gate.worker.deciding import Decider, answer_document
from gate.worker.intake import Intake
from gate.worker.partitions import Append, Flight, Partition, Stage, Step, Work
from gate.worker.readiness import Readiness, Status
from gate.worker.recorder import Recorder
from gate.worker.replies import AddressBook, Unlisted
from gate.worker.scribe import LedgerScribe
from gate.worker.sender import ReplySender
from gate.worker.tasks import Tasks

_HOUSEKEEPING_S: Final = 0.5
_MISKEYED_LOG_S: Final = 60.0

log = logs.get(__name__)


class Worker:
    """One member of the workers' group. `run` once; `status` and `in_flight` at any time."""

    def __init__(self, settings: Settings, bootstrap: str, chain: Chain, metrics: Metrics) -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._options = client_options(settings, bootstrap)
        self._clock = BrokerClock()
        self._recorder = Recorder(metrics, self._clock)
        worker_id = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
        texts = load_texts(settings.messages)
        self._decider = Decider(settings, chain=chain, worker_id=worker_id, clock=self._clock, texts=texts)
        self._resources = Resources(
            connections=settings.max_in_flight,
            sync_threads=settings.sync_threads,
            set_user_id=settings.set_user_id,
            on_blocked=self._recorder.blocked,
        )
        self._chains = {chain}  # the one that decides, and those with attempts in flight
        self._tasks: Tasks | None = None
        self._miskeyed_logged_at = 0.0
        self._intake: Intake | None = None
        self._doubted: list[tuple[Partition, Flight]] = []  # late by a clock that no broker has confirmed
        self.in_flight = 0
        recorder = self._recorder
        self._topics = TopicList(settings, bootstrap)
        self._partitions = 1  # of the attempts topic, as last seen
        self._ledger = KafkaLedger(
            self._options,
            topic=settings.decisions_topic,
            count=self._ledger_partitions,
            on_restart=recorder.restarted,
        )
        self._replies = BatchProducer(self._options, on_restart=lambda: recorder.restarted("reply_producer"))
        self._dead_letters = BatchProducer(self._options, on_restart=lambda: recorder.restarted("dlq_producer"))
        self._scribe = LedgerScribe(
            self._ledger,
            clock=self._clock,
            recorder=recorder,
            spawn=self._spawn,
            max_batch_bytes=BATCH_BYTES,
            on_work=self._do,
            on_rejected=self._reject,
        )
        self._sender = ReplySender(
            replies=self._replies,
            dead_letters=self._dead_letters,
            addresses=AddressBook.from_settings(settings, self._topics.partitions),
            unlisted=Unlisted(self._topics, at_once=max(1, settings.max_in_flight // 10)),
            dlq_topic=settings.dlq_topic,
            partitions=self._topics.partitions,
            clock=self._clock,
            recorder=recorder,
            spawn=self._spawn,
            max_batch_bytes=BATCH_BYTES,
            on_out=self._out,
            on_done=self._done,
        )
        self._readiness = Readiness(
            settings, scribe=self._scribe, sender=self._sender, recorder=recorder, threads=self._resources.threads
        )

    def __repr__(self) -> str:
        return f"<Worker {self.in_flight} in flight, {self._intake!r}>"

    # -- Life -------------------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is in flight within the grace period and leave the group.

        Raises ConfigError where the topics do not fit, KafkaUnavailable where no broker answers at start.
        """
        async with self._resources:
            await self._serve(stop)

    async def _serve(self, stop: asyncio.Event) -> None:
        try:
            # 1. what is needed to answer
            if problems := await missing_rights(self._settings, self._options, Role.WORKER):
                raise ConfigError(problems)
            try:
                for client in (self._topics, self._ledger, self._replies, self._dead_letters):
                    await client.start()
            except LogUnavailable as error:
                raise KafkaUnavailable(f"Kafka at {self._options['bootstrap_servers']} does not answer: {error}") from error
            self._check_topics()
            await self._check_time_stamps()
            await self.chain.start(self._resources)
            # 2. take attempts until told to stop
            async with Tasks() as tasks:
                self._tasks = tasks
                self._intake = intake = self._new_intake()
                if await self._join(intake, stop):
                    tasks.keep(intake.poll_forever, name="poll")
                    tasks.keep(intake.commit_forever, name="commit")
                    tasks.keep(intake.feel_pulse_forever, name="pulse")
                    tasks.keep(lambda: self._keep_house(intake), name="housekeeping")
                    await stop.wait()
                # 3. finish, commit, leave
                log.info("stopping", in_flight=self.in_flight, grace_s=self._settings.shutdown_grace_s)
                tasks.stop()
                await intake.stop_taking()
                await self._drain(intake)
                tasks.end()
                for task in self._running(intake):
                    task.cancel()
        finally:
            self._tasks = None
            if self._intake is not None:
                await self._intake.leave()
            for chain in self._chains:
                await chain.aclose()
            await asyncio.gather(*(client.stop() for client in (self._ledger, self._replies, self._dead_letters, self._topics)))

    @property
    def chain(self) -> Chain:
        """The chain that the next attempt is decided by."""
        return self._decider.chain

    async def change_chain(self, chain: Chain) -> None:
        """Decide by another chain from the next attempt on; those in flight finish on the chain they started with."""
        serving = self._tasks is not None
        if serving:
            await chain.start(self._resources)
        retired, self._decider.chain = self._decider.chain, chain
        self._recorder.chain_changed(retired.hash, chain.hash)
        if serving:
            self._chains.add(chain)
            self._spawn(self._retire(retired), name=f"retire {retired!r}")
        else:  # still starting, or stopped already: nothing is in flight
            self._chains = {chain}
            retired.release()

    async def _retire(self, chain: Chain) -> None:
        await chain.retire()
        self._chains.discard(chain)

    async def _join(self, intake: Intake, stop: asyncio.Event) -> bool:
        """Join the group, which may take until the coordinator is there; return False if the stop came first."""
        joining = asyncio.create_task(intake.start(), name="join the group")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not joining.done():
                return False
            joining.result()
            return True
        except ConsumerTrouble as error:
            raise KafkaUnavailable(f"Kafka at {self._options['bootstrap_servers']} does not let us join: {error}") from error
        finally:
            for task in (joining, stopping):
                task.cancel()
            await asyncio.wait({joining, stopping})

    def _new_intake(self) -> Intake:
        settings = self._settings
        intake = Intake(
            settings,
            self._options,
            scribe=self._scribe,
            clock=self._clock,
            recorder=self._recorder,
            spawn=self._spawn,
            ledger_partitions=self._ledger_partitions,
            room=self._room_assuming if settings.mode == "at_least_once" else self._room,
            on_record=self._take,
            on_work=self._do,
            caller=self._resources.caller,
        )
        self._recorder.metrics.in_flight_limit.set(settings.max_in_flight)
        return intake

    def _room(self) -> int:
        return self._settings.max_in_flight - max(self.in_flight, self._sender.burying)

    def _room_assuming(self) -> int:
        """Return the room where replies do not wait for the ledger: what is not written and read in order takes it up, too."""
        assert self._intake is not None
        gaps = sum(len(partition.table.acked) for partition in self._intake.partitions.values())
        return min(self._room(), self._settings.max_in_flight - self._scribe.owed - gaps)

    def _check_topics(self) -> None:
        settings = self._settings
        problems = [
            f"the {name} topic {topic} does not exist; make it with `gate topics create`"
            for name, topic in (("attempts", settings.attempts_topic), ("decisions", settings.decisions_topic))
            if not self._topics.partitions(topic)
        ]
        attempts, ledger = self._topics.partitions(settings.attempts_topic) or 1, self._ledger_partitions()
        self._partitions = attempts
        if not problems and attempts != ledger:
            problems = [
                f"{settings.attempts_topic} has {attempts} partitions and {settings.decisions_topic} {ledger}; "
                "they must have the same number (`gate topics check`)"
            ]
        if problems:
            raise ConfigError(problems)

    async def _check_time_stamps(self) -> None:
        """Refuse topics whose time stamps are those of strangers' clocks: deadlines and windows would be, too (condition C5)."""
        stamps = await time_stamps(self._settings, self._bootstrap)
        problems = [
            f"{topic}: message.timestamp.type is {found}, so deadlines and windows would depend on strangers' clocks (C5); run "
            f"`kafka-configs.sh --bootstrap-server {self._bootstrap} --alter --entity-type topics --entity-name {topic} "
            "--add-config message.timestamp.type=LogAppendTime`"
            for topic, found in stamps.items()
            if found not in {None, "LogAppendTime"}
        ]
        if problems:
            raise ConfigError(problems)
        if hidden := [topic for topic, found in stamps.items() if found is None]:
            log.warning(
                "time_stamps_not_checked",
                topics=hidden,
                mend="grant DescribeConfigs on them, or see to it that message.timestamp.type is LogAppendTime",
            )

    def _spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        assert self._tasks is not None
        self._tasks.spawn(coro, name=name)

    async def _drain(self, intake: Intake) -> None:
        """Wait until nothing is in flight, dead letters and decisions included, or the grace period is over."""
        deadline = time.monotonic() + self._settings.shutdown_grace_s

        def under_way() -> int:
            return max(self._scribe.owed, sum(len(partition.flying) for partition in intake.partitions.values()))

        while (left := under_way()) and time.monotonic() < deadline:
            await intake.room_made(min(0.1, deadline - time.monotonic()))
        if left:
            log.warning("stopped_with_attempts_in_flight", in_flight=left, note="they are delivered again to another worker")

    def _running(self, intake: Intake) -> list[asyncio.Task[None]]:
        return [
            flight.task
            for partition in intake.partitions.values()
            for flight in partition.flying.values()
            if flight.task is not None
        ]

    async def _keep_house(self, intake: Intake) -> None:
        metrics = self._recorder.metrics
        while True:
            began = time.monotonic()
            await asyncio.sleep(_HOUSEKEEPING_S)
            self._recorder.looped(time.monotonic() - began - _HOUSEKEEPING_S)
            self._recorder.resources(self._resources)
            partitions = intake.partitions.values()
            for partition in partitions:
                self._scribe.sweep(partition)
                partition.let_go()
            self._readiness.look(intake, self.in_flight, lost_tasks=sum(chain.abandoned for chain in self._chains))
            self._watch_partitions(intake)
            if self._doubted and not self._scribe.owed:  # nothing is under way that would tell the time: another goes ahead
                self._settle_doubts()
            metrics.in_flight.set(self.in_flight)
            oldest = min((flight.started_at for partition in partitions for flight in partition.flying.values()), default=None)
            metrics.oldest_in_flight_seconds.set(0.0 if oldest is None else time.monotonic() - oldest)
            metrics.ledger_entries.set(sum(len(partition.table) for partition in partitions))

    def _ledger_partitions(self, at_least: int = 1) -> int:
        return self._topics.partitions(self._settings.decisions_topic, at_least=at_least) or 0

    def _watch_partitions(self, intake: Intake) -> None:
        """Say once what partitions that were added mean: an attempt that is sent again may not find its first decision (C2)."""
        settings, before = self._settings, self._partitions
        found = self._topics.partitions(settings.attempts_topic, at_least=intake.partitions_seen) or before
        if found != before:
            self._partitions = found
            log.warning(
                "partitions_changed",
                topic=settings.attempts_topic,
                before=before,
                now=found,
                note=f"for {settings.window_ms / 1000:g} s an attempt that is sent again may be decided again (condition C2)",
            )

    def status(self) -> Status:
        """Return whether attempts are being answered, and if not, why."""
        return self._readiness.status(self._intake)

    # -- One ask ----------------------------------------------------------------------------------------------------------

    def _take(self, partition: Partition, record: Record) -> Step:
        flight, dropped = self._decider.read(record)
        step = partition.take(flight)
        if step is Step.SKIP:
            self._recorder.duplicate_delivery()
        elif step is not Step.EXTEND:
            self.in_flight += 1
            self._recorder.received(dropped)
            self._check_key(flight)
            if step is Step.RUN:
                self._recorder.waited(self._decider.queue_ms(flight) / 1000)
                self._start(partition, flight)
            elif step is Step.REPLY:
                self._recorder.duplicate(flight, lost=False)
                self._reply(partition, flight)
        return step

    def _start(self, partition: Partition, flight: Flight) -> None:
        if not self._clock.known and self._doubts(partition, flight):
            return
        result = self._decider.run(flight)
        if isinstance(result, Outcome):
            self._decided(partition, flight, result)
        else:
            assert self._tasks is not None
            flight.task = self._tasks.start(self._finish(partition, flight, result), name=f"chain {flight.source}")

            def ended(task: asyncio.Task[None]) -> None:
                result.close()  # cancelled before its first step it would stay unawaited
                if task.cancelled():
                    self._cut_off(partition, flight)

            flight.task.add_done_callback(ended)

    def _doubts(self, partition: Partition, flight: Flight) -> bool:
        """Hold back what looks late before any broker has told the time: a fast clock would deny all that waits.

        The first goes ahead; the acknowledgement of its decision tells the time.
        """
        if flight.event is None or self._decider.late(flight) is None:
            return False
        self._doubted.append((partition, flight))
        return len(self._doubted) > 1

    def _settle_doubts(self) -> None:
        doubted, self._doubted = self._doubted[1:], []
        for partition, flight in doubted:
            if flight.stage is Stage.RUN:  # still ours, and not answered by somebody else's decision
                self._start(partition, flight)

    async def _finish(self, partition: Partition, flight: Flight, chain: Coroutine[Any, Any, Outcome]) -> None:
        outcome = await chain
        flight.task = None
        self._decided(partition, flight, outcome)

    def _cut_off(self, partition: Partition, flight: Flight) -> None:
        """Decide an attempt whose chain was cancelled by an action, or by what one left behind."""
        if flight.stage is Stage.RUN and self._tasks is not None and not self._tasks.ending:
            log.error("chain_cancelled", attempt_id=flight.attempt_id, source=flight.source)
            flight.task = None
            self._decided(partition, flight, Outcome(denial=fixed_denial(Cause.ACTION_FAILED)))

    def _decided(self, partition: Partition, flight: Flight, outcome: Outcome) -> None:
        flight.event = None  # the largest part of an attempt in flight, and not needed any more
        self._recorder.ran(flight, outcome)
        try:
            append, document = self._decider.word(flight, outcome)
        except orjson.JSONEncodeError:
            log.exception("decision_not_serialisable", attempt_id=flight.attempt_id)
            failure = Outcome(denial=fixed_denial(Cause.ACTION_FAILED), chain=outcome.chain, trace=outcome.trace)
            append, document = self._decider.word(flight, failure)
        if partition.decided(flight, append, document):
            self._scribe.append(partition, append)
            if self._settings.mode == "at_least_once":
                # Not at once: waiters that then run themselves would end up here again, one inside the other.
                self._spawn(self._assume(partition, flight, append), name=f"assume {flight.source}")

    async def _assume(self, partition: Partition, flight: Flight, append: Append) -> None:
        if flight.stage is Stage.APPEND and flight.append is append:
            self._do(partition, partition.assume(flight))

    def _reject(self, partition: Partition, append: Append) -> bool:
        """Decide less in place of a decision that the ledger refuses for its size (rule 15); return False if nothing is less."""
        flight = append.flight
        if flight.stage is not Stage.APPEND or flight.append is not append:
            return True
        smaller = self._decider.word_smaller(flight, append)
        size_bytes = len(append.message.value or b"")
        log.error("decision_too_large", attempt_id=flight.attempt_id, size_bytes=size_bytes, written_smaller=smaller is not None)
        if smaller is not None and partition.decided(flight, *smaller):
            self._scribe.append(partition, smaller[0])
        return smaller is not None

    def _do(self, partition: Partition, work: Work) -> None:
        if self._doubted and self._clock.known:
            self._settle_doubts()
        for flight in work.cancelled:
            if flight.task is not None:
                flight.task.cancel()
        for _ in work.dropped:
            self._release()
        for flight in work.replies:
            self._resolved(flight)
            self._reply(partition, flight)
        for flight in work.runs:
            self._start(partition, flight)
        if self._settings.mode == "at_least_once" and self._intake is not None:
            self._intake.make_room()  # the ledger owes less

    def _resolved(self, flight: Flight) -> None:
        assert flight.answer is not None
        entry = flight.answer.entry
        if flight.append is not None and flight.append.at(entry.offset).same(entry):
            self._recorder.decided(flight)
        else:
            self._recorder.duplicate(flight, lost=flight.append is not None)

    def _reply(self, partition: Partition, flight: Flight) -> None:
        assert flight.answer is not None
        value = flight.answer.entry.value
        if value is None:
            self._spawn(self._reply_from_ledger(partition, flight), name=f"read-decision {flight.source}")
        else:
            self._sender.send(flight, answer_document(flight, value))

    async def _reply_from_ledger(self, partition: Partition, flight: Flight) -> None:
        """Read the body of a decision that is not kept in memory, then reply with it."""
        assert flight.answer is not None
        offset = flight.answer.entry.offset
        while True:
            try:
                entries = (await self._ledger.read(partition.number, offset)).entries
            except LogUnavailable as error:
                log.warning("ledger_not_read", partition=partition.number, error=str(error))
                await asyncio.sleep(_HOUSEKEEPING_S)
                continue
            if entries and entries[0].offset == offset and entries[0].value is not None:
                self._sender.send(flight, answer_document(flight, entries[0].value))
                return
            log.warning("decision_not_found", partition=partition.number, offset=offset)
            await asyncio.sleep(_HOUSEKEEPING_S)

    def _out(self, flight: Flight) -> None:
        self._recorder.out(flight)
        self._release()

    def _done(self, flight: Flight) -> None:
        assert self._intake is not None
        self._intake.partitions[flight.ask.record.partition].complete(flight)
        self._intake.make_room()

    def _release(self) -> None:
        assert self._intake is not None
        self.in_flight -= 1
        self._intake.make_room()

    def _check_key(self, flight: Flight) -> None:
        """Count an attempt whose retries may land in another partition and miss its decision."""
        ask = flight.ask
        key = ask.record.key
        if not ask.named or (key is not None and key == ask.attempt_id.encode() and self._in_place(key, ask.record.partition)):
            return
        self._recorder.miskeyed()
        if time.monotonic() - self._miskeyed_logged_at > _MISKEYED_LOG_S:
            self._miskeyed_logged_at = time.monotonic()
            log.warning(
                "miskeyed_attempt",
                source=flight.source,
                mend="key the record by gate-attempt-id, partitioned by murmur2 (librdkafka: partitioner=murmur2_random)",
            )

    def _in_place(self, key: bytes, partition: int) -> bool:
        return partition_of(key, self._partitions) == partition
