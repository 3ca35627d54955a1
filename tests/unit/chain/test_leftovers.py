"""Nothing of what an action knows gets out of its trace: not by streams, library logs, warnings, tasks or threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from gate.chain.loader import load_chain
from gate.chain.resources import Resources
from gate.model.decision import Outcome
from gate.model.event import Event

SECRET = 'hun"ter/2 & more'
HEAD = """
import asyncio, json, logging, sys, threading, traceback, urllib.parse, warnings

"""


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def but_for_the_watchdog(lines: list[EventDict]) -> list[EventDict]:
    """Leave out that the event loop was slow: on a machine with other things to do it may be."""
    return [line for line in lines if line.get("logger_name") != "gate.chain.watchdog"]


async def run(folder: Path, body: str, kind: str = "async def") -> Outcome:
    """Run an action with this body, which finds a secret in `secret`; return when all that it left behind has ended."""
    (folder / "chain.toml").write_text('[[action]]\nfile = "one.py"\nsecrets = ["KEY"]\non_error = "skip"\n')
    entry = f"{kind} on_execute_pre_user_registration(event, api):\n    secret = event.secrets['KEY']\n"
    (folder / "one.py").write_text(HEAD + entry + "".join(f"    {line}\n" for line in body.strip().splitlines()))
    chain = load_chain(folder, environ={"GATE_SECRET_ONE_KEY": SECRET})
    async with Resources() as resources:
        await chain.start(resources)
        event = Event.from_document({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})
        outcome = chain.run(event, attempt_id="a")
        outcome = await outcome if asyncio.iscoroutine(outcome) else outcome
        for _ in range(3):
            gc.collect()  # a task that nobody awaited tells when it is collected
            await asyncio.sleep(0.01)

    return outcome  # type: ignore[return-value]  # awaited above


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print(secret)", "[secret]"),
        ("print(secret, file=sys.stderr)", "[secret]"),
        ("print(dict(event.secrets))", "{'KEY': '[secret]'}"),
        ("print(json.dumps([secret]))", '["[secret]"]'),
        ("print('https://x.example/?' + urllib.parse.urlencode({'k': secret}))", "https://x.example/?k=[secret]"),
        ("print('https://x.example/' + urllib.parse.quote(secret))", "https://x.example/[secret]"),
        ("logging.getLogger('some.library').error('failed: %s', secret)", "ERROR: failed: [secret]"),
        ("logging.error('failed: %s', secret)", "ERROR: failed: [secret]"),
        ("logging.getLogger(__name__).info(secret)", "INFO: [secret]"),
        ("sys.stdout.buffer.write(secret.encode())", "[secret]"),
        ("sys.stderr.close(); print(secret, file=sys.stderr)", "[secret]"),
        ("try: raise ValueError(secret)\nexcept ValueError: traceback.print_exc()", "ValueError: [secret]"),
        ("try: raise ValueError(secret)\nexcept ValueError: logging.exception('oh')", "ERROR: oh (ValueError)"),
    ],
)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_what_an_action_writes_is_in_its_trace_only_and_without_the_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], lines: list[EventDict], body: str, said: str, kind: str
) -> None:
    root = logging.StreamHandler(sys.stderr)  # what `gate worker` has
    logging.getLogger().addHandler(root)
    try:
        outcome = await run(tmp_path, body, kind)
    finally:
        logging.getLogger().removeHandler(root)

    out, err = capfd.readouterr()
    assert [said] == list(outcome.trace[0].logs)[-1:]
    assert ("", "", []) == (out, err, but_for_the_watchdog(lines))
    assert SECRET not in repr(outcome)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("async def fails(): raise ValueError(secret)\nasyncio.create_task(fails())\nawait asyncio.sleep(0)", "task"),
        ("asyncio.get_running_loop().call_soon(lambda: int(secret))", "task"),
        ("threading.Thread(target=lambda: int(secret)).start()", "thread"),
        ("class Odd:\n    def __del__(self): int(secret)\nOdd()", "object"),
    ],
)
async def test_an_error_left_behind_is_named_without_its_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], lines: list[EventDict], body: str, where: str
) -> None:
    await run(tmp_path, body)

    assert [("action_left_error", "one", where, "ValueError")] == [
        (line["event"], line["action"], line["where"], line["error"]) for line in lines
    ]
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize(
    "body",
    [
        "thread = threading.Thread(target=lambda: print(secret)); thread.start(); thread.join()",
        "def says(): sys.stderr.write(secret); logging.getLogger('some.library').error(secret)\n"
        "await asyncio.get_running_loop().run_in_executor(None, says)",
    ],
    ids=["thread", "executor"],
)
async def test_what_an_action_writes_from_a_thread_of_its_own_gets_nowhere_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str
) -> None:
    root = logging.StreamHandler(sys.stderr)  # what `gate worker` has
    logging.getLogger().addHandler(root)
    try:
        await run(tmp_path, body)
    finally:
        logging.getLogger().removeHandler(root)
    print("ours")

    assert ("ours\n", "") == capfd.readouterr()


async def test_a_warning_of_an_action_is_in_its_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)  # as `gate worker` does
        try:
            outcome = await run(tmp_path, "warnings.warn(secret)")
        finally:
            logging.captureWarnings(capture=False)

    assert "UserWarning: [secret]" in outcome.trace[0].logs[0]
    assert ("", "") == capfd.readouterr()


async def test_errors_that_are_not_of_an_action_go_where_they_went_before(lines: list[EventDict]) -> None:
    heard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: heard.append(type(context["exception"])))
    async with Resources():
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
    loop.call_soon(lambda: int("x"))
    await asyncio.sleep(0)
    loop.set_exception_handler(None)

    assert ([ZeroDivisionError, ValueError], []) == (heard, but_for_the_watchdog(lines))
