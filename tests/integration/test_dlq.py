"""`gate dlq` on real Kafka: dead letters of a real worker are found, shown, and redriven once their cause is mended."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

from gate.cli.main import app
from gate.config import Settings
from gate.errors import GateError
from gate.kafka.partitioner import partition_of

from .peers import Asker, body, event, header, int32, read_all, runs_of, serving

pytestmark = pytest.mark.kafka


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str


@pytest.fixture(autouse=True)
def _commands_leave_this_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate.cli.running.run", asyncio.run)
    monkeypatch.setattr("gate.log.configure", lambda *_: None)


def environment(settings: Settings) -> dict[str, str]:
    given = settings.model_dump(exclude_defaults=True).items()
    return {f"GATE_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given}


async def dlq(settings: Settings, *arguments: str, code: int = 0) -> Said:
    """Run `gate dlq …` to its end, which must be this one."""
    done = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *arguments], env=environment(settings))
    if done.exception is not None and not isinstance(done.exception, (SystemExit, GateError)):
        raise done.exception
    assert code == getattr(done.exception, "exit_code", done.exit_code), f"{done.stdout}\n{done.stderr}\n{done.exception}"
    return Said(done.stdout, done.stderr)


async def documents(settings: Settings, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Return what `gate dlq … --json` prints."""
    said = await dlq(settings, *arguments, "--json", code=code)
    return [json.loads(line) for line in said.out.splitlines()]


