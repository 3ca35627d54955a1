from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from aiokafka.errors import InvalidTopicError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gate.client import MAX_EVENT_BYTES, Arrival, ClientClosed, GateClient, Waiters, correlation_id_of, encode_attempt
from gate.errors import AskTimeout, ConfigError, InvalidEvent, KafkaUnavailable
from gate.kafka.attempts import NotTaken
from gate.metrics import ClientMetrics
from gate.model.decision import Status
from gate.model.wire import read_ask


class FakeRecord:
    topic, partition, offset, timestamp = "registration.attempts", 0, 7, 1_000_000

    def __init__(self, headers, key=b"a-1", value=b"{}"):
        self.headers, self.key, self.value = headers, key, value


class FakeSender:
    """Takes attempts and hands them to `on_send`, which may answer through the client's own `_arrive`."""

    ready = True

    def __init__(self, on_send):
        self.sent = []
        self.on_send = on_send

    async def send(self, message):
        self.sent.append(message)
        sent = asyncio.get_running_loop().create_future()
        self.on_send(message, sent)
        return sent

    async def stop(self):
        pass


def encode(**changed):
    arguments = {
        "attempt_id": "a-1",
        "correlation_id": b"c-1",
        "reply_topic": "registration.replies",
        "timeout_s": 5.0,
        "traceparent": None,
    }
    return encode_attempt({"user": {}}, **{**arguments, **changed})


def reply_to(message, **changed):
    document = {"version": 1, "attempt_id": message.key.decode(), "status": "approved", "changes": {}, "warnings": [], **changed}
    headers = [(name, value) for name, value in message.headers if name == "kafka_correlationId"]
    return FakeRecord(headers, key=message.key, value=orjson.dumps(document))


# -- Waiters ------------------------------------------------------------------------------------------------------------


def test_correlation_ids_are_all_different_and_carry_the_prefix():
    waiters = Waiters("c0ffee")
    names = [waiters.name() for _ in range(1000)]

    assert 1000 == len(set(names))
    assert all(name.startswith(b"c0ffee-") for name in names)


def test_instance_that_is_the_beginning_of_another_is_foreign_to_it():
    ours, other = Waiters("ab"), Waiters("ab1")

    assert (Arrival.FOREIGN, None) == ours.arrive(other.name(), b"x")


def test_first_reply_answers_and_the_second_does_not():
    waiters = Waiters("i")
    name = waiters.name()
    waiters.open(name, "me")

    assert (Arrival.ANSWER, "me") == waiters.arrive(name, b"approved")
    assert (Arrival.REPEAT, None) == waiters.arrive(name, b"approved")
    assert (Arrival.CONTRADICTION, None) == waiters.arrive(name, b"denied")


def test_reply_after_the_end_of_patience_is_late_once():
    waiters = Waiters("i")
    name = waiters.name()
    waiters.open(name, "me")
    waiters.close(name)

    assert (Arrival.LATE, None) == waiters.arrive(name, b"approved")
    assert (Arrival.REPEAT, None) == waiters.arrive(name, b"approved")


def test_closing_an_answered_ask_keeps_its_answer_in_mind():
    waiters = Waiters("i")
    name = waiters.name()
    waiters.open(name, "me")
    waiters.arrive(name, b"approved")
    waiters.close(name)

    assert (Arrival.REPEAT, None) == waiters.arrive(name, b"approved")


def test_memory_of_settled_asks_is_bounded():
    waiters = Waiters("i", settled_max=2)
    names = [waiters.name() for _ in range(3)]
    for name in names:
        waiters.open(name, name)
        waiters.close(name)

    assert Arrival.UNKNOWN is waiters.arrive(names[0], b"x")[0]
    assert Arrival.LATE is waiters.arrive(names[2], b"x")[0]


