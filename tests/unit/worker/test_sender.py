"""Replies and dead letters until the broker has them; an offset is done only after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from gate.config import Settings
from gate.ledger.ports import Appended, LogForbidden, LogRejected, LogUnavailable
from gate.metrics import Metrics
from gate.model.decision import Cause, Outcome, fixed_denial
from gate.model.wire import Message, decision_document
from gate.worker import sender as sender_module
from gate.worker.clock import BrokerClock
from gate.worker.deciding import Decider
from gate.worker.partitions import Flight
from gate.worker.recorder import Recorder
from gate.worker.replies import AddressBook, Unlisted
from gate.worker.sender import ReplySender


class Record:
    topic, partition, timestamp, headers = "attempts", 0, 0, ()

    def __init__(self, offset: int, value: bytes | None, key: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
        self.offset, self.value, self.key, self.headers = offset, value, key, headers


class Broker:
    """A producer whose answers are given by a test; what it takes is kept in order."""

    def __init__(self, journal: list[str]) -> None:
        self.taken: list[tuple[str, int, Message]] = []
        self.answer: Callable[[str, list[Message]], Exception | None] = lambda topic, batch: None
        self._journal = journal

    async def send(self, topic: str, partition: int, batch: list[Message]) -> Appended:
        await asyncio.sleep(0)
        error = self.answer(topic, batch)
        if error is not None:
            self._journal.append(f"{type(error).__name__} {topic} {len(batch)}")
            raise error
        self.taken += [(topic, partition, message) for message in batch]
        self._journal += [f"{topic} {(message.key or b'').decode()}" for message in batch]
        return Appended(0, 0)


class Desk:
    """A sender with everything around it, and a clock that moves only when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.journal: list[str] = []
        self.topics: dict[str, int] = {"replies": 2, "replies.two": 1, "dlq": 1}
        self.made: dict[str, int] = {}  # topics that the list does not have yet
        self.listing = asyncio.Event()  # the list is fetched anew
        self.listing.set()
        self.broker, self.dead_letters = Broker(self.journal), Broker(self.journal)
        self.tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics()
        clock = BrokerClock()
        monkeypatch.setattr(sender_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(sender_module, "asyncio", SimpleNamespace(sleep=self.sleep))
        self.sender = ReplySender(
            replies=self.broker,
            dead_letters=self.dead_letters,
            addresses=AddressBook(
                default_topic="replies", patterns=("replies*",), forbidden=("attempts", "dlq"), partitions=self.topics.get
            ),
            unlisted=Unlisted(self, at_once=3, clock=lambda: self.now),
            dlq_topic="dlq",
            partitions=self.topics.get,
            clock=clock,
            recorder=Recorder(self.metrics, clock),
            spawn=self.spawn,
            max_batch_bytes=10_000,
            on_out=lambda flight: self.journal.append(f"out {flight.attempt_id}"),
            on_done=lambda flight: self.journal.append(f"done {flight.attempt_id}"),
        )
        self.decider = Decider(Settings(), chain=None, worker_id="w", clock=clock)  # type: ignore[arg-type] # reads only

    next_refresh = 1

    async def refreshed(self, due: int) -> None:
        await self.listing.wait()
        self.topics |= self.made

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def spawn(self, coro: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(coro, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def flight(self, attempt_id: str, value: bytes | None = b"{}", **headers: bytes) -> Flight:
        given = (("gate-attempt-id", attempt_id.encode()), *headers.items())
        return self.decider.read(Record(len(self.journal), value, attempt_id.encode(), given))[0]

    def send(self, attempt_id: str, *, cause: Cause | None = None, value: bytes | None = b"{}", **headers: bytes) -> None:
        outcome = Outcome(denial=None if cause is None else fixed_denial(cause))
        document = decision_document(attempt_id=attempt_id, outcome=outcome, warnings=[], chain="", decided_at="")
        self.sender.send(self.flight(attempt_id, value, **headers), document)

    async def settle(self, turns: int = 400) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def counted(self, name: str) -> dict[str, float]:
        """Return a counter's values by its one label."""
        lines = [line for line in self.metrics.render().decode().splitlines() if line.startswith(f"gate_{name}{{")]
        return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines if not line.endswith(" 0.0")}


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    made = Desk(monkeypatch)
    yield made
    for task in tuple(made.tasks):
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_reply_is_out_and_done_only_when_the_broker_has_it(desk: Desk) -> None:
    desk.send("a")
    assert [] == desk.journal
    await desk.settle()

    assert ["replies a", "out a", "done a"] == desk.journal
    assert {"sent": 1.0} == desk.counted("replies_total")


async def test_outage_is_outlasted_however_long_and_nothing_is_given_up(desk: Desk) -> None:
    began = desk.now
    desk.broker.answer = lambda topic, batch: LogUnavailable("away") if desk.now < began + 3600 else None
    desk.send("a")
    desk.send("b")
    await desk.settle(100_000)

    assert desk.now >= began + 3600
    assert ["replies a", "out a", "done a"] == [line for line in desk.journal if line.endswith(" a")]
    assert {"sent": 2.0} == desk.counted("replies_total")


async def test_reply_is_sent_after_an_outage_of_everything_also_where_its_partition_comes_back_last(desk: Desk) -> None:
    back = {"a": desk.now + 40, "b": desk.now + 40.5}  # by key; each is a partition of its own

    def answer(_topic: str, batch: list[Message]) -> Exception | None:
        away = desk.now < min(back[(message.key or b"").decode()] for message in batch)
        return LogUnavailable("NotEnoughReplicas") if away else None

    desk.broker.answer = answer
    for number, key in enumerate(back):
        desk.send(key, kafka_replyPartition=number.to_bytes(4, "big"))
    await desk.settle(4000)

    assert ["a", "b"] == [(message.key or b"").decode() for _, _, message in desk.broker.taken]
    assert [] == desk.dead_letters.taken


async def test_reply_that_alone_is_not_taken_for_30_s_is_given_up_and_dead_lettered(desk: Desk) -> None:
    began = desk.now
    desk.broker.answer = lambda topic, batch: LogUnavailable("no leader") if topic == "replies.two" else None
    desk.send("stuck", kafka_replyTopic=b"replies.two")
    while desk.now < began + 29:
        await desk.settle(5)
        desk.send("beside")
    assert not any(line == "out stuck" for line in desk.journal)
    for _ in range(100):
        desk.send("beside")
        await desk.settle(5)

    assert began + 30 < desk.now < began + 32
    assert ["out stuck", "dlq stuck", "done stuck"] == [line for line in desk.journal if line.endswith(" stuck")]
    assert {"reply_unknown": 1.0} == desk.counted("dlq_total")


async def test_reply_to_a_dead_partition_is_given_up_also_where_others_came_to_a_stop_behind_it(desk: Desk) -> None:
    desk.broker.answer = lambda topic, batch: LogUnavailable("no leader") if topic == "replies.two" else None
    desk.send("stuck", kafka_replyTopic=b"replies.two")
    await desk.settle(5)
    desk.send("beside")  # the last one: replies like the first take up all the room from now on
    await desk.settle(4000)

    assert {"reply_unknown": 1.0} == desk.counted("dlq_total")


async def test_rejected_batch_is_sent_one_by_one_and_only_the_culprit_is_dead_lettered(desk: Desk) -> None:
    desk.broker.answer = lambda topic, batch: LogRejected("too large") if any(m.key == b"big" for m in batch) else None
    for attempt_id in ("a", "big", "c"):
        desk.send(attempt_id, kafka_replyTopic=b"replies.two")
    await desk.settle()

    assert {b"a", b"c"} == {message.key for _, _, message in desk.broker.taken}
    assert ["out big", "dlq big", "done big"] == [line for line in desk.journal if line.endswith(" big")]
    assert {"rejected": 1.0, "sent": 2.0} == desk.counted("replies_total")
    assert {"reply_rejected": 1.0} == desk.counted("dlq_total")


async def test_topic_that_we_may_not_write_to_is_a_dead_letter_at_once(desk: Desk) -> None:
    desk.broker.answer = lambda topic, batch: LogForbidden("no") if topic == "replies.two" else None
    desk.send("a", kafka_replyTopic=b"replies.two")
    await desk.settle()

    assert ["LogForbidden replies.two 1", "out a", "dlq a", "done a"] == desk.journal
    assert {"reply_forbidden": 1.0} == desk.counted("dlq_total")


async def test_dead_letter_comes_after_the_reply_because_somebody_waits(desk: Desk) -> None:
    desk.send("bad", cause=Cause.INVALID_ATTEMPT, value=b"{")
    await desk.settle()

    assert ["replies bad", "out bad", "dlq bad", "done bad"] == desk.journal
    ((_, _, letter),) = desk.dead_letters.taken
    assert b"{" == letter.value
    assert (b"invalid_attempt", b"attempts") == (dict(letter.headers)["gate-dlq-reason"], dict(letter.headers)["gate-dlq-topic"])


async def test_undeliverable_reply_is_not_sent_anywhere_and_is_dead_lettered(desk: Desk) -> None:
    desk.send("a", kafka_replyTopic=b"elsewhere")
    await desk.settle()

    assert ["out a", "dlq a", "done a"] == desk.journal
    assert [] == desk.broker.taken
    assert {"undeliverable": 1.0} == desk.counted("replies_total")


async def test_missing_dead_letter_topic_holds_the_offset_but_neither_the_asker_nor_others(desk: Desk) -> None:
    del desk.topics["dlq"]
    desk.send("bad", cause=Cause.INVALID_ATTEMPT)
    desk.send("good")
    await desk.settle()
    assert {"out bad", "out good", "done good"} == {line for line in desk.journal if not line.startswith("replies")}

    desk.topics["dlq"] = 1
    await desk.settle()
    assert ["dlq bad", "done bad"] == desk.journal[-2:]


async def test_dead_letter_is_tried_until_the_broker_takes_it(desk: Desk) -> None:
    began = desk.now
    desk.dead_letters.answer = lambda topic, batch: LogForbidden("not yet") if desk.now < began + 600 else None
    desk.send("bad", cause=Cause.INVALID_ATTEMPT)
    await desk.settle(2000)

    assert ["dlq bad", "done bad"] == desk.journal[-2:]
    assert len([line for line in desk.journal if line.startswith("LogForbidden")]) < 200  # with growing pauses, not in a loop


async def test_dead_letter_too_large_is_kept_without_its_value_and_in_the_end_given_up(desk: Desk) -> None:
    desk.dead_letters.answer = lambda topic, batch: LogRejected("too large") if batch[0].value else None
    desk.send("bad", cause=Cause.INVALID_ATTEMPT, value=b"x" * 50)
    await desk.settle()
    ((_, _, letter),) = desk.dead_letters.taken
    assert (None, b"50") == (letter.value, dict(letter.headers)["gate-dlq-truncated"])

    desk.dead_letters.answer = lambda topic, batch: LogRejected("still too large")
    desk.send("worse", cause=Cause.INVALID_ATTEMPT, value=b"x" * 50)
    await desk.settle()
    assert "done worse" == desk.journal[-1]


async def test_conflict_and_denials_are_replies_like_any_other(desk: Desk) -> None:
    for cause in (Cause.CONFLICT, Cause.EXPIRED, Cause.OVERLOADED, Cause.ACTION_FAILED):
        desk.send(cause.value, cause=cause)
    await desk.settle()

    assert {} == desk.counted("dlq_total")
    assert 4 == len(desk.broker.taken)


# -- Topics that the list does not have ---------------------------------------------------------------------------------


async def test_reply_to_a_topic_that_was_just_made_waits_for_the_next_list_and_is_sent(desk: Desk) -> None:
    desk.made["replies.new"] = 1
    desk.send("a", kafka_replyTopic=b"replies.new")
    await desk.settle()

    assert ["replies.new a", "out a", "done a"] == desk.journal


async def test_topic_that_the_next_list_does_not_have_either_is_a_dead_letter_and_the_next_one_at_once(desk: Desk) -> None:
    desk.send("a", kafka_replyTopic=b"replies.none")
    await desk.settle()
    assert ["out a", "dlq a", "done a"] == desk.journal
    assert {"reply_topic_unknown": 1.0} == desk.counted("dlq_total")

    desk.listing.clear()
    desk.send("b", kafka_replyTopic=b"replies.none")
    await desk.settle()
    assert ["out b", "dlq b", "done b"] == desk.journal[3:]

    desk.now += 31
    desk.send("c", kafka_replyTopic=b"replies.none")
    await desk.settle()
    assert 6 == len(desk.journal), "it may have been made since"


async def test_made_up_names_do_not_keep_more_than_a_few_slots(desk: Desk) -> None:
    desk.listing.clear()
    for number in range(10):
        desk.send(f"a-{number}", kafka_replyTopic=b"replies.%d" % number)
    desk.send("good")
    await desk.settle()

    assert {f"out a-{number}" for number in range(3, 10)} | {"out good"} == {
        line for line in desk.journal if line.startswith("out")
    }
    desk.listing.set()
    await desk.settle()
    assert 11 == sum(line.startswith("done") for line in desk.journal)
