"""Faults of topics: missing, full, refusing, growing; and attempts that cannot be served as asked."""

from __future__ import annotations

import asyncio
import json
import os
import random
from functools import partial

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.protocol.admin import DeleteGroupsRequest

from tests.integration.peers import EVENT, Asker, alter_topic, event, int32, partitions_of

from .evidence import Evidence
from .load import Load, as_people_do, attempt, once, patient
from .matrix import fault
from .scene import Scene


@fault("no right to write to the ledger for 15 s", row="6", default_timeout_ms=60_000)
async def ledger_refuses(scene: Scene) -> None:
    """Nobody may answer, and nobody does; the gate says so, and answers all when the ledger is back."""
    worker, _ = await scene.start(2)
    async with await scene.load(rate=60, ask=patient(60)):
        await scene.more_answers(100)
        await scene.forbid_writes(scene.settings.decisions_topic)
        await scene.until(lambda: "the ledger does not take decisions" in worker.readiness()[1], "/readyz says it")
        await asyncio.sleep(1)  # what was on its way arrives
        before = scene.answered
        await scene.flow(14)
        if scene.answered > before:
            scene.complaints.append(f"{scene.answered - before} were answered while no decision could be written")
        await scene.allow_writes(scene.settings.decisions_topic)
        await scene.until(lambda: worker.readiness()[0] == 200, "/readyz is well again")


@fault("no right to write to the reply topic for 5 s", row="13")
async def replies_forbidden(scene: Scene) -> None:
    """Decisions are made, and their dead letters say why nobody was told; others are not held up."""
    await scene.start(2)
    async with await scene.load(rate=40, ask=partial(once, patience_s=5)):
        await scene.more_answers(100)
        await scene.forbid_writes(scene.settings.replies_topic)
        await scene.flow(5)
        await scene.allow_writes(scene.settings.replies_topic)
        await scene.more_answers(100)
    scene.afterwards.append(partial(_letters, scene, 20))


@fault("the DLQ takes nothing for 15 s", row="15", short=True)
async def dlq_refuses(scene: Scene) -> None:
    """Replies flow, offsets are held, and the dead letters are written when the topic is back."""
    (worker,) = await scene.start(1)
    await scene.forbid_writes(scene.settings.dlq_topic)
    async with await scene.load(rate=60), Asker(scene.settings) as asker:
        for number in range(20):
            await asker.submit(f"dead-{number}", b"{}" if number % 2 else event(), kafka_replyTopic=b"nowhere")
        await scene.until(lambda: "dead_letter_not_written" in worker.log, "a dead letter is refused")
        await scene.more_answers(100)
        await scene.flow(10)
        await scene.allow_writes(scene.settings.dlq_topic)
    scene.afterwards.append(partial(_letters, scene, 20))


def _letters(scene: Scene, count: int, evidence: Evidence) -> None:
    found = len(evidence.dead_letters)
    if found < count:
        scene.complaints.append(f"{found} dead letters are there, expected {count}")


@fault("decisions too large for ledger and replies", row="14")
async def too_large(scene: Scene) -> None:
    """Actions set more metadata than the topics take: denied `action_failed`, and everybody else is served."""
    for topic in (scene.settings.decisions_topic, scene.settings.replies_topic):
        await alter_topic(scene.settings, topic, {"max.message.bytes": "8000"})
    await scene.start(2)
    client = await scene.client()

    async def ask(_: object, number: int) -> None:
        mailbox = f"big{1000 + number % 10 * 1000}"
        await client.try_to_ask(attempt(mailbox, number=number), attempt_id=f"big-{number}", timeout_s=20)

    async with Load(client, rate=40, ask=ask, numbers=scene.numbers), await scene.load(rate=40, client=client):
        await scene.flow(8)
    scene.afterwards.append(lambda evidence: scene.facts.update({"dead letters": len(evidence.dead_letters)}))


@fault("hostile headers and bodies among good ones", row="10, 13", short=True, default_timeout_ms=5000)
async def hostile(scene: Scene) -> None:
    """Whatever stands in an attempt, it is answered or a dead letter, and nobody else notices."""
    await scene.start(2)
    async with await scene.load(rate=60), Asker(scene.settings) as asker:
        dice = random.Random(5)
        for number in range(round(400 * max(scene.scale, 0.5))):
            await _one_hostile(asker, dice, number)
        await asker.send_with_header_named_in_no_encoding(1)
        await scene.more_answers(50)