class WaitersMachine(RuleBasedStateMachine):
    """However asks and replies mix, each waiter is handed out at most once, to the first reply that came while it waited."""

    def __init__(self):
        super().__init__()
        self.waiters = Waiters("i")
        self.waiting, self.first = set(), {}
        self.names = []

    @rule()
    def ask(self):
        name = self.waiters.name()
        self.names.append(name)
        self.waiters.open(name, name)
        self.waiting.add(name)

    @rule(data=st.data())
    def give_up(self, data):
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            self.waiters.close(name)
            if name in self.waiting:
                self.waiting.remove(name)
                self.first[name] = None

    @rule(data=st.data(), value=st.sampled_from([b"approved", b"denied"]))
    def reply(self, data, value):
        if not self.names:
            return
        name = data.draw(st.sampled_from(self.names))
        arrival, waiter = self.waiters.arrive(name, value)
        if name in self.waiting:
            assert (Arrival.ANSWER, name) == (arrival, waiter)
            self.waiting.remove(name)
            self.first[name] = value
        elif self.first[name] is None:
            assert (Arrival.LATE, None) == (arrival, waiter)
            self.first[name] = value
        else:
            expected = Arrival.REPEAT if self.first[name] == value else Arrival.CONTRADICTION
            assert (expected, None) == (arrival, waiter)

    @rule()
    def stranger(self):
        assert (Arrival.FOREIGN, None) == self.waiters.arrive(b"other-1", b"x")

    @invariant()
    def counts_those_who_wait(self):
        assert len(self.waiting) == len(self.waiters)


TestWaitersMachine = WaitersMachine.TestCase


# -- The record of an ask -----------------------------------------------------------------------------------------------


@given(
    attempt_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=50),
    timeout_s=st.floats(min_value=0.001, max_value=120),
    correlation_id=st.binary(min_size=1, max_size=40),
)
def test_gate_reads_what_the_client_writes(attempt_id, timeout_s, correlation_id):
    message = encode(attempt_id=attempt_id, timeout_s=timeout_s, correlation_id=correlation_id, traceparent="00-ab-cd-01")
    ask = read_ask(FakeRecord(message.headers, message.key, message.value), default_timeout_ms=1, max_timeout_ms=120_000)

    assert attempt_id == ask.attempt_id
    assert attempt_id.encode() == message.key
    assert ask.named
    assert round(timeout_s * 1000) == ask.timeout_ms
    assert correlation_id == ask.correlation_id == correlation_id_of(FakeRecord([(ask.correlation_header, ask.correlation_id)]))
    assert "registration.replies" == ask.reply_topic
    assert b"00-ab-cd-01" == ask.traceparent
    assert [] == ask.warnings


@pytest.mark.parametrize("attempt_id", ["", "x" * 201])
def test_attempt_id_that_no_gate_would_take_is_refused(attempt_id):
    with pytest.raises(ValueError, match="it needs 1 to 200"):
        encode(attempt_id=attempt_id)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_time_that_is_none_is_refused(timeout_s):
    with pytest.raises(ValueError, match="timeout_s is"):
        encode(timeout_s=timeout_s)


def test_event_too_large_to_send_is_refused_without_quoting_it():
    with pytest.raises(InvalidEvent) as caught:
        encode_attempt(
            {"user": {"email": "a" * MAX_EVENT_BYTES}},
            attempt_id="a",
            correlation_id=b"c",
            reply_topic="r",
            timeout_s=1,
            traceparent=None,
        )

    assert "aaa" not in str(caught.value)


def test_event_that_is_not_json_is_a_type_error():
    with pytest.raises(TypeError):
        encode_attempt({"user": object()}, attempt_id="a", correlation_id=b"c", reply_topic="r", timeout_s=1, traceparent=None)


# -- Asking -------------------------------------------------------------------------------------------------------------


def client_with(on_send, **arguments):
    client = GateClient("localhost:1", metrics=ClientMetrics(), **arguments)
    client._sender = FakeSender(lambda message, sent: on_send(client, message, sent))
    return client


async def test_reply_that_overtakes_the_acknowledgement_is_taken():
    client = client_with(lambda client, message, sent: client._arrive(reply_to(message, user_metadata={"plan": "free"})))
    decision = await client.ask({"user": {}}, attempt_id="a-1")

    assert ("a-1", True, {"plan": "free"}, False) == (
        decision.attempt_id,
        decision.approved,
        decision.user_metadata,
        decision.assumed,
    )
    assert 0 == client.waiting


@pytest.mark.parametrize(("on_timeout", "status"), [("deny", Status.DENIED), ("approve", Status.APPROVED)])
async def test_assumed_decision_says_so(on_timeout, status):
    client = client_with(lambda client, message, sent: None, on_timeout=on_timeout)
    decision = await client.ask({}, timeout_s=0.01, attempt_id="a-1")

    assert ("a-1", status, True, None) == (decision.attempt_id, decision.status, decision.assumed, decision.denial)


async def test_lost_acknowledgement_is_sent_again_as_the_same_ask():
    def fail_once(client, message, sent):
        if 1 == len(client._sender.sent):
            sent.set_exception(ConnectionError("lost"))
        else:
            client._arrive(reply_to(message))

    client = client_with(fail_once)
    decision = await client.ask({"user": {}})
    first, second = client._sender.sent

    assert decision.approved
    assert first == second