def at_a_terminal(settings: Settings, answer: bytes, *arguments: str) -> int:
    """Run `gate dlq …` on a terminal, answer its question, and return the exit code."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "gate"), "dlq", *arguments],
            env={**os.environ, **environment(settings)}, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1000)
        os.write(ours, answer)
        return process.wait(60)
    finally:
        os.close(ours)


async def make_topic(settings: Settings, name: str, partitions: int = 2) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1)])
    finally:
        await admin.close()


async def buried(settings: Settings, number: int) -> bool:
    return len(await read_all(settings, settings.dlq_topic)) == number


async def test_redrive_delivers_the_decisions_that_stand_once_their_topic_is_there_and_no_action_runs_again(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    later = f"{topics.replies_topic}-later"
    spring, correlation = uuid.uuid4(), uuid.uuid4().bytes
    async with serving(topics):
        await asker.submit("yes", event(), kafka_replyTopic=later.encode())
        await asker.submit("no", event("denied@example.com"), kafka_replyTopic=later.encode(), kafka_correlationId=correlation)
        given = {"kafka_correlationId": spring.bytes, "kafka_replyTopic": later.encode(), "kafka_replyPartition": int32(1)}
        await asker.send(event("zed@example.com"), headers={**given, "traceparent": b"00-1-2-01"}, partition=2)
        await eventually(lambda: buried(topics, 3), within_s=30)

        still = await documents(topics, "redrive", "--all", code=1)
        assert {("left", f"reply_topic_unknown ({later})")} == {
            (each["deed"], each["why"].partition("to its asker, ")[2].partition(":")[0]) for each in still
        }
        await make_topic(topics, later)
        planned = await documents(topics, "redrive", "--reason", "reply_topic_unknown", "--dry-run")
        assert 1 == await asyncio.to_thread(at_a_terminal, topics, b"n\n", "redrive", "--all")
        assert [] == await read_all(topics, later)
        done = await documents(topics, "redrive", "--all")
        redriven = {header(record, "gate-attempt-id"): record for record in await read_all(topics, later)}
        # Who asks again within the window gets the decision from the worker: the same bytes.
        await asker.submit("yes", event())
        await asker.submit("no", event("denied@example.com"))
        await eventually(lambda: asker.to("yes") and asker.to("no"))

    assert {("decision_sent", True)} == {(each["deed"], each["dry_run"]) for each in planned}
    assert [each | {"dry_run": True} for each in done] == planned
    assert {"yes": "approved", "no": "denied", str(spring): "approved"} == {each["attempt_id"]: each["status"] for each in done}
    assert {b"yes", b"no", str(spring).encode()} == redriven.keys()
    for attempt_id in ("yes", "no"):
        (from_worker,) = asker.to(attempt_id)
        mine = redriven[attempt_id.encode()]
        assert (from_worker.key, from_worker.value) == (mine.key, mine.value)
        assert [each for each in from_worker.headers if each[0] != "kafka_correlationId"] == [
            each for each in mine.headers if each[0] != "kafka_correlationId"
        ]
    assert b"yes" == header(redriven[b"yes"], "kafka_correlationId")
    assert correlation == header(redriven[b"no"], "kafka_correlationId")
    third = redriven[str(spring).encode()]
    assert (1, None, b"00-1-2-01") == (third.partition, third.key, header(third, "traceparent"))
    assert spring.bytes == header(third, "kafka_correlationId")
    assert {"old": 1, "screen_name": "zed"} == body(third)["user_metadata"]
    assert {"yes": 1, "no": 1, str(spring): 1} == runs_of(runs)
    assert 3 == len(await read_all(topics, topics.dlq_topic))


async def test_long_after_the_window_a_redrive_still_sends_the_decision_and_never_has_an_id_decided_twice(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    later = f"{topics.replies_topic}-later"
    short = topics.model_copy(update={"window_ms": 1, "max_event_bytes": 1000})
    padded = event(name="x" * 2000)
    async with serving(short):
        await asker.submit("late", event(), kafka_replyTopic=later.encode())
        await asker.submit("padded", padded)
        await eventually(lambda: asker.to("padded"))
        await asker.submit("padded", event())  # decided under the same id, by another ask
        await eventually(lambda: len(asker.to("padded")) == 2)
        await eventually(lambda: buried(topics, 2), within_s=30)
    (first,) = [each for each in await read_all(topics, topics.decisions_topic) if each.key == b"late"]
    await make_topic(topics, later)
    roomy = short.model_copy(update={"max_event_bytes": 100_000})

    async with serving(roomy):
        await documents(roomy, "redrive", "--attempt-id", "late")
        await documents(roomy, "redrive", "--attempt-id", "late")
        (refused,) = await documents(roomy, "redrive", "--attempt-id", "padded", code=1)

    assert [body(first)["decided_at"]] * 2 == [body(record)["decided_at"] for record in await read_all(topics, later)]
    assert refused["why"].startswith("its id was decided already, approved at ")
    assert "--decide-again" in refused["why"]
    assert {"late": 1, "padded": 1} == runs_of(runs)
    assert 3 == len(await read_all(topics, topics.attempts_topic))


async def test_decide_again_has_the_attempt_decided_under_a_new_id_for_the_asker_who_waits(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    later = f"{topics.replies_topic}-later"
    async with serving(topics):
        await asker.submit(
            "old", event(), kafka_replyTopic=later.encode(), kafka_replyPartition=int32(1), gate__timeout__ms=b"60000"
        )
        await eventually(lambda: buried(topics, 1), within_s=30)
    await make_topic(topics, later)

    async with serving(topics):  # one that has seen the new topic
        (planned,) = await documents(topics, "redrive", "--all", "--decide-again", "--dry-run")
        (done,) = await documents(topics, "redrive", "--all", "--decide-again")
        (reply,) = await eventually(lambda: read_all(topics, later), within_s=30)

    new = done["new_attempt_id"]
    assert new != planned["new_attempt_id"]
    assert str(uuid.UUID(new)) == new
    assert ("old", "asked_anew") == (done["attempt_id"], done["deed"])
    assert (1, b"old", new.encode()) == (reply.partition, header(reply, "kafka_correlationId"), header(reply, "gate-attempt-id"))
    assert {"old": 1, new: 1} == runs_of(runs)
    attempts = {header(record, "gate-attempt-id"): record for record in await read_all(topics, topics.attempts_topic)}
    asked = attempts[new.encode()]
    assert (new.encode(), partition_of(new.encode(), 4), b"60000") == (
        asked.key,
        asked.partition,
        header(asked, "gate-timeout-ms"),
    )
    assert [] == [name for name, _ in asked.headers if name.startswith("gate-dlq")]


async def test_an_attempt_that_was_too_large_is_asked_again_under_its_id_once_the_limit_is_raised(
    asker: Asker, topics: Settings, runs: Path, eventually: Any
) -> None:
    narrow = topics.model_copy(update={"max_event_bytes": 1000})
    padded, source = event(name="x" * 2000), f"{topics.attempts_topic}-3-0"
    async with serving(narrow):
        await asker.send(padded, partition=3)  # its id is where it stands
        await eventually(lambda: buried(topics, 1), within_s=30)
        (letter,) = await documents(narrow, "list")
        (refused,) = await documents(narrow, "redrive", letter["place"], code=1)
        assert "it would be invalid_attempt again, $: the value has" in refused["why"]

    async with serving(topics):
        (done,) = await documents(topics, "redrive", letter["place"])
        await eventually(lambda: len(asker.to(source)) == 2)

    assert ("asked_again", source, 3) == (done["deed"], done["attempt_id"], done["partition"])
    assert ["denied", "approved"] == [body(record)["status"] for record in asker.to(source)]
    assert {source: 1} == runs_of(runs)
    assert [padded, padded] == [record.value for record in await read_all(topics, topics.attempts_topic)]


async def test_what_cannot_be_redriven_says_why_and_what_others_wrote_is_left_alone(
    asker: Asker, topics: Settings, eventually: Any
) -> None:
    async with serving(topics):
        await asker.submit(
            "not-allowed", event("secret.person@example.com"), kafka_replyTopic=b"elsewhere.replies", x__who=b"me@x.example"
        )
        await eventually(lambda: buried(topics, 1), within_s=30)
    (mine,) = await read_all(topics, topics.dlq_topic)
    elsewhere = (mine.partition + 1) % 4
    producer = AIOKafkaProducer(bootstrap_servers=topics.bootstrap_servers)
    await producer.start()
    try:
        await producer.send_and_wait(topics.dlq_topic, b"\x00\xff", key=b"k", partition=elsewhere)
        headers = [("gate-dlq-reason", b"x"), ("gate-dlq-partition", b"no")]
        await producer.send_and_wait(topics.dlq_topic, b"{}", partition=elsewhere, headers=headers)
    finally:
        await producer.stop()
    async with Asker(topics.model_copy(update={"attempts_topic": topics.dlq_topic})) as stranger:
        await stranger.send_with_header_named_in_no_encoding(elsewhere)
        await stranger.send(None, key=b"\x1b[31m", partition=elsewhere)

    listed = await dlq(topics, "list")
    place = f"{mine.partition}:{mine.offset}"
    (refused,) = await documents(topics, "redrive", "--all", code=1)
    allowing = await dlq(topics, "redrive", f"{elsewhere}:0", f"{elsewhere}:77", code=1)
    shown = await dlq(topics, "show", place)
    whole = await dlq(topics, "show", place, "--show-personal-data")
    foreign = await dlq(topics, "show", f"{elsewhere}:2")
    nothing = await dlq(topics, "redrive", "--reason", "reply_unknown", code=1)

    assert "1 dead letter: reply_topic_not_allowed 1; 4 not of the gate" == listed.out.splitlines()[-1]
    assert "reply_topic_not_allowed (elsewhere.replies): add the topic to GATE_REPLY_TOPICS" in refused["why"]
    assert place == refused["place"]
    assert "it is not a dead letter of the gate" in allowing.out
    assert f"nothing at {elsewhere}:77" in allowing.err
    assert "not a dead letter of the gate" in foreign.out
    assert "no dead letter of" in nothing.err
    for part in ("secret.person", "me@x.example", "\x1b", 'screen_name": '):
        assert part not in listed.out + shown.out + shown.err
    for part in ("secret.person@example.com", "me@x.example", '"screen_name": "secret.person"'):
        assert part in whole.out
    for part in (
        "approved at 2",
        "elsewhere.replies",
        "add the topic to GATE_REPLY_TOPICS",
        "redrive left: ",
        "attempt not-allowed",
    ):
        assert part in " ".join(shown.out.split())


def test_a_place_without_a_record_a_topic_that_is_not_there_and_no_kafka_are_told_with_the_mend(topics: Settings) -> None:
    away = topics.model_copy(update={"bootstrap_servers": "127.0.0.1:1", "connect_timeout_s": 0.3})
    missing = topics.model_copy(update={"dlq_topic": "nowhere.dlq"})

    for settings, arguments, code, words in (
        (topics, ["show", "99:1"], 1, "gate: there is nothing at 99:1"),
        (missing, ["list"], 2, "gate: topic nowhere.dlq does not exist: make it with `gate topics create`"),
        (away, ["redrive", "--all"], 3, "gate: no Kafka broker answers at 127.0.0.1:1"),
    ):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "gate"), "dlq", *arguments],
            env={**os.environ, **environment(settings)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (code, "") == (done.returncode, done.stdout)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
