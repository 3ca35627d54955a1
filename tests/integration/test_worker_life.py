"""The life of a worker, mostly as a process: starting, being joined and left, losing Kafka, ending."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings
from gate.kafka.embedded import EmbeddedKafka
from gate.kafka.topics import create_topics
from tests.conftest import Eventually

from .peers import Asker, Load, Start, WorkerProcess, body, event, header, lag, members, read_all

pytestmark = pytest.mark.kafka


def assert_calm(worker: WorkerProcess) -> None:
    """No traceback, no task that nobody heard of, no group of exceptions."""
    for sign in ("Traceback", "ExceptionGroup", "never retrieved", "never awaited", "was destroyed", "Unclosed", "Exception in"):
        assert sign not in worker.log, worker.log


LEAVES_A_TASK = """
import asyncio

async def never_ends():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def on_execute_pre_user_registration(event, api):
    await asyncio.sleep(0)
    asyncio.create_task(never_ends())
"""
CANCELS = """
import asyncio

async def on_execute_pre_user_registration(event, api):
    if event.user.email.startswith("caller"):
        asyncio.current_task().cancel()
    elif event.user.email.startswith("everybody"):
        for task in asyncio.all_tasks():
            task.cancel()
    elif event.user.email.startswith("poll"):
        next(task for task in asyncio.all_tasks() if task.get_name() == "poll").cancel()
"""
CANCELS_AND_WAITS = CANCELS + "    await asyncio.sleep(0.1)"
LEAVES_A_THREAD = """
import asyncio, time