async def test_answer_that_arrives_in_the_turn_in_which_the_time_is_over_is_the_answer():
    def answer_at_the_end(client, message, sent):
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, time.sleep, 0.05)  # then both are due: the answer, and behind it the end of the patience
        loop.call_later(0.02, lambda: client._arrive(reply_to(message)))

    client = client_with(answer_at_the_end)
    decision = await client.ask({"user": {}}, timeout_s=0.03)

    assert (True, False) == (decision.approved, decision.assumed)
    assert 0 == client._metrics.ask_timeouts_total.value
    assert 1 == client._metrics.ask_duration_seconds.labels(outcome="approved").count


async def test_answer_that_arrives_just_after_the_time_is_over_is_a_late_one():
    def answer_too_late(client, message, sent):
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, time.sleep, 0.05)
        loop.call_later(0.04, lambda: client._arrive(reply_to(message)))

    client = client_with(answer_too_late)
    with pytest.raises(AskTimeout):
        await client.ask({"user": {}}, timeout_s=0.03)

    assert 1 == client._metrics.late_replies_total.value


class Refused(InvalidTopicError):
    """The brokers say no."""


async def test_attempt_in_doubt_that_is_refused_afterwards_is_unknown_and_its_answer_is_waited_for():
    def lose_then_refuse(client, message, sent):
        first = 1 == len(client._sender.sent)
        sent.set_exception(ConnectionError("lost") if first else Refused())
        if not first:
            asyncio.get_running_loop().call_later(0.02, lambda: client._arrive(reply_to(message)))

    assert (await client_with(lose_then_refuse).ask({"user": {}})).approved


async def test_attempt_in_doubt_that_is_refused_and_not_answered_is_a_timeout():
    def lose_then_refuse(client, message, sent):
        sent.set_exception(ConnectionError("lost") if 1 == len(client._sender.sent) else Refused())

    with pytest.raises(AskTimeout):
        await client_with(lose_then_refuse).ask({"user": {}}, timeout_s=0.05)


async def test_attempt_that_is_refused_at_once_says_so():
    with pytest.raises(KafkaUnavailable, match="refuses attempts"):
        await client_with(lambda client, message, sent: sent.set_exception(Refused())).ask({"user": {}})


async def test_answer_to_an_attempt_in_doubt_is_taken_while_the_second_one_waits_for_a_connection():
    def lose(client, message, sent):
        sent.set_exception(ConnectionError("lost"))
        client._sender.send = never
        asyncio.get_running_loop().call_later(0.02, lambda: client._arrive(reply_to(message)))

    async def never(message):
        await asyncio.sleep(60)

    assert (await client_with(lose).ask({"user": {}})).approved


async def test_asks_in_every_stage_end_when_the_client_is_closed(eventually):
    gone = asyncio.Event()

    def some_are_lost(client, message, sent):
        if 0 == len(client._sender.sent) % 2:
            sent.set_exception(ConnectionError("lost"))

    async def until_closed(message):
        await gone.wait()
        raise NotTaken(ConnectionError("stopped"))

    client = client_with(some_are_lost)
    asks = [asyncio.create_task(client.ask({"user": {}}, timeout_s=30)) for _ in range(10)]
    await eventually(lambda: len(client._sender.sent) >= 10)
    client._sender.send = until_closed
    asks += [asyncio.create_task(client.ask({"user": {}}, timeout_s=30)) for _ in range(10)]
    await asyncio.sleep(0)
    client._sender.stop = lambda: asyncio.sleep(0, gone.set())
    await client.close()

    ended = await asyncio.gather(*asks, return_exceptions=True)
    assert {ClientClosed} == {type(error) for error in ended}
    assert 0 == client.waiting


async def test_reply_that_cannot_be_read_fails_the_ask_at_once():
    def garble(client, message, sent):
        record = reply_to(message)
        record.value = b"not json"
        client._arrive(record)

    with pytest.raises(Exception, match="the reply cannot be read"):
        await client_with(garble).ask({})


async def test_ask_before_the_client_is_open_says_how_to_open_it():
    with pytest.raises(ClientClosed, match="async with GateClient"):
        await GateClient("localhost:1").ask({})


def test_unknown_policy_and_unknown_setting_are_named():
    with pytest.raises(ValueError, match="raise, deny, approve"):
        GateClient("localhost:1", on_timeout="maybe")
    with pytest.raises(ConfigError, match="sasl_user"):
        GateClient("localhost:1", sasl_user="x")
