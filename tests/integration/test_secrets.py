"""A secret stays in the worker, whatever an action does with it: not in a reply, the ledger, the log or a metric."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings

from .peers import Asker, WorkerProcess, event, read_all

pytestmark = pytest.mark.kafka

SECRET = "hunter2-is-no-password"
LEAKS = """
import asyncio, logging, sys, threading

async def on_execute_pre_user_registration(event, api):
    secret = event.secrets["KEY"]
    print(secret, event.secrets, dict(event.secrets), file=sys.stderr)
    print(secret)
    logging.getLogger("library").error(secret)
    logging.getLogger(__name__).error(secret)
    api.user.set_user_metadata(secret, {secret: [secret]})
    api.cache.set("k", secret)
    asyncio.get_running_loop().call_soon(lambda: int(secret))
    threading.Thread(target=lambda: int(secret)).start()
    kind = event.user.email.partition("@")[0]
    if kind == "deny":
        api.access.deny(secret, f"because of {secret}")
    elif kind == "refuse":
        api.validation.error(secret, secret, field=secret)
    elif kind == "raise":
        raise type(f"Odd", (Exception,), {})(secret)
    elif kind == "late":
        asyncio.get_running_loop().call_later(0.05, lambda: api.access.deny(secret))
"""
KINDS = ("approve", "deny", "refuse", "raise", "late")


async def test_a_secret_is_found_nowhere_outside_of_the_worker(
    asker: Asker, topics: Settings, tmp_path: Path, eventually: Any
) -> None:
    chain = tmp_path / "chain"
    chain.mkdir()
    (chain / "chain.toml").write_text('[[action]]\nfile = "leaks.py"\nsecrets = ["KEY"]\n')
    (chain / "leaks.py").write_text(LEAKS)
    env = {"GATE_SECRET_LEAKS_KEY": SECRET, "GATE_LOG_LEVEL": "debug"}
    worker = WorkerProcess(topics, tmp_path, chain=chain, **env)
    try:
        await worker.ready()
        for kind in KINDS:
            await asker.submit(kind, event(f"{kind}@example.com"))
        await eventually(lambda: len(asker.replies) == len(KINDS))
        await eventually(lambda: worker.lines("action_left_error"))
        metrics = await asyncio.to_thread(worker.metrics)
        assert 0 == await worker.end()
    finally:
        worker.close()
    told = "".join(str((record.headers, record.value)) for record in asker.replies)
    ledger = "".join(str((record.headers, record.value)) for record in await read_all(topics, topics.decisions_topic))

    places = {"replies": told, "ledger": ledger, "log": worker.log, "metrics": metrics}
    assert [] == [place for place, text in places.items() if SECRET in text or "hunter2" in text]
    assert "[secret]" in told
    assert "[secret]" in ledger
    assert '"cause":"action_failed"' in told
    raised_at = 1 + next(number for number, line in enumerate(LEAKS.splitlines()) if "raise type" in line)
    assert [("raise", "leaks", "failed", "Odd", True)] == [
        (line["attempt_id"], line["action"], line["outcome"], line["error"], line["at"].endswith(f"leaks.py:{raised_at}"))
        for line in worker.lines("action_failed")
    ]
