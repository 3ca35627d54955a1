"""What becomes of a dead letter: every case, on topics in memory."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.partitioner import partition_of
from gate.ledger.ports import Appended, LogForbidden, LogRejected, LogUnavailable
from gate.model.dead_letter import iso
from gate.model.decision import SCOPES, Cause
from gate.model.wire import LedgerHeaders, PlainRecord, encode_dead_letter, encode_ledger
from gate.tools import redriver as redriving
from gate.tools.decided import LOOK_BACK_MS, Decided
from gate.tools.dlq import found_in
from gate.tools.redrive import Deed, Planner
from gate.tools.redriver import Redriver
from gate.worker.deciding import AttemptReader

EVENT = {
    "connection": {"strategy": "auth0"},
    "request": {"language": "en"},
    "user": {"email": "zoe@example.com", "user_metadata": {"old": 1}},
}
VALUE = json.dumps(EVENT).encode()
OTHER = json.dumps({**EVENT, "user": {"email": "eve@example.com"}}).encode()

SETTINGS = Settings(attempts_topic="attempts", decisions_topic="decisions", dlq_topic="dlq", replies_topic="replies")
PARTITIONS = {"attempts": 2, "decisions": 2, "dlq": 1, "replies": 3, "registration.replies": 3}
HOUR = 3_600_000
NOW = 1_800_000_000_000
LONG_AGO = NOW - 10 * HOUR


class Topics:
    """Topics in memory, read as `TopicReader` reads them."""

    def __init__(self):
        self.records = {}
        self.starts = {}
        self.read = []  # of (topic, offset)

    def put(self, topic, partition, message, timestamp):
        records = self.records.setdefault((topic, partition), [])
        offset = self.starts.get((topic, partition), 0) + len(records)
        record = PlainRecord(
            topic=topic, partition=partition, offset=offset, timestamp=timestamp,
            key=message.key, value=message.value, headers=list(message.headers),
        )  # fmt: skip
        records.append(record)
        return record

    async def bounds(self, topic, partition):
        start = self.starts.get((topic, partition), 0)
        return start, start + len(self.records.get((topic, partition), ()))

    async def offset_at(self, topic, partition, timestamp_ms):
        found = (record.offset for record in self.records.get((topic, partition), ()) if record.timestamp >= timestamp_ms)
        return next(found, (await self.bounds(topic, partition))[1])

    async def records_at(self, topic, partition, offsets):
        return {record.offset: record for record in self.records.get((topic, partition), ()) if record.offset in offsets}

    async def scan(self, topic, partition, start, end):
        for record in self.records.get((topic, partition), ()):
            if start <= record.offset < end:
                self.read.append((topic, record.offset))
                yield record


class Producer:
    def __init__(self, *errors):
        self.errors = list(errors)
        self.sent = []

    async def send(self, topic, partition, batch):
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((topic, partition, *batch))
        return Appended(0, 0)


class World:
    """A gate whose attempts were decided and buried, and what a redrive makes of that."""

    def __init__(self, **settings):
        self.settings = SETTINGS.model_copy(update=settings)
        self.topics = Topics()
        self.partitions = dict(PARTITIONS)
        self.letters = []
        self.producer = Producer()

    def attempt(self, attempt_id="a", *, value=VALUE, at=LONG_AGO, headers=(), partition=0, key=b"a"):
        named = [] if attempt_id is None else [("gate-attempt-id", attempt_id.encode())]
        record = SimpleNamespace(key=key, value=value, headers=[*headers, *named])
        return self.topics.put("attempts", partition, record, at)

    def decide(self, record, *, cause=None, at=None, readable=True, value=None):
        """Append the decision on an attempt; `cause` None approves."""
        flight, _ = AttemptReader(self.settings if readable else self.settings.model_copy(update={"max_event_bytes": 1})).read(
            record
        )
        document = {"version": 1, "attempt_id": flight.attempt_id, "status": "denied" if cause else "approved"}
        if cause is None:
            document["changes"] = {"user_metadata": {"by": record.offset}}
        else:
            document["denial"] = {"cause": cause.value, "reason": "r"}
        document |= {"warnings": [], "chain": "sha256:1", "decided_at": f"at-{record.offset}", "source": flight.source}
        headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, record.timestamp, SCOPES[cause])
        message = encode_ledger(headers, value or json.dumps(document).encode())
        return self.topics.put("decisions", record.partition, message, (at or record.timestamp) + 5)

    def bury(self, record, reason="reply_topic_unknown", *, after_ms=10, max_bytes=10_000, gone=False):
        letter = encode_dead_letter(record, reason=reason, at=iso(record.timestamp + after_ms), max_bytes=max_bytes)
        self.letters.append(self.topics.put("dlq", 0, letter, record.timestamp + after_ms))
        if gone:
            self.topics.records["attempts", record.partition] = []

    async def outcomes(self, *, decide_again=False, dry_run=False, limit=None):
        async def letters():
            for record in self.letters:
                yield found_in(record, self.settings)

        redriver = Redriver(
            self.settings,
            "127.0.0.1:1",
            decided=Decided(self.settings, self.topics, self.partitions),
            planner=Planner(
                self.settings, self.partitions, decide_again=decide_again, now_ms=lambda: NOW, new_id=lambda: "new-id"
            ),
            producer=None if dry_run else self.producer,
            decide_again=decide_again,
        )
        return [outcome async for outcome in redriver.redrive(letters())]

    async def outcome(self, **options):
        (outcome,) = await self.outcomes(**options)
        return outcome


@pytest.fixture
def world():
    return World()


# -- The decision that stands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True])
async def test_the_first_decision_of_the_id_is_sent_however_long_ago_it_was(world: World, gone: bool) -> None:
    record = world.attempt(headers=[("kafka_correlationId", b"\x00c"), ("kafka_replyPartition", b"\0\0\0\2")])
    world.decide(record)
    world.decide(record, cause=Cause.ACCESS_DENIED)  # a zombie's, which lost
    world.bury(record, gone=gone)

    outcome = await world.outcome()

    assert (Deed.SENT, "approved", None) == (outcome.deed, outcome.status, outcome.cause)
    ((topic, partition, reply),) = world.producer.sent
    assert ("replies", 2, b"a") == (topic, partition, reply.key)
    assert [("kafka_correlationId", b"\x00c"), ("gate-attempt-id", b"a")] == reply.headers[:2]
    assert {"old": 1, "by": 0} == json.loads(reply.value)["user_metadata"]


async def test_a_decision_that_another_ask_of_the_id_got_within_the_window_is_sent(world: World) -> None:
    first, second = world.attempt(), world.attempt(at=LONG_AGO + 60_000)
    world.decide(first)
    world.bury(second)

    outcome = await world.outcome()

    assert (Deed.SENT, "at-0") == (outcome.deed, json.loads(world.producer.sent[0][2].value)["decided_at"])


async def test_an_ask_with_other_content_gets_the_conflict_that_it_got(world: World) -> None:
    first, second = world.attempt(), world.attempt(at=LONG_AGO + 60_000, value=OTHER)
    world.decide(first)
    world.bury(second)

    assert "conflict" == (await world.outcome()).cause


async def test_a_decision_from_before_the_window_of_the_ask_is_not_its(world: World) -> None:
    before, record = world.attempt(at=LONG_AGO - HOUR), world.attempt()
    world.decide(before)
    world.decide(record, cause=Cause.ACCESS_DENIED)
    world.bury(record)

    assert "access_denied" == (await world.outcome()).cause


async def test_of_several_decisions_none_is_sent_where_nothing_says_which_one_the_ask_got(world: World) -> None:
    for at in (LONG_AGO - HOUR, LONG_AGO):
        world.decide(world.attempt(at=at))
    world.bury(world.attempt(at=LONG_AGO + 1000), gone=True)

    outcome = await world.outcome()

    assert Deed.LEFT is outcome.deed
    assert "decided already" in outcome.why
    assert [] == world.producer.sent


async def test_a_lower_limit_of_today_does_not_change_what_was_read_then() -> None:
    world = World(max_event_bytes=10_000)
    record = world.attempt()
    world.decide(record)
    world.bury(record)
    world.settings = world.settings.model_copy(update={"max_event_bytes": 5})

    await world.outcome()

    assert {"old": 1, "by": 0} == json.loads(world.producer.sent[0][2].value)["user_metadata"]


async def test_no_more_of_the_ledger_is_read_than_the_letter_needs(world: World) -> None:
    for number in range(50):
        world.decide(world.attempt(f"before-{number}", at=LONG_AGO - HOUR))
    record = world.attempt()
    world.decide(record)
    for number in range(50):
        world.decide(world.attempt(f"after-{number}", at=LONG_AGO + 1000))
    world.bury(record)

    assert Deed.SENT is (await world.outcome()).deed
    assert [("decisions", 50), ("decisions", 0)] == [read for read in world.topics.read if read[0] == "decisions"]


async def test_a_ledger_that_has_forgotten_decides_nothing(world: World) -> None:
    for reason in ("reply_topic_unknown", "invalid_attempt"):
        world.bury(world.attempt(), reason)
    world.topics.starts["decisions", 0] = 77
    world.decide(world.attempt("later", at=LONG_AGO + 1000))

    for outcome in await world.outcomes():
        assert Deed.LEFT is outcome.deed
        assert "the ledger does not go back to it" in outcome.why
        assert "--decide-again" in outcome.why


async def test_a_ledger_that_is_cut_before_the_window_of_the_ask_has_its_decision(world: World) -> None:
    world.topics.starts["decisions", 0] = 77
    world.decide(world.attempt("before", at=LONG_AGO - HOUR))
    record = world.attempt()
    world.decide(record)
    world.bury(record)

    assert Deed.SENT is (await world.outcome()).deed


async def test_where_nothing_says_when_the_attempt_came_the_ledger_must_go_back_a_day(world: World) -> None:
    world.topics.starts["decisions", 0] = 77
    world.decide(world.attempt("before", at=LONG_AGO - HOUR))
    world.bury(world.attempt("x", at=LONG_AGO), gone=True)

    assert "does not go back" in (await world.outcome()).why
    world.topics.records["decisions", 0][0].timestamp = LONG_AGO - LOOK_BACK_MS - HOUR
    assert Deed.ASKED is (await world.outcome()).deed


@pytest.mark.parametrize("value", [b"\xff", b"[]", b"{}", b'{"status": "approved", "attempt_id": "a"}', b'{"status": "?"}'])
async def test_a_ledger_record_that_nobody_can_read_is_told_as_the_worker_tells_it(world: World, value: bytes) -> None:
    record = world.attempt()
    world.decide(record, value=value)
    world.bury(record)

    outcome = await world.outcome()

    assert (Deed.SENT, "action_failed") == (outcome.deed, outcome.cause)


# -- Asked again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.EXPIRED, Cause.OVERLOADED])
async def test_what_binds_one_ask_only_is_asked_again_as_it_was(world: World, cause: Cause) -> None:
    marks = [("gate-dlq-reason", b"of somebody's own"), ("gate-timeout-ms", b"7000"), ("kafka_correlationId", b"c")]
    record = world.attempt(headers=marks, partition=1, key=b"other key")
    world.decide(record, cause=cause)
    world.bury(record)

    outcome = await world.outcome()

    assert (Deed.ASKED, None) == (outcome.deed, outcome.new_attempt_id)
    ((topic, partition, message),) = world.producer.sent
    assert ("attempts", 1, b"other key", VALUE) == (topic, partition, message.key, message.value)
    assert [*marks[1:], ("gate-attempt-id", b"a")] == message.headers


@pytest.mark.parametrize(
    ("headers", "attempt_id"),
    [
        ([], b"attempts-0-0"),
        ([("kafka_correlationId", bytes(16))], b"00000000-0000-0000-0000-000000000000"),
        ([("gate-attempt-id", b"\xff"), ("REPLY_CORRELATION_ID", b"abc")], b"abc"),
    ],
)
async def test_an_id_that_was_derived_is_named_when_it_is_asked_for_again(world: World, headers, attempt_id) -> None:
    record = world.attempt(None, headers=headers)
    world.decide(record, cause=Cause.EXPIRED)
    world.bury(record)

    await world.outcome()

    message = world.producer.sent[0][2]
    assert [attempt_id] == [value for name, value in message.headers if name == "gate-attempt-id"]


async def test_an_attempt_that_can_be_read_by_now_is_asked_again_and_one_that_cannot_is_left(world: World) -> None:
    large, broken = world.attempt("large"), world.attempt("broken", value=b"{")
    shapeless = world.attempt("shapeless", value=b'{"connection": 1}')
    for record in (large, broken, shapeless):
        world.decide(record, cause=Cause.INVALID_ATTEMPT, readable=False)
        world.bury(record, "invalid_attempt")

    asked, *still = await world.outcomes()

    assert Deed.ASKED is asked.deed
    assert [Deed.LEFT, Deed.LEFT] == [outcome.deed for outcome in still]
    assert still[0].why.startswith("it would be invalid_attempt again, $: not JSON")
    assert "mend the asker" in still[1].why
    assert 1 == len(world.producer.sent)


@pytest.mark.parametrize("when", [LONG_AGO - HOUR, LONG_AGO, LONG_AGO + HOUR, NOW - 61_000])
async def test_an_id_that_another_ask_had_decided_is_never_asked_for_again_outside_the_window(world: World, when: int) -> None:
    record, other = world.attempt(), world.attempt(at=when)
    for each in sorted((record, other), key=lambda each: each.timestamp):
        if each is record:
            world.decide(record, cause=Cause.INVALID_ATTEMPT, readable=False)
        else:
            world.decide(other)
    world.bury(record, "invalid_attempt")

    outcome = await world.outcome()

    assert Deed.LEFT is outcome.deed
    assert outcome.why.startswith("its id was decided already, approved at at-1 for another attempt; --decide-again")


async def test_an_id_that_was_decided_a_moment_ago_is_asked_for_and_the_worker_sends_that_decision(world: World) -> None:
    record = world.attempt()
    world.decide(record, cause=Cause.EXPIRED)
    world.decide(world.attempt(at=NOW - 50_000))
    world.bury(record)

    assert Deed.ASKED is (await world.outcome()).deed


async def test_an_id_that_is_too_long_to_be_named_is_not_asked_for_under_another(world: World) -> None:
    topic = "t" * 249
    world.settings = world.settings.model_copy(update={"attempts_topic": topic})
    world.partitions[topic] = 2
    record = PlainRecord(topic=topic, partition=0, offset=0, timestamp=LONG_AGO, key=None, value=VALUE, headers=[])
    world.bury(record)

    assert "too long to be asked for" in (await world.outcome()).why


async def test_a_partition_that_is_gone_is_not_asked_in(world: World) -> None:
    record = world.attempt(partition=1)
    world.decide(record, cause=Cause.EXPIRED)
    world.bury(record)
    world.partitions["attempts"] = 1

    assert "attempts has no partition 1 any more" in (await world.outcome()).why


# -- Decided again ------------------------------------------------------------------------------------------------------


async def test_decide_again_asks_as_another_attempt_whatever_was_decided(world: World) -> None:
    named = [("kafka_correlationId", b"c"), ("kafka_replyTopic", b"registration.replies"), ("gate-timeout-ms", b"9")]
    record = world.attempt(headers=named)
    world.decide(record)
    world.bury(record)

    outcome = await world.outcome(decide_again=True)

    assert (Deed.ASKED_ANEW, "a", "new-id") == (outcome.deed, outcome.found.attempt_id, outcome.new_attempt_id)
    ((topic, partition, message),) = world.producer.sent
    assert ("attempts", partition_of(b"new-id", 2), b"new-id", VALUE) == (topic, partition, message.key, message.value)
    assert [*named, ("gate-attempt-id", b"new-id")] == message.headers


async def test_two_letters_of_one_attempt_are_one_redrive(world: World) -> None:
    record = world.attempt()
    world.bury(record)
    world.bury(record)

    assert [Deed.ASKED_ANEW, Deed.REPEATED] == [outcome.deed for outcome in await world.outcomes(decide_again=True)]
    assert 1 == len(world.producer.sent)


# -- Left as it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decide_again", [False, True])
@pytest.mark.parametrize(
    ("headers", "reason", "why"),
    [
        ([("kafka_replyTopic", b"other")], "reply_topic_not_allowed", "reply_topic_not_allowed (other): add the topic to"),
        ([("kafka_replyTopic", b"decisions")], "reply_topic_not_allowed", "reply_topic_not_allowed (decisions)"),
        ([("kafka_replyTopic", b"registration.replies.x")], "reply_topic_unknown", "(registration.replies.x): make the topic"),
        ([("kafka_replyTopic", b"\xff")], "reply_topic_illegal", "reply_topic_illegal: mend the asker's header"),
        ([("kafka_replyPartition", b"1")], "reply_partition_invalid", "a reply partition that cannot be: mend the asker's"),
    ],
)  # fmt: skip
async def test_what_is_not_mended_is_left_and_says_so(world: World, headers, reason, why, decide_again) -> None:
    record = world.attempt(headers=headers)
    world.decide(record)
    world.bury(record, reason)

    outcome = await world.outcome(decide_again=decide_again)

    assert Deed.LEFT is outcome.deed
    assert why in outcome.why
    assert [] == world.producer.sent


async def test_a_value_that_was_not_kept_is_taken_from_the_attempts_while_they_have_it(world: World) -> None:
    record = world.attempt()
    world.decide(record, cause=Cause.INVALID_ATTEMPT, readable=False)
    world.bury(record, "invalid_attempt", max_bytes=5)

    assert Deed.ASKED is (await world.outcome()).deed
    assert VALUE == world.producer.sent[0][2].value
    world.topics.records["attempts", 0] = []
    why = (await world.outcome()).why
    assert f"its value of {len(VALUE)} bytes was too large to keep, and attempts does not have it any more" in why
    assert "only the asker can ask again" in (await world.outcome(decide_again=True)).why


async def test_records_of_others_and_of_other_gates_are_left(world: World) -> None:
    world.letters.append(world.topics.put("dlq", 0, SimpleNamespace(key=b"k", value=b"v", headers=[]), NOW))
    record = PlainRecord(topic="their.attempts", partition=0, offset=0, timestamp=1, key=None, value=VALUE, headers=[])
    world.bury(record)
    world.bury(PlainRecord(topic="attempts", partition=-1, offset=-5, timestamp=1, key=None, value=VALUE, headers=[]))

    strange, theirs, negative = await world.outcomes()

    assert "it is not a dead letter of the gate" == strange.why
    assert "it is of their.attempts, and GATE_ATTEMPTS_TOPIC is attempts" in theirs.why
    assert Deed.LEFT is negative.deed
    assert {"place": "0:0", "deed": "left", "why": strange.why} == strange.to_json()


# -- Carried out --------------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_the_same_and_sends_nothing(world: World) -> None:
    record = world.attempt()
    world.decide(record)
    world.bury(record)

    said = await world.outcome(dry_run=True)

    assert [] == world.producer.sent
    assert said == await world.outcome()
    assert {
        "place": "0:0", "attempt_id": "a", "reason": "reply_topic_unknown", "source": "attempts-0-0", "deed": "decision_sent",
        "topic": "replies", "partition": partition_of(b"a", 3), "status": "approved",
    } == said.to_json()  # fmt: skip


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (LogRejected("large"), "it is larger than replies takes: raise max.message.bytes of the topic"),
        (LogForbidden("no"), "Kafka does not let us write to replies: grant WRITE on the topic"),
    ],
)
async def test_what_the_broker_refuses_is_left_and_the_next_one_goes_on(world: World, error: Exception, why: str) -> None:
    for attempt_id in ("a", "b"):
        record = world.attempt(attempt_id)
        world.decide(record)
        world.bury(record)
    world.producer.errors = [error]

    first, second = await world.outcomes()

    assert (Deed.LEFT, why) == (first.deed, first.why)
    assert Deed.SENT is second.deed


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redriving, "RETRIES_S", (0.0, 0.0))


@pytest.mark.usefixtures("no_waits")
async def test_what_is_not_acknowledged_is_sent_again_and_told_if_that_helps_nothing(world: World, monkeypatch) -> None:
    record = world.attempt()
    world.decide(record)
    world.bury(record)
    world.producer.errors = [LogUnavailable("NotLeader")] * 2

    assert Deed.SENT is (await world.outcome()).deed

    async def answers(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(redriving, "wait_for_kafka", answers)
    world.producer.errors = [LogUnavailable("NotLeader")] * 3
    outcome = await world.outcome()
    assert Deed.LEFT is outcome.deed
    assert "did not acknowledge it (NotLeader), so it may have arrived or not" in outcome.why


@pytest.mark.usefixtures("no_waits")
async def test_a_kafka_that_went_away_ends_the_redrive() -> None:
    world = World(connect_timeout_s=0.01)
    world.bury(world.attempt())
    world.producer.errors = [LogUnavailable("gone")] * 3

    with pytest.raises(KafkaUnavailable):
        await world.outcome()


async def test_many_letters_are_taken_by_the_handful(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redriving, "HANDFUL", 3)
    for number in range(8):
        record = world.attempt(f"id-{number}", partition=number % 2)
        world.decide(record, cause=Cause.EXPIRED if number % 3 == 0 else None)
        world.bury(record)

    outcomes = await world.outcomes()

    assert [f"id-{number}" for number in range(8)] == [outcome.found.attempt_id for outcome in outcomes]
    assert [number % 3 == 0 for number in range(8)] == [outcome.deed is Deed.ASKED for outcome in outcomes]
