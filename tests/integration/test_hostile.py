"""Hundreds of hostile records among good ones, on real Kafka: every good one is answered, and nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings

from .peers import EVENT, Asker, Start, WorkerProcess, body, event, int32, lag

pytestmark = pytest.mark.kafka

HOSTILE = 300
GOOD_EVERY = 6  # one good attempt after so many hostile ones
UNPARSEABLE_EVERY = 50
ROOM_BYTES = 250 * 1024 * 1024  # records of megabytes are on their way at once, and the allocator keeps some

Headers = list[tuple[str, bytes | None]]
NAMES = ["gate-attempt-id", "gate-timeout-ms", "traceparent", "x", ""]
NAMES += ["kafka_correlationId", "REPLY_CORRELATION_ID", "kafka_replyTopic", "REPLY_TOPIC", "kafka_replyPartition"]
NOWHERE = [b"__consumer_offsets", b"no.such.topic", b"..", b"a\nb", b"\xff", b""]
IDS = [b"hostile-%d" % number for number in range(20)] + [b'a\n{"level":"error"}', b"\x1b[2Jgone", "\u202ed".encode(), b"\0"]


def hostile_headers(rng: random.Random, settings: Settings) -> Headers:
    values: list[bytes | None] = [None, b"", b"5000", b"-1", b"9" * 11, int32(0), int32(7), int32(-1), rng.randbytes(16), *IDS]
    values += [*NOWHERE, settings.attempts_topic.encode(), settings.decisions_topic.encode(), settings.dlq_topic.encode()]
    return [(rng.choice(NAMES), rng.choice(values)) for _ in range(rng.randrange(8))]


def hostile_value(rng: random.Random) -> bytes | None:
    honest = json.dumps(EVENT).encode()
    at = rng.randrange(len(honest))
    broken: list[bytes | None] = [
        None,
        b"",
        rng.randbytes(rng.randrange(400)),
        honest[:at],
        honest[:at] + rng.randbytes(1) + honest[at + 1 :],
        b"[" * 100_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        honest.replace(b"1", b"NaN"),
        honest.replace(b"1", b"1" + b"0" * 400),
        honest.replace(b"zoe", b"\\ud800"),
        honest.decode().encode("utf-16"),
        b"\xef\xbb\xbf" + honest,
        honest[:-1] + b"," + honest[1:],
        b'{"connection":[],"request":5,"user":null}',
        event("failing@example.com"),
        event("size3000000@example.com"),
        honest.replace(b"zoe", b"z" * 300_000),
    ]
    return rng.choice(broken)


def memory_bytes(worker: WorkerProcess) -> int:
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def total(metrics: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))


async def test_among_hundreds_of_hostile_records_every_good_one_is_answered(
    asker: Asker, topics: Settings, start: Start, eventually: Any
) -> None:
    rng = random.Random(20_260_102)
    # Whatever is named may be replied to, as far as patterns go.
    worker = await start(topics.model_copy(update={"reply_topics": ("*",), "default_timeout_ms": 120_000})).ready()
    before = memory_bytes(worker)
    good: list[str] = []
    sent = 0
    flood: list[Headers] = [
        [("x", b"y")] * 10_000,
        [("gate-attempt-id", b"flood-%d" % number) for number in range(10_000)],
        [("kafka_correlationId", b"c" * 256 * 1024)],
        [("traceparent", b"t" * 900_000)],
        [("h" * 32_000, b"")],
    ]

    for number in range(HOSTILE):
        partition = rng.randrange(4)
        if number % UNPARSEABLE_EVERY == 7:
            await asker.send_with_header_named_in_no_encoding(partition)
        else:
            headers = flood.pop() if flood and number % 40 == 5 else hostile_headers(rng, topics)
            await asker.append(partition, hostile_value(rng), headers=headers, key=rng.choice([None, b"", b"k", b"\xff"]))
            sent += 1
        if number % GOOD_EVERY == 0:
            good.append(f"good-{number}")
            await asker.submit(good[-1], event(email=f"zoe{number}@example.com"))
            sent += 1

    await eventually(lambda: all(asker.to(attempt_id) for attempt_id in good), within_s=60)
    await eventually(lambda: total(worker.metrics(), "gate_replies_total") == sent, within_s=60)
    metrics = worker.metrics()
    grown = memory_bytes(worker) - before

    assert sent == total(metrics, "gate_attempts_received_total")
    assert [["approved"]] * len(good) == [[body(reply)["status"] for reply in asker.to(attempt_id)] for attempt_id in good]
    assert worker.process.poll() is None
    assert grown < ROOM_BYTES
    assert all(line.startswith("{") for line in worker.log.splitlines()), "one log line per event, whatever ids hold"
    assert "Traceback" not in worker.log
    assert "hostile" not in metrics
    assert 0 == await worker.end(signal.SIGTERM)
    assert {0} == set((await lag(topics)).values())
