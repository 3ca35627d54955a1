"""What actions print and log goes into their own trace, bounded and without secrets."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

import pytest

from gate import Api, Event
from gate.chain import capture
from gate.chain.capture import ACTION_MODULES
from gate.chain.effects import MAX_LOG_CHARACTERS, MAX_LOG_LINES
from gate.chain.runner import Chain
from gate.model.decision import Outcome
from gate.model.readonly import Secrets


def logs(outcome: Outcome) -> list[list[str]]:
    return [list(entry.logs) for entry in outcome.trace]


async def test_what_an_action_prints_is_in_its_trace_and_nowhere_else(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async def prints(event: Event, api: Api) -> None:
        print("one", 2)
        print("three\nfour", end="")

    async def prints_while_waiting(event: Event, api: Api) -> None:
        print("five")
        await asyncio.sleep(0)
        print("six")

    def prints_in_thread(event: Event, api: Api) -> None:
        print("seven")

    outcome = await run(prints, prints_while_waiting, prints_in_thread)
    print("ours")

    assert [["one 2", "three", "four"], ["five", "six"], ["seven"]] == logs(outcome)
    assert "ours\n" == capsys.readouterr().out


async def test_what_actions_log_is_in_their_trace_with_its_level(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.getLogger(f"{ACTION_MODULES}.some_action")
    other = logging.getLogger("a.library")

    async def writes(event: Event, api: Api) -> None:
        own.info("asked %s", "them")
        other.warning("two\nlines")
        try:
            raise ValueError("text of the exception")
        except ValueError:
            own.exception("failed")

    outcome = await run(writes)
    own.info("outside of any action")

    assert [["INFO: asked them", "WARNING: two", "lines", "ERROR: failed (ValueError)"]] == logs(outcome)
    assert "asked" not in capsys.readouterr().err


async def test_a_log_call_with_the_wrong_arguments_is_a_line_not_a_failure(run: Any) -> None:
    async def writes(event: Event, api: Api) -> None:
        capture._handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "%d", ("not a number",), None))

    assert [["INFO: %d"]] == logs(await run(writes))


async def test_lines_of_actions_that_run_at_once_do_not_mix(run: Any) -> None:
    async def prints(event: Event, api: Api) -> None:
        for number in range(20):
            print(event["number"], end=" ")
            await asyncio.sleep(0)
            print(number)

    def prints_in_thread(event: Event, api: Api) -> None:
        for number in range(20):
            print(event["number"], end=" ")
            time.sleep(0.0001)
            print(number)

    chain = await run.chain(prints, prints_in_thread)
    outcomes = await asyncio.gather(*(run.once(chain, event={"number": each}) for each in range(10)))

    assert [[[f"{each} {number}" for number in range(20)]] * 2 for each in range(10)] == [logs(outcome) for outcome in outcomes]


async def test_secrets_are_blanked_out_of_captured_lines(run: Any, make_action: Any) -> None:
    async def prints(event: Event, api: Api) -> None:
        print(event.secrets, event.secrets["KEY"], event.model_dump()["secrets"])
        logging.getLogger("x").warning(event.secrets["KEY"])

    outcome = await run(make_action(prints, secrets=Secrets(KEY="hunter22")))

    assert "hunter22" not in repr(outcome)
    assert [["Secrets(KEY) [secret] {'KEY': '[secret]'}", "WARNING: [secret]"]] == logs(outcome)


async def test_a_secret_of_several_lines_is_blanked_out_line_by_line(run: Any, make_action: Any) -> None:
    async def prints(event: Event, api: Api) -> None:
        print("key:", event.secrets["KEY"])

    assert [["key: [secret]", "[secret]"]] == logs(await run(make_action(prints, secrets=Secrets(KEY="-----BEGIN\nabcdef"))))


async def test_captured_lines_are_bounded(run: Any) -> None:
    async def long_line(event: Event, api: Api) -> None:
        print("x" * 1_000_000)

    async def long_part(event: Event, api: Api) -> None:
        for _ in range(10_000):
            print("x", end="")

    async def many_lines(event: Event, api: Api) -> None:
        for number in range(10_000):
            print(number)

    found = logs(await run(long_line, long_part, many_lines))

    assert all(sum(map(len, lines)) <= MAX_LOG_CHARACTERS + 100 for lines in found)
    assert MAX_LOG_LINES + 1 == len(found[2])
    assert "… more lines were dropped" == found[2][-1]


async def test_half_a_surrogate_pair_in_a_line_is_replaced(run: Any) -> None:
    async def prints(event: Event, api: Api) -> None:
        print("a\ud800b")

    assert [["a?b"]] == logs(await run(prints))


async def test_a_leftover_task_prints_into_no_other_trace(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = []

    async def leaves(event: Event, api: Api) -> None:
        async def later() -> None:
            print("later")

        tasks.append(asyncio.create_task(later()))

    async def waits(event: Event, api: Api) -> None:
        await asyncio.sleep(0.01)
        print("mine")

    outcome = await run(leaves, waits)
    await asyncio.gather(*tasks)

    assert [[], ["mine"]] == logs(outcome)
    assert "" == capsys.readouterr().out


async def test_stdout_is_given_back_when_the_last_chain_is_closed() -> None:
    before = sys.stdout
    first, second = Chain([]), Chain([])
    await first.start()
    await second.start()
    assert sys.stdout is not before

    await first.aclose()
    assert sys.stdout is not before

    await second.aclose()
    assert sys.stdout is before
    assert capture._handler not in logging.getLogger(ACTION_MODULES).handlers
