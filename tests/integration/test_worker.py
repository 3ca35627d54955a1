"""The worker on real Kafka: what is asked is answered as DESIGN.md section 2 says, and an offset is committed only after that."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings
from gate.kafka.partitioner import partition_of
from gate.model.decision import Cause, fixed_denial
from gate.worker.worker import Worker

from .peers import Asker, alter_topic, body, event, header, int32, lag, read_all, runs_of, serving

pytestmark = pytest.mark.kafka


def nothing_in_flight(worker: Worker) -> bool:
    """Whether every attempt is through, its dead letter included."""
    assert worker._intake is not None
    return not any(partition.flying for partition in worker._intake.partitions.values())


# -- Decisions ----------------------------------------------------------------------------------------------------------


async def test_each_outcome_reaches_its_asker_and_the_ledger(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics) as worker:
        for mailbox in ("zoe", "denied", "failing", "wait0.05"):
            await asker.submit(f"id-{mailbox}", event(f"{mailbox}@example.com"))
        await eventually(lambda: len(asker.replies) == 4)
        await eventually(lambda: worker.in_flight == 0)

    replies = {body(record)["attempt_id"]: body(record) for record in asker.replies}
    assert "approved" == replies["id-zoe"]["status"] == replies["id-wait0.05"]["status"]
    assert {"old": 1, "screen_name": "zoe"} == replies["id-zoe"]["user_metadata"]
    assert {"user_metadata": {"screen_name": "zoe"}} == replies["id-zoe"]["changes"]
    assert {
        "cause": "access_denied",
        "reason": "no_such_person",
        "user_message": "You are not allowed to register.",
        "action": "by-mailbox",
        "errors": [],
    } == replies["id-denied"]["denial"]
    assert fixed_denial(Cause.ACTION_FAILED, action="by-mailbox").to_json() == replies["id-failing"]["denial"]
    assert not any(b"hunter2" in (record.value or b"") for record in asker.replies)
    ledger = {record.key.decode(): json.loads(record.value) for record in await read_all(topics, topics.decisions_topic)}
    for attempt_id, reply in replies.items():
        shared = {name: value for name, value in reply.items() if name not in {"user_metadata", "app_metadata"}}
        assert shared == {name: ledger[attempt_id][name] for name in shared}
        assert {"source", "worker", "received_at", "queue_ms", "trace"} == ledger[attempt_id].keys() - shared.keys()
    assert "RuntimeError" == ledger["id-failing"]["trace"][0]["error"]
    assert {0: 0, 1: 0, 2: 0, 3: 0} == await lag(topics)
    assert [] == await read_all(topics, topics.dlq_topic)


async def test_decision_stands_in_the_partition_of_its_attempt(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics):
        for partition in range(4):
            await asker.send(event(), headers={"gate-attempt-id": b"%d" % partition}, partition=partition)
        await eventually(lambda: len(asker.replies) == 4)

    ledger = await read_all(topics, topics.decisions_topic)
    assert {b"0": 0, b"1": 1, b"2": 2, b"3": 3} == {record.key: record.partition for record in ledger}
    assert [f"{topics.attempts_topic}-{number}-0".encode() for number in range(4)] == [header(r, "source") for r in ledger]


async def test_asked_again_the_same_decision_comes_under_the_new_correlation_id(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    async with serving(topics):
        await asker.submit("again", event("size10@example.com"), kafka_correlationId=b"first")
        await eventually(lambda: len(asker.replies) == 1)
        await asker.submit("again", event("size10@example.com"), kafka_correlationId=b"second")
        await eventually(lambda: len(asker.replies) == 2)
    async with serving(topics):  # another worker reads the ledger back
        await asker.submit("again", event("size10@example.com"), kafka_correlationId=b"third")
        await eventually(lambda: len(asker.replies) == 3)

    assert [b"first", b"second", b"third"] == [header(record, "kafka_correlationId") for record in asker.replies]
    assert 1 == len({record.value for record in asker.replies})
    assert {"again": 1} == runs_of(runs)
    assert 1 == len(await read_all(topics, topics.decisions_topic))
    assert 0 == sum((await lag(topics)).values())


async def test_same_id_in_flight_is_decided_once_and_answers_everybody(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    async with serving(topics):
        for number in range(5):
            await asker.submit("twin", event("wait0.3@example.com"), kafka_correlationId=b"%d" % number)
        await eventually(lambda: len(asker.replies) == 5)

    assert {b"0", b"1", b"2", b"3", b"4"} == {header(record, "kafka_correlationId") for record in asker.replies}
    assert 1 == len({record.value for record in asker.replies})
    assert {"twin": 1} == runs_of(runs)


async def test_same_id_with_other_content_is_a_conflict_that_waits_for_the_first_and_is_never_written(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    async with serving(topics):
        await asker.submit("one", event("wait0.3@example.com"))
        await asker.submit("one", event("zoe@example.com"))
        await eventually(lambda: len(asker.replies) == 2)
        await asker.submit("one", event("denied@example.com"))
        await asker.submit("one", event("wait0.3@example.com", user_metadata={"old": 1}))
        await eventually(lambda: len(asker.replies) == 4)

    approved, *others = (body(record) for record in sorted(asker.replies, key=lambda record: b"conflict" in record.value))
    assert ["approved", "approved", "conflict", "conflict"] == [
        approved["status"],
        *(other["denial"]["cause"] if "denial" in other else other["status"] for other in others),
    ]
    assert {approved["decided_at"]} == {other["decided_at"] for other in others}
    assert "changes" not in others[-1]
    assert 1 == len(await read_all(topics, topics.decisions_topic))


async def test_other_key_order_and_other_address_are_no_conflict(asker: Asker, topics: Settings, eventually: Any) -> None:
    document = json.loads(event())
    moved = {name: document[name] for name in reversed(document)}
    moved["request"] = {**document["request"], "ip": "198.51.100.7", "geoip": {"continentCode": "SA"}, "user_agent": "other"}
    async with serving(topics):
        await asker.submit("same", event())
        await asker.submit("same", json.dumps(moved, indent=3).encode())
        await eventually(lambda: len(asker.replies) == 2)

    assert ["approved", "approved"] == [body(record)["status"] for record in asker.replies]


async def test_attempt_that_waited_longer_than_its_patience_is_denied_without_running_and_may_be_asked_again(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    await asker.submit("late", event(), gate__timeout__ms=b"1")
    await eventually(lambda: True)
    async with serving(topics):
        await eventually(lambda: len(asker.replies) == 1)
        await asker.submit("late", event(), gate__timeout__ms=b"5000")
        await eventually(lambda: len(asker.replies) == 2)

    assert fixed_denial(Cause.EXPIRED).to_json() == body(asker.replies[0])["denial"]
    assert "approved" == body(asker.replies[1])["status"]
    assert {"late": 1} == runs_of(runs)
    ledger = await read_all(topics, topics.decisions_topic)
    assert [b"ask", b"id"] == [header(record, "scope") for record in ledger]


async def test_chain_cut_by_the_askers_patience_is_expired_and_answered_in_time(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    async with serving(topics):
        await asker.submit("short", event("wait9@example.com"), gate__timeout__ms=b"400")
        await eventually(lambda: len(asker.replies) == 1, within_s=5)

    reply = asker.replies[0]
    assert "expired" == body(reply)["denial"]["cause"]
    assert "wait" == body(reply)["denial"]["action"]


async def test_attempt_that_queued_too_long_is_denied_overloaded(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    await asker.submit("queued", event())
    async with serving(topics.model_copy(update={"max_queue_ms": 1})):
        await eventually(lambda: len(asker.replies) == 1)

    assert fixed_denial(Cause.OVERLOADED).to_json() == body(asker.replies[0])["denial"]
    assert {} == runs_of(runs)


async def test_queue_that_is_too_old_drains_at_the_speed_of_replies(
    asker: Asker, topics: Settings, eventually: Any, runs: Path
) -> None:
    waiting = [f"old-{number}" for number in range(400)]  # to run them would take 400 x 2 s / 10 = 80 s
    await asyncio.gather(*(asker.submit(attempt_id, event("wait2@example.com")) for attempt_id in waiting))
    async with serving(topics.model_copy(update={"max_queue_ms": 300, "max_in_flight": 10})) as worker:
        await eventually(lambda: len(asker.replies) == len(waiting), within_s=40)
        await asker.submit("fresh", event())
        await eventually(lambda: asker.to("fresh"))
        assert {"overloaded": 400} == {
            labels[1]: child.value for labels, child in worker._recorder.metrics.decisions_total.children.items() if labels[1]
        }

    assert {"fresh"} == set(runs_of(runs))
    assert "approved" == body(asker.to("fresh")[0])["status"]


async def test_slow_action_delays_no_other_attempt_of_its_partition(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics) as worker:
        await asker.send(event("wait2@example.com"), headers={"gate-attempt-id": b"slow"}, partition=1)
        await eventually(lambda: worker.in_flight == 1)
        for number in range(100):
            await asker.send(event(), headers={"gate-attempt-id": b"quick-%d" % number}, partition=1)
        await eventually(lambda: len(asker.replies) == 100, within_s=2)

        assert [] == asker.to("slow")
        held = (await lag(topics))[1]
        assert 101 == held  # the oldest attempt is not through, so nothing may be committed
        await eventually(lambda: asker.to("slow"), within_s=5)

    assert 0 == sum((await lag(topics)).values())


async def test_decision_too_large_for_the_ledger_becomes_action_failed(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics):
        await asker.submit("huge", event("size2000000@example.com"))
        for number in range(20):
            await asker.submit(f"beside-{number}", event())
        await eventually(lambda: len(asker.replies) == 21)

    assert fixed_denial(Cause.ACTION_FAILED, action="by-mailbox").to_json() == body(asker.to("huge")[0])["denial"]
    assert {"approved"} == {body(record)["status"] for record in asker.replies if asker.to("huge")[0] != record}
    assert 0 == sum((await lag(topics)).values())


async def test_decisions_near_the_ledgers_limit_stand_and_those_above_it_fail_with_their_trace_and_time(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    limit = 50_000
    await alter_topic(topics, topics.decisions_topic, {"max.message.bytes": str(limit)})
    async with serving(topics):
        for size in (limit - 2000, limit - 1500, limit + 1, 2 * limit):
            await asker.submit(f"size-{size}", event(f"size{size}@example.com"))
        await eventually(lambda: len(asker.replies) == 4)

    causes = {size: body(asker.to(f"size-{size}")[0])["denial"]["cause"] for size in (limit - 2000, limit + 1, 2 * limit)}
    assert {limit - 2000: "access_denied", limit + 1: "action_failed", 2 * limit: "action_failed"} == causes
    for record in await read_all(topics, topics.decisions_topic):
        decision = body(record)
        assert body(asker.to(decision["attempt_id"])[0])["decided_at"] == decision["decided_at"]
        assert [("by-mailbox", "wait")] == [tuple(entry["name"] for entry in decision["trace"])]
    assert 0 == sum((await lag(topics)).values())


async def test_reply_too_large_for_its_topic_is_dead_lettered_and_the_decision_stands(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    await alter_topic(topics, topics.replies_topic, {"max.message.bytes": "100000"})
    async with serving(topics) as worker:
        await asker.submit("big", event("size700000@example.com"))
        await asker.submit("small", event())
        await eventually(lambda: asker.to("small"))
        await eventually(lambda: worker.in_flight == 0)

    assert [] == asker.to("big")
    (letter,) = await read_all(topics, topics.dlq_topic)
    assert b"reply_rejected" == header(letter, "gate-dlq-reason")
    assert {b"big", b"small"} == {record.key for record in await read_all(topics, topics.decisions_topic)}
    assert 0 == sum((await lag(topics)).values())


async def test_mode_at_least_once_answers_and_still_writes_the_ledger(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics.model_copy(update={"mode": "at_least_once"})):
        for number in range(200):
            await asker.submit(f"n-{number}", event("denied@example.com" if number % 2 else "zoe@example.com"))
        await eventually(lambda: len(asker.replies) == 200)

    assert {"approved": 100, "denied": 100} == Counter(body(record)["status"] for record in asker.replies)
    assert {f"n-{number}".encode() for number in range(200)} == {
        record.key for record in await read_all(topics, topics.decisions_topic)
    }
    assert 0 == sum((await lag(topics)).values())


async def test_ledger_bodies_that_are_not_kept_are_read_from_the_ledger(asker: Asker, topics: Settings, eventually: Any) -> None:
    async with serving(topics.model_copy(update={"ledger_bodies": 4})):
        for _ in range(2):
            for number in range(40):
                await asker.submit(f"n-{number}", event())
        await eventually(lambda: len(asker.replies) == 80)

    for number in range(40):
        assert 1 == len({record.value for record in asker.to(f"n-{number}")})
    assert 40 == len(await read_all(topics, topics.decisions_topic))


# -- Askers of other makes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False], ids=["16 bytes", "text"])
async def test_spring_asker_is_answered_where_and_as_it_expects(
    asker: Asker, topics: Settings, binary: bool, eventually: Any
) -> None:
    correlation = uuid.uuid4()
    correlation_id = correlation.bytes if binary else str(correlation).encode()
    async with serving(topics):
        for partition in range(4):
            await asker.send(
                event(),
                key=b"customer-7",
                headers={
                    "__TypeId__": b"com.example.SignupEvent",
                    "spring_json_header_types": b'{"x":"java.lang.String"}',
                    "kafka_replyTopic": topics.replies_topic.encode(),
                    "kafka_replyPartition": int32(partition),
                    "kafka_correlationId": correlation_id,
                },
            )
            await eventually(lambda: len(asker.replies) > partition)  # noqa: B023 - awaited at once

    assert [0, 1, 2, 3] == [record.partition for record in asker.replies]
    for record in asker.replies:
        assert correlation_id == header(record, "kafka_correlationId")
        assert str(correlation).encode() == header(record, "gate-attempt-id")
        assert b"customer-7" == record.key
        assert b"approved" == header(record, "gate-status")
        assert b"application/json" == header(record, "content-type")
        assert {"kafka_correlationId", "gate-attempt-id", "gate-status", "content-type"} == {name for name, _ in record.headers}


async def test_smallrye_asker_is_answered_under_its_own_header_names(asker: Asker, topics: Settings, eventually: Any) -> None:
    correlation_id = str(uuid.uuid4()).encode()
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(topics):
        await asker.send(
            event("denied@example.com"),
            headers={
                "REPLY_CORRELATION_ID": correlation_id,
                "REPLY_TOPIC": topics.replies_topic.encode(),
                "REPLY_PARTITION": int32(3),
                "traceparent": trace,
            },
            partition=2,
        )
        await eventually(lambda: len(asker.replies) == 1)

    (record,) = asker.replies
    assert (3, None) == (record.partition, record.key)
    assert {
        "REPLY_CORRELATION_ID": correlation_id,
        "gate-attempt-id": correlation_id,
        "gate-status": b"denied",
        "gate-cause": b"access_denied",
        "content-type": b"application/json",
        "traceparent": trace,
    } == dict(record.headers)


async def test_correlation_id_is_echoed_byte_for_byte_whatever_it_is(asker: Asker, topics: Settings, eventually: Any) -> None:
    correlation_ids = {b"\x00", b"\xff" * 16, b"\x80" * 300, "ünï".encode()}
    async with serving(topics):
        for correlation_id in correlation_ids:
            await asker.send(event(), headers={"kafka_correlationId": correlation_id})
        await eventually(lambda: len(asker.replies) == len(correlation_ids))

    assert correlation_ids == {header(record, "kafka_correlationId") for record in asker.replies}


# -- What cannot be served as asked -------------------------------------------------------------------------------------

DEEP = b'{"user":' * 500 + b"1" + b"}" * 500
UNREADABLE = {
    "bad JSON": b'{"user":',
    "not UTF-8": b"\xff\xfe",
    "not an object": b"[1]",
    "no connection": json.dumps({"request": {}, "user": {}}).encode(),
    "no request": json.dumps({"connection": {"strategy": "auth0"}, "user": {}}).encode(),
    "no user": json.dumps({"connection": {"strategy": "auth0"}, "request": {}}).encode(),
    "no strategy": json.dumps({"connection": {}, "request": {}, "user": {}}).encode(),
    "wrong type": event(user_metadata="none"),
    "over 256 KiB": event(filler="x" * (256 * 1024)),
    "nested too deeply": DEEP,
    "nested too deeply inside": json.dumps({**json.loads(event()), "authentication": json.loads(DEEP)}).encode(),
    "empty": b"",
    "null": None,
}


async def test_unreadable_events_are_denied_dead_lettered_and_stop_nothing(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    async with serving(topics) as worker:
        for name, value in UNREADABLE.items():
            headers = {"gate-attempt-id": name.encode(), "kafka_correlationId": f"c {name}".encode(), "own": b"kept"}
            await asker.send(value, headers=headers, partition=1)
        await asker.send(None, partition=1)  # nothing at all: no key, no value, no header
        await asker.send(event(), headers={"gate-attempt-id": b"good"}, partition=1)
        await eventually(lambda: len(asker.replies) == len(UNREADABLE) + 2)
        await eventually(lambda: nothing_in_flight(worker))

    assert "approved" == body(asker.to("good")[0])["status"]
    for name in UNREADABLE:
        (reply,) = asker.to(name)
        assert fixed_denial(Cause.INVALID_ATTEMPT).to_json() == body(reply)["denial"], name
        assert ["invalid_attempt"] == [entry["code"] for entry in body(reply)["warnings"]]
        assert f"c {name}".encode() == header(reply, "kafka_correlationId")
    assert "$.user.user_metadata" in body(asker.to("wrong type")[0])["warnings"][0]["message"]
    letters = {header(r, "gate-attempt-id"): r for r in await read_all(topics, topics.dlq_topic)}
    assert {None, *(name.encode() for name in UNREADABLE)} == letters.keys()
    for offset, (name, value) in enumerate(UNREADABLE.items()):
        letter = letters[name.encode()]
        assert value == letter.value
        assert b"kept" == header(letter, "own")
        assert b"invalid_attempt" == header(letter, "gate-dlq-reason")
        assert topics.attempts_topic.encode() == header(letter, "gate-dlq-topic")
        assert int32(1) == header(letter, "gate-dlq-partition")
        assert offset.to_bytes(8) == header(letter, "gate-dlq-offset")
        assert asker.to(name)[0].timestamp <= letter.timestamp  # the reply first: somebody waits
    assert 0 == sum((await lag(topics)).values())


UNREACHABLE = {
    b"elsewhere.replies": b"reply_topic_not_allowed",
    b"%(attempts)s": b"reply_topic_not_allowed",
    b"%(decisions)s": b"reply_topic_not_allowed",
    b"%(dlq)s": b"reply_topic_not_allowed",
    b"%(replies)s-gone": b"reply_topic_unknown",
    b"not legal": b"reply_topic_illegal",
    b"\xff": b"reply_topic_illegal",
}


async def test_reply_topics_that_cannot_be_are_decided_dead_lettered_and_told_nobody(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    names = {name: getattr(topics, f"{name}_topic").encode() for name in ("attempts", "decisions", "dlq", "replies")}
    names = {name.encode(): topic for name, topic in names.items()}
    everything = topics.model_copy(update={"reply_topics": (f"{topics.replies_topic.partition('.')[0]}*",)})
    reasons = {f"nowhere-{number}".encode(): reason for number, reason in enumerate(UNREACHABLE.values())}
    async with serving(everything) as worker:
        for number, topic in enumerate(UNREACHABLE):
            await asker.submit(f"nowhere-{number}", event(), kafka_replyTopic=topic % names if b"%" in topic else topic)
        await asker.submit("beside", event())
        await eventually(lambda: asker.to("beside"))
        await eventually(lambda: nothing_in_flight(worker))

    assert 1 == len(asker.replies)
    letters = await read_all(topics, topics.dlq_topic)
    assert reasons == {record.key: header(record, "gate-dlq-reason") for record in letters}
    assert {event()} == {record.value for record in letters}
    assert {b"beside", *reasons} == {record.key for record in await read_all(topics, topics.decisions_topic)}
    assert len(UNREACHABLE) + 1 == len(await read_all(topics, topics.attempts_topic))
    assert 0 == sum((await lag(topics)).values())


async def test_reply_partitions_that_cannot_be_are_replaced_by_the_keys_and_dead_lettered(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    unusable = [b"", b"2", int32(-1), int32(4), (1).to_bytes(8)]
    async with serving(topics) as worker:
        for number, partition in enumerate(unusable):
            await asker.submit(f"astray-{number}", event(), kafka_replyPartition=partition)
        await eventually(lambda: len(asker.replies) == len(unusable))
        await eventually(lambda: nothing_in_flight(worker))

    assert {"approved"} == {body(record)["status"] for record in asker.replies}
    assert all(partition_of(record.key, 4) == record.partition for record in asker.replies)
    letters = await read_all(topics, topics.dlq_topic)
    assert {record.key for record in asker.replies} == {record.key for record in letters}
    assert {b"reply_partition_invalid"} == {header(record, "gate-dlq-reason") for record in letters}


async def test_asker_that_names_neither_topic_nor_correlation_is_answered_on_the_default_topic_by_its_id(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    async with serving(topics):
        await asker.send(event(), partition=3)
        await eventually(lambda: len(asker.replies) == 1)

    (record,) = asker.replies
    source = f"{topics.attempts_topic}-3-0"
    assert source.encode() == header(record, "gate-attempt-id")
    assert source == body(record)["attempt_id"]
    assert partition_of(source.encode(), 4) == record.partition
    assert [] == await read_all(topics, topics.dlq_topic)


async def test_fields_that_only_the_gate_sets_are_dropped_and_make_no_conflict(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    forged = {**json.loads(event()), "secrets": {"KEY": "x"}, "config": {"a": 1}, "attempt_id": "other"}
    async with serving(topics) as worker:
        await asker.submit("forged", json.dumps(forged).encode())
        await asker.submit("forged", event())
        await eventually(lambda: len(asker.replies) == 2)
        metrics = worker._recorder.metrics.render().decode()

    assert ["approved", "approved"] == [body(record)["status"] for record in asker.replies]
    assert 'gate_ignored_fields_total{field="secrets"} 1.0' in metrics


@pytest.mark.parametrize("topics", [1], indirect=True)
async def test_record_that_the_library_cannot_parse_is_stepped_over_and_nothing_else_is(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    ids = [f"id-{number}" for number in range(6)]
    for attempt_id in ids[:3]:
        await asker.submit(attempt_id, event("zoe@example.com"))
    await asker.send_with_header_named_in_no_encoding(0)
    for attempt_id in ids[3:]:
        await asker.submit(attempt_id, event("zoe@example.com"))

    async with serving(topics) as worker:
        await eventually(lambda: len(asker.replies) == len(ids))
        await eventually(lambda: worker._recorder.metrics.unreadable_records_total.value == 1)

    assert 0 == sum((await lag(topics)).values())
    assert ids == sorted(body(record)["attempt_id"] for record in asker.replies)


async def test_foreign_records_in_the_ledger_stop_nothing(asker: Asker, topics: Settings, eventually: Any) -> None:
    foreign = Asker(topics.model_copy(update={"attempts_topic": topics.decisions_topic}))
    async with foreign:
        for value, headers in ((b"x", {}), (None, {"digest": None, "source": None}), (b"x", {"scope": b"?", "attempt-ts": b"1"})):
            await foreign.send(value, headers=headers, partition=2)
        async with serving(topics):
            await asker.send(event(), headers={"gate-attempt-id": b"a"}, partition=2)
            await eventually(lambda: len(asker.replies) == 1)
            await foreign.send(
                b"x", headers={"digest": None, "source": b"s", "attempt-ts": bytes(8), "scope": b"id"}, partition=2
            )
            await asker.send(event(), headers={"gate-attempt-id": b"b"}, partition=2)
            await eventually(lambda: len(asker.replies) == 2)

    assert ["approved", "approved"] == [body(record)["status"] for record in asker.replies]