async def on_execute_pre_user_registration(event, api):
    await asyncio.sleep(0)
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
"""


# -- Starting -----------------------------------------------------------------------------------------------------------


async def test_worker_started_before_its_topics_exist_says_so_and_exits_2(settings: Settings, start: Start) -> None:
    worker = start(settings)

    assert 2 == await worker.ended()
    assert f"the attempts topic {settings.attempts_topic} does not exist; make it with `gate topics create`" in worker.log
    assert f"the decisions topic {settings.decisions_topic} does not exist; make it with `gate topics create`" in worker.log
    assert_calm(worker)


async def test_attempts_partition_without_ledger_twin_is_refused_at_start(topics: Settings, start: Start) -> None:
    other = topics.model_copy(
        update={"decisions_topic": f"{topics.decisions_topic}.two", "replies_topic": f"{topics.replies_topic}.two"}
    )
    lone = other.model_copy(update={"attempts_topic": f"{topics.attempts_topic}.two"})
    await create_topics(lone, topics.bootstrap_servers or "", partitions=2, replication=1)

    worker = start(other)

    assert 2 == await worker.ended()
    assert "has 4 partitions and" in worker.log
    assert_calm(worker)


async def test_fast_clock_lets_no_more_than_the_first_attempt_expire(
    asker: Asker, topics: Settings, start: Start, eventually: Eventually
) -> None:
    for number in range(20):  # they wait when the worker starts, and no broker has told it the time yet
        await asker.submit(f"early-{number}", event(number=number))

    worker = start(topics, program=(sys.executable, "-m", "tests.faults.failing"), PYTHONPATH=os.getcwd(), FAULTS_SKEW_S="300")

    await eventually(lambda: len(asker.replies) == 20, within_s=30)
    assert Counter(header(record, "gate-status") for record in asker.replies)[b"approved"] >= 19
    assert 0 == await worker.end()
    assert_calm(worker)


async def test_session_timeout_the_broker_refuses_is_said_in_a_line(topics: Settings, start: Start) -> None:
    worker = start(topics.model_copy(update={"session_timeout_ms": 100}))

    assert 2 == await worker.ended()
    assert "GATE_SESSION_TIMEOUT_MS" in worker.log
    assert_calm(worker)


# -- Ending -------------------------------------------------------------------------------------------------------------


async def test_sigterm_under_load_finishes_commits_and_leaves_so_that_nothing_is_lost_or_done_twice(
    asker: Asker, topics: Settings, start: Start
) -> None:
    worker = await start(topics).ready()
    async with Load(asker, rate=250) as load:
        await until_replies(asker, 300)
        code = await worker.end()
        assert 0 == await members(topics)  # it left: nobody waits for its session to end
        second = await start(topics).ready()
    await load.answered()
    assert 0 == await second.end()

    assert 0 == code
    assert {} == load.contradictions()
    assert {1} == set(Counter(record.key for record in asker.replies).values())
    assert {1} == set(Counter(record.key for record in await read_all(topics, topics.decisions_topic)).values())
    assert 0 == sum((await lag(topics)).values())
    assert_calm(worker)
    assert_calm(second)


async def only_one_uncommitted(settings: Settings) -> bool:
    return sum((await lag(settings)).values()) == 1


async def until_replies(asker: Asker, number: int, *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while len(asker.replies) < number:  # noqa: ASYNC110 - with a deadline
            await asyncio.sleep(0.01)


async def test_second_signal_ends_at_once_and_the_attempt_is_left_to_the_next_worker(
    asker: Asker, topics: Settings, start: Start, eventually: Any
) -> None:
    worker = await start(topics).ready()
    await asker.submit("waiting", event("wait3@example.com"))
    await asker.submit("quick", event())
    await eventually(lambda: asker.to("quick"))
    await eventually(lambda: only_one_uncommitted(topics))

    worker.send(signal.SIGTERM)
    await eventually(lambda: worker.lines("stopping"))
    asked = time.monotonic()
    code = await worker.end(signal.SIGTERM, within_s=2)

    assert 128 + signal.SIGTERM == code
    assert time.monotonic() - asked < 2
    assert 1 == sum((await lag(topics)).values())
    assert_calm(worker)


async def test_grace_period_is_kept_and_what_runs_longer_is_left_to_the_next_worker(
    asker: Asker, topics: Settings, start: Start, eventually: Any
) -> None:
    hurried = topics.model_copy(update={"shutdown_grace_s": 0.5})
    worker = await start(hurried).ready()
    await asker.submit("long", event("wait2@example.com"))
    await asker.submit("quick", event())
    await eventually(lambda: asker.to("quick"))

    asked = time.monotonic()
    assert 0 == await worker.end()
    assert time.monotonic() - asked < 4
    assert worker.lines("stopped_with_attempts_in_flight")
    assert 1 == sum((await lag(topics)).values())
    assert_calm(worker)

    second = await start(topics).ready()
    await eventually(lambda: asker.to("long"))
    assert 0 == await second.end()
    assert "approved" == body(asker.to("long")[0])["status"]


@pytest.mark.parametrize("source", [LEAVES_A_TASK, LEAVES_A_THREAD], ids=["task", "thread"])
async def test_what_an_action_left_behind_and_does_not_end_does_not_keep_the_worker(
    asker: Asker, topics: Settings, start: Start, tmp_path: Path, eventually: Any, source: str
) -> None:
    (tmp_path / "one.py").write_text(source)
    worker = await start(topics, chain=tmp_path / "one.py").ready()
    await asker.submit("one", event())
    await eventually(lambda: asker.replies)

    assert 0 == await worker.end(within_s=10)
    assert "what actions left behind does not end" in worker.log


async def test_sigterm_while_starting_exits_0(topics: Settings, start: Start, eventually: Any) -> None:
    worker = start(topics)
    await eventually(lambda: worker.lines("worker_starting"), within_s=20)

    assert 0 == await worker.end(within_s=10)
    assert_calm(worker)


# -- Losing a task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [CANCELS, CANCELS_AND_WAITS], ids=["by hand", "in a task"])
async def test_action_that_cancels_the_workers_tasks_leaves_no_silent_worker(
    asker: Asker, topics: Settings, start: Start, tmp_path: Path, eventually: Any, source: str
) -> None:
    (tmp_path / "one.py").write_text(source)
    worker = await start(topics, chain=tmp_path / "one.py").ready()
    for number, mailbox in enumerate(("caller", "poll", "zoe", "caller", "zoe")):
        await asker.submit(f"a-{number}", event(f"{mailbox}@example.com"))
        await eventually(lambda number=number: asker.to(f"a-{number}"), within_s=20)
    causes = [body(asker.to(f"a-{number}")[0]).get("denial", {}).get("cause") for number in range(5)]

    assert ["action_failed", None, None, "action_failed", None] == causes
    assert worker.lines("task_cancelled")
    assert 0 == await worker.end()
    assert_calm(worker)


async def test_action_that_cancels_everything_ends_the_worker_with_a_word_and_the_next_one_answers(
    asker: Asker, topics: Settings, start: Start, tmp_path: Path, eventually: Any
) -> None:
    (tmp_path / "one.py").write_text(CANCELS)
    worker = await start(topics, chain=tmp_path / "one.py").ready()
    await asker.submit("a-1", event("everybody@example.com"))

    assert 1 == await worker.ended()
    assert worker.lines("worker_lost")
    assert "start it again, nothing is lost" in worker.log
    assert_calm(worker)
    second = await start(topics).ready()
    await eventually(lambda: asker.to("a-1"))
    assert 0 == await second.end()


# -- The group ----------------------------------------------------------------------------------------------------------


async def test_worker_that_joins_and_leaves_under_load_costs_no_answer_and_doubles_none(
    asker: Asker, topics: Settings, start: Start, eventually: Any
) -> None:
    first = await start(topics).ready()
    async with Load(asker, rate=200) as load:
        await until_replies(asker, 100)
        second = await start(topics).ready()
        await eventually(lambda: any(len(line["partitions"]) == 2 for line in first.lines("assigned")))
        seen = len(asker.replies)
        await until_replies(asker, seen + 200)
        assert 0 == await second.end()
        await eventually(lambda: len(first.lines("assigned")[-1]["partitions"]) == 4)
        seen = len(asker.replies)
        await until_replies(asker, seen + 100)
    await load.answered()
    assert 0 == await first.end()

    assert {} == load.contradictions()
    assert {1} == set(Counter(record.key for record in asker.replies).values())
    deciders = Counter(body(record)["worker"] for record in await read_all(topics, topics.decisions_topic))
    assert 2 == len(deciders)
    assert 0 == sum((await lag(topics)).values())
    assert_calm(first)
    assert_calm(second)


async def test_slow_attempt_whose_partition_moves_away_and_back_is_answered_once(
    asker: Asker, topics: Settings, start: Start, eventually: Any
) -> None:
    first = await start(topics).ready()
    for partition in range(4):
        await asker.send(event("wait3@example.com"), headers={"gate-attempt-id": b"slow-%d" % partition}, partition=partition)
    second = await start(topics).ready()
    await eventually(lambda: len(asker.replies) == 4, within_s=15)
    assert 0 == await second.end()
    assert 0 == await first.end()

    assert 4 == len(asker.replies)
    assert 0 == sum((await lag(topics)).values())
    assert_calm(first)
    assert_calm(second)


# -- Kafka comes and goes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[EmbeddedKafka]:
    """A broker that these tests stop and start."""
    with EmbeddedKafka() as broker:
        yield broker


@pytest.fixture
async def own_topics(own_kafka: EmbeddedKafka, settings: Settings) -> Settings:
    settings = settings.model_copy(update={"bootstrap_servers": own_kafka.bootstrap})
    await create_topics(settings, own_kafka.bootstrap, partitions=4, replication=1)
    return settings


async def test_kafka_that_goes_and_comes_back_costs_no_attempt_and_readiness_tells(
    own_kafka: EmbeddedKafka, own_topics: Settings, start: Start
) -> None:
    worker = await start(own_topics).ready()
    async with Asker(own_topics) as asker:
        async with Load(asker, rate=100) as load:
            await until_replies(asker, 100)
        # Attempts that wait, so that the outage finds some in every stage.
        for number in range(20):
            await asker.submit(f"load-wait-{number}", event("wait1@example.com"))
            load.acknowledged.add(f"load-wait-{number}")
        await asyncio.to_thread(own_kafka.kill)
        await until_ready(worker, 503, within_s=20)
        reason = worker.readiness()[1]
        await asyncio.to_thread(own_kafka.start)
        await until_ready(worker, 200, within_s=40)
        async with Load(asker, rate=100) as after:
            seen = len(asker.replies)
            await until_replies(asker, seen + 100)
        await load.answered()
        await after.answered()
        assert 0 == await worker.end()

        assert '"ready":false' in reason.replace(" ", "")
        assert "Kafka" in reason or "received" in reason
        assert {} == load.contradictions()
        assert 0 == sum((await lag(own_topics)).values())
    assert_calm(worker)
    assert len(worker.log.splitlines()) < 300, worker.log


async def until_ready(worker: WorkerProcess, status: int, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (found := await asyncio.to_thread(worker.readiness))[0] != status:
        assert time.monotonic() < deadline, f"{found}\n{worker.log}"
        await asyncio.sleep(0.05)


async def test_sigterm_while_kafka_is_away_ends_within_the_grace_period(
    own_kafka: EmbeddedKafka, own_topics: Settings, start: Start
) -> None:
    worker = await start(own_topics.model_copy(update={"shutdown_grace_s": 2.0})).ready()
    async with Asker(own_topics) as asker:
        await asker.submit("lost", event("wait1@example.com"))
    await asyncio.to_thread(own_kafka.kill)
    await until_ready(worker, 503, within_s=20)

    assert 0 == await worker.end(within_s=25)
    assert_calm(worker)
    await asyncio.to_thread(own_kafka.start)


# -- Doing nothing ------------------------------------------------------------------------------------------------------


async def test_idle_worker_notices_that_kafka_is_away_and_that_it_is_back(
    own_kafka: EmbeddedKafka, own_topics: Settings, start: Start
) -> None:
    worker = await start(own_topics).ready()
    await asyncio.to_thread(own_kafka.pause)
    try:
        await until_ready(worker, 503, within_s=10)
        assert "Kafka has not answered" in worker.readiness()[1]
    finally:
        await asyncio.to_thread(own_kafka.resume)
    await until_ready(worker, 200, within_s=20)
    assert 0 == await worker.end()
    assert_calm(worker)


async def test_idle_worker_uses_hardly_any_processor_time_and_writes_no_lines(
    topics: Settings, start: Start, eventually: Any
) -> None:
    worker = await start(topics).ready()
    began, used, lines = time.monotonic(), worker.cpu_s(), len(worker.log.splitlines())
    await eventually(lambda: time.monotonic() - began > 3)

    share = (worker.cpu_s() - used) / (time.monotonic() - began)
    assert lines == len(worker.log.splitlines()), worker.log
    assert 0 == await worker.end()
    assert share < 0.25, f"{share:.0%} of a processor"  # some 3 % on an idle machine; a busy loop takes all there is
