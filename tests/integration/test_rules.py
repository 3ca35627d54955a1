"""Each rule of the table through a worker on real Kafka, whose chain is changed from rule to rule.

The rules that are to be looked at are asked one after the other before the first of them is; what a person would compare, the
reply with what it came from, is then compared rule by rule.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from gate.chain.cache import Cache
from gate.chain.loader import load_chain
from gate.config import Settings
from gate.kafka.closing import stop_consumer, stop_producer
from gate.kafka.topics import create_topics
from gate.testing.expectation import Expectation
from gate.worker.worker import Worker
from tests.rules.server import Server
from tests.rules.table import Rule, rules

from .peers import CHAIN, body, serving

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]  # the first rule's time is that of all

ASKED = [rule for rule in rules() if rule.problem is None]
PATIENCE_S: Final = 20.0
"""For one answer; a rule that has none by then fails, and after a few of those nothing more is asked."""


@dataclass
class Desk:
    """Asks a worker; hears what it replies and what it writes into the ledger."""

    settings: Settings
    _waiting: dict[tuple[str, bytes], asyncio.Future[dict[str, Any]]] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        """Listen to both topics while the context is open."""
        at = {"bootstrap_servers": self.settings.bootstrap_servers}
        self._producer = AIOKafkaProducer(**at, acks="all")
        consumer = AIOKafkaConsumer(**at, auto_offset_reset="earliest", fetch_max_wait_ms=20)
        await self._producer.start()
        await consumer.start()
        consumer.assign([TopicPartition(topic, 0) for topic in self._topics])
        listening = asyncio.create_task(self._listen(consumer), name="desk")
        try:
            yield self
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await stop_consumer(consumer)
            await stop_producer(self._producer)

    async def ask(self, attempt_id: str, rule: Rule) -> dict[str, Any]:
        """Return the reply to an attempt together with the trace that the ledger has of it, as `gate test --json` does."""
        key = attempt_id.encode()
        headers = [("gate-attempt-id", key), ("kafka_correlationId", key)]
        if rule.timeout_ms is not None:
            headers.append(("gate-timeout-ms", str(rule.timeout_ms).encode()))
        heard = [self._waiting.setdefault((topic, key), asyncio.Future()) for topic in self._topics]
        await self._producer.send_and_wait(
            self.settings.attempts_topic, json.dumps(rule.event).encode(), key=key, headers=headers
        )
        async with asyncio.timeout(PATIENCE_S):
            reply, entry = await asyncio.gather(*heard)
        return {**reply, "trace": entry["trace"]}

    @property
    def _topics(self) -> tuple[str, str]:
        return self.settings.replies_topic, self.settings.decisions_topic

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            heard = self._waiting.pop((record.topic, record.key), None)
            if heard is not None:
                heard.set_result(body(record))


async def _answers(settings: Settings, folder: Path, server: Server, asked: list[Rule]) -> dict[str, dict[str, Any] | str]:
    """Ask one worker with these settings rule after rule; return the answers by name of the rule, or why there is none."""
    await create_topics(settings, settings.bootstrap_servers or "", partitions=1, replication=1)
    answers: dict[str, dict[str, Any] | str] = {}
    unanswered = 0
    async with serving(settings, chain=CHAIN) as worker, Desk(settings).open() as desk:
        for number, rule in enumerate(asked):
            if unanswered < 3:
                (home := folder / str(number)).mkdir()
                try:
                    answers[rule.name] = await _answer(rule, home, worker, desk, server)
                except TimeoutError:
                    unanswered += 1
                    answers[rule.name] = f"no answer; {worker!r} is {worker.status()}"
    return answers


async def _answer(rule: Rule, folder: Path, worker: Worker, desk: Desk, server: Server) -> dict[str, Any]:
    rule.write(folder)
    worker._resources.cache = Cache()  # it lasts from chain to chain, and rules say what is in an empty one
    await worker.change_chain(load_chain(folder, environ=rule.environ(server.url)))
    for _ in range(rule.attempts):
        await desk.ask(f"a-{next(_numbers)}", rule)
    return await desk.ask(f"a-{next(_numbers)}", rule)


_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def answers(
    fresh_settings: Callable[..., Settings],
    server: Server,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any] | str]:
    """What a worker answers to every rule that was chosen; rules that want other settings ask another worker."""
    chosen = [item.callspec.params["rule"] for item in request.session.items if getattr(item, "module", None) is request.module]
    found: dict[str, dict[str, Any] | str] = {}
    while chosen:
        settings = chosen[0].settings
        asked = [rule for rule in chosen if rule.settings == settings]
        chosen = [rule for rule in chosen if rule.settings != settings]
        found |= asyncio.run(_answers(fresh_settings(**settings), tmp_path_factory.mktemp("rules"), server, asked))
    return found


@pytest.mark.parametrize("rule", ASKED, ids=str)
def test_rule(rule: Rule, answers: dict[str, dict[str, Any] | str], server: Server) -> None:
    answer = answers.get(rule.name, "not asked, for earlier rules had no answer")

    assert isinstance(answer, dict), answer
    assert [] == rule.leaks(json.dumps(answer, ensure_ascii=False), server.url)
    if rule.invalid is not None:
        assert ("invalid_attempt", [rule.invalid]) == (
            answer["denial"]["cause"],
            [entry["message"] for entry in answer["warnings"]],
        )
    else:
        assert [] == [str(each) for each in Expectation.parse(rule.expect, actions=rule.names).differences(answer)]