async def _one_hostile(asker: Asker, dice: random.Random, number: int) -> None:
    topics = asker.settings
    reply_topics = (topics.replies_topic, f"{topics.replies_topic}.none", topics.attempts_topic, topics.decisions_topic, "other")
    headers: dict[str, bytes | None] = {}
    for name, share, values in (
        ("kafka_correlationId", 0.7, (b"", b"x" * dice.randint(1, 300), os.urandom(16), b"p-%d" % number, None)),
        ("gate-attempt-id", 0.6, (b"", b"hostile-%d" % (number % 40), b"\xff", b"y" * 201, "ö".encode(), None)),
        ("kafka_replyTopic", 0.6, (*(topic.encode() for topic in reply_topics), b"\xff", b"..", b"")),
        ("kafka_replyPartition", 0.4, (b"", int32(0), int32(3), int32(4), int32(-1), b"\0" * 5)),
        ("gate-timeout-ms", 0.4, (b"", b"1", b"0", b"-5", b"abc", b"99999999999", b"500")),
        ("traceparent", 0.2, (b"", b"00-ab-cd-01")),
    ):
        if dice.random() < share:
            headers[name] = dice.choice(values)
    metadata = dice.choice([5, None, [1], {"big": 2**70, "f": 1.0, "n": 1e300}])
    value = dice.choice(
        [
            *(None, b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 2000, event("a" * 300_000)),
            *(event(), event("denied@example.com"), event(number=number % 3)),
            json.dumps({**EVENT, "user": 5}).encode(),
            json.dumps({**EVENT, "user": {**EVENT["user"], "user_metadata": metadata}}).encode(),
        ]
    )
    key = dice.choice([None, b"k%d" % (number % 9), headers.get("gate-attempt-id") or b"z"])
    partition = dice.choice([None, dice.randrange(4)])
    await asker.send(value, headers=headers, key=key, partition=0 if partition is None and value is None else partition)


@fault("partitions added while workers run", row="18")
async def partitions_added(scene: Scene) -> None:
    """New partitions are served from their beginning, by workers and clients that never restart."""
    await scene.start(2)
    more, settings = 6, scene.settings
    topics = (settings.decisions_topic, settings.attempts_topic, settings.replies_topic)
    async with await scene.load(rate=60, ask=partial(once, patience_s=60)):
        await scene.more_answers(100)
        for topic in topics:
            scene.partitions[topic] = (await partitions_of(settings, topic),)
            await _grow(scene, topic, more)
        await scene.until(lambda: _assigned(scene, more), f"all {more} partitions are assigned")
        for worker in scene.workers:
            await scene.worker_ready(worker)
        scene.mended()
        await scene.more_answers(200)


async def _grow(scene: Scene, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.bootstrap)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(count)})
    finally:
        await admin.close()


async def _assigned(scene: Scene, count: int) -> bool:
    texts = [await asyncio.to_thread(worker.metrics) for worker in scene.workers]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("gate_partitions_assigned ")]
    return sum(float(line.split()[1]) for line in lines) == count


@fault("the group's offsets are deleted", row="22", window_ms=5000)
async def offsets_deleted(scene: Scene) -> None:
    """Everything comes again from the beginning; the same decisions are sent again, and no action runs."""
    workers = await scene.start(2)
    async with await scene.load():
        await scene.flow(8)
    await scene.quiet()
    for worker in workers:
        await scene.end(worker)
    await _forget_offsets(scene)
    await scene.start(2)
    client = await scene.client()
    async with Load(client, rate=50, ask=as_people_do, numbers=scene.numbers):
        await scene.more_answers(100)
    scene.afterwards.append(partial(_count_deletion, scene))


async def _forget_offsets(scene: Scene) -> None:
    group = scene.settings.group_id
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.bootstrap)
    await admin.start()
    try:
        coordinator = await admin.find_coordinator(group)
        response = await admin._send_request_to_node(coordinator, DeleteGroupsRequest([group]))
        assert [(group, 0)] == [tuple(result) for result in response.results], response
    finally:
        await admin.close()


def _count_deletion(scene: Scene, evidence: Evidence) -> None:
    """Complain where nothing came again: then nothing was shown."""
    scene.facts["attempts before"] = len(evidence.attempts)
    if len(evidence.replies) < 1.2 * len(evidence.attempts):
        scene.complaints.append("nothing was answered again: the offsets were not forgotten")
