"""The chain of a running worker is changed between two attempts: none is lost, each decision names the chain that made it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from gate.chain.loader import load_chain
from gate.config import Settings

from .peers import Asker, Load, Start, WorkerProcess, body, event, read_all, serving

pytestmark = pytest.mark.kafka

SAYS = """
async def on_execute_pre_user_registration(event, api):
    api.user.set_user_metadata("by", {!r})
"""
SLOW = """
import asyncio

async def on_execute_pre_user_registration(event, api):
    if event.user.email.startswith("slow"):
        await asyncio.sleep(1.5)
    api.user.set_user_metadata("by", {!r})
"""
BLOCKS = """
import time

async def on_execute_pre_user_registration(event, api):
    if event.user.email.startswith("slow"):
        time.sleep(0.7)
    api.user.set_user_metadata("by", "blocks")
"""


class ChainFolder:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        (path / "chain.toml").write_text('[[action]]\nfile = "one.py"\n')

    def write(self, source: str) -> str:
        """Replace the action; return the hash of the chain it makes, if it makes one."""
        beside = self.path / "one.new"
        beside.write_text(source)
        beside.replace(self.path / "one.py")
        return load_chain(self.path, environ={}).hash if "event, api" in source else ""


@pytest.fixture
def chain(tmp_path: Path) -> ChainFolder:
    return ChainFolder(tmp_path / "chain")


def metric(worker: WorkerProcess, line: str) -> float:
    found = [each for each in worker.metrics().splitlines() if each.startswith(line + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


async def test_hangup_under_load_changes_the_chain_loses_nobody_and_every_decision_names_its_chain(
    asker: Asker, topics: Settings, start: Start, chain: ChainFolder, eventually: Any
) -> None:
    hashes = {chain.write(SAYS.format(0)): 0}
    worker = await start(topics, chain=chain.path).ready()

    async def more() -> None:
        enough = len(asker.replies) + 20
        await eventually(lambda: len(asker.replies) >= enough)

    async with Load(asker, rate=150) as load:
        await more()
        for version in range(1, 6):
            hashes[chain.write(SAYS.format(version))] = version
            worker.send(signal.SIGHUP)
            await eventually(lambda version=version: len(worker.lines("chain_changed")) == version)
            await more()
        chain.write("def on_execute_pre_user_registration(): pass")
        worker.send(signal.SIGHUP)
        await eventually(lambda: worker.lines("chain_refused"))
        await more()
    await load.answered()
    (refused,) = worker.lines("chain_refused")
    counted = [metric(worker, f'gate_chain_reloads_total{{result="{result}"}}') for result in ("changed", "refused")]
    build = metric(worker, f'gate_build_info{{chain="{refused["goes_on"]}",version="0.1.0"}}')
    assert 0 == await worker.end()

    answered = {(hashes[body(reply)["chain"]], body(reply)["changes"]["user_metadata"]["by"]) for reply in asker.replies}
    assert {(version, version) for version in range(6)} == answered
    assert {} == load.contradictions()
    assert 5 == hashes[refused["goes_on"]]
    assert "one.py:1: on_execute_pre_user_registration must take two arguments" in refused["problem"]
    assert ([5.0, 1.0], 1.0) == (counted, build)


async def test_an_attempt_in_flight_finishes_on_the_chain_it_started_with(
    asker: Asker, topics: Settings, chain: ChainFolder, eventually: Any
) -> None:
    old = chain.write(SLOW.format("old"))
    async with serving(topics, chain=chain.path) as worker:
        await asker.submit("slow", event("slow@example.com"))
        await eventually(lambda: worker.in_flight == 1)
        new = chain.write(SAYS.format("new"))
        await worker.change_chain(load_chain(chain.path, environ={}))
        await asker.submit("quick", event())
        await eventually(lambda: len(asker.replies) == 2, within_s=5)

    quick, slow = (body(reply) for reply in asker.replies)  # in the order in which they were answered
    assert [("quick", new, "new"), ("slow", old, "old")] == [
        (each["attempt_id"], each["chain"], each["changes"]["user_metadata"]["by"]) for each in (quick, slow)
    ]
    assert {new, old} == {body(record)["chain"] for record in await read_all(topics, topics.decisions_topic)}


async def test_a_decision_too_large_to_be_written_is_replaced_by_one_that_names_the_chain_that_ran(
    asker: Asker, topics: Settings, chain: ChainFolder, eventually: Any
) -> None:
    old = chain.write(SLOW.format("old").replace("api.user", "api.access.deny('x' * 2_000_000); api.user"))
    async with serving(topics, chain=chain.path) as worker:
        await asker.submit("slow", event("slow@example.com"))
        await eventually(lambda: worker.in_flight == 1)
        chain.write(SAYS.format("new"))
        await worker.change_chain(load_chain(chain.path, environ={}))
        await eventually(lambda: asker.replies, within_s=5)

    assert ("action_failed", old) == (body(asker.replies[0])["denial"]["cause"], body(asker.replies[0])["chain"])


async def test_hangup_while_it_starts_changes_the_chain_before_the_first_attempt(
    asker: Asker, topics: Settings, start: Start, chain: ChainFolder, eventually: Any
) -> None:
    chain.write(SAYS.format("old"))
    worker = start(topics, chain=chain.path)
    await eventually(lambda: worker.lines("worker_starting"), within_s=20)
    new = chain.write(SAYS.format("new"))
    worker.send(signal.SIGHUP)
    await worker.ready()
    await eventually(lambda: worker.lines("chain_changed"))
    await asker.submit("one", event())
    await eventually(lambda: asker.replies)

    assert (new, "new") == (body(asker.replies[0])["chain"], body(asker.replies[0])["changes"]["user_metadata"]["by"])
    assert 0 == await worker.end()


async def test_a_watched_chain_changes_by_itself(
    asker: Asker, topics: Settings, start: Start, chain: ChainFolder, eventually: Any
) -> None:
    chain.write(SAYS.format("old"))
    worker = await start(topics.model_copy(update={"watch_chain": True}), chain=chain.path).ready()
    new = chain.write(SAYS.format("new"))
    await eventually(lambda: [line["chain"] for line in worker.lines("chain_changed")] == [new])
    await asker.submit("one", event())
    await eventually(lambda: asker.replies)

    assert (new, 0) == (body(asker.replies[0])["chain"], await worker.end())


async def test_an_action_that_blocks_the_loop_is_named_in_log_metric_and_ledger(
    asker: Asker, topics: Settings, start: Start, chain: ChainFolder, eventually: Any
) -> None:
    chain.write(BLOCKS)
    worker = await start(topics, chain=chain.path).ready()
    await asker.submit("slow", event("slow@example.com"))
    await eventually(lambda: worker.lines("event_loop_free_again"))
    blocked = metric(worker, 'gate_event_loop_blocked_total{action="one"}')
    await eventually(lambda: asker.replies)
    assert 0 == await worker.end()

    (line,) = worker.lines("event_loop_blocked")
    (record,) = await read_all(topics, topics.decisions_topic)
    assert ("one", True, 1.0) == (line["action"], line["where"].endswith("one.py:6 in on_execute_pre_user_registration"), blocked)
    assert ["approved", True] == [body(record)["status"], "blocked the event loop at" in body(record)["trace"][0]["logs"][0]]
