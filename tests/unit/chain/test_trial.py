"""A trial is an attempt without Kafka: the reply, and what each action did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gate.chain.loader import load_chain
from gate.chain.runner import Chain
from gate.chain.trial import run_trial
from gate.errors import InvalidEvent

EVENT: dict[str, Any] = {
    "connection": {"strategy": "auth0"},
    "request": {},
    "user": {"user_metadata": {"old": 1, "gone": 2}, "app_metadata": {"kept": True}},
}

SOURCE = """
import asyncio

async def on_execute_pre_user_registration(event, api):
    print("seen", event.attempt_id, dict(event.secrets))
    await asyncio.sleep(0)
    api.user.set_user_metadata("gone", None).user.set_user_metadata("new", [1])
"""


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    (tmp_path / "one.py").write_text(SOURCE)
    return load_chain(tmp_path / "one.py", environ={})


async def test_the_reply_has_the_merged_metadata_the_changes_and_the_trace(chain: Chain) -> None:
    reply = await run_trial(chain, EVENT, attempt_id="a-1")
    (trace,) = reply.pop("trace")
    decided_at = reply.pop("decided_at")

    assert {
        "version": 1,
        "attempt_id": "a-1",
        "status": "approved",
        "user_metadata": {"old": 1, "new": [1]},
        "app_metadata": {"kept": True},
        "changes": {"user_metadata": {"gone": None, "new": [1]}},
        "warnings": [],
        "chain": chain.hash,
    } == reply
    assert ("one", "ran", ["seen a-1 {}"]) == (trace["name"], trace["outcome"], trace["logs"])
    assert decided_at.endswith("Z")


async def test_our_own_fields_in_the_document_are_dropped_as_in_a_worker(chain: Chain) -> None:
    reply = await run_trial(chain, {**EVENT, "secrets": {"K": "forged"}, "attempt_id": "forged"}, attempt_id="a-1")

    assert ["seen a-1 {}"] == reply["trace"][0]["logs"]


async def test_a_document_that_is_no_event_is_named_by_its_path(chain: Chain) -> None:
    with pytest.raises(InvalidEvent, match=r"\$\.connection: is missing"):
        await run_trial(chain, {})


async def test_a_started_chain_stays_started(chain: Chain) -> None:
    async with chain:
        await run_trial(chain, EVENT)
        assert chain.started

    assert not chain.started


RAISES = """
import asyncio

async def on_execute_pre_user_registration(event, api):
    if event.user.email == "wait":
        await asyncio.sleep(5)
    {}[event.secrets.get("KEY", "gone")]
"""

PLAIN = """
def on_execute_pre_user_registration(event, api):
    raise ValueError("several\\n lines")
"""


@pytest.mark.parametrize(
    ("source", "email", "error", "text", "line"),
    [
        (RAISES, "x", "KeyError", "'gone'", 7),
        (RAISES, "wait", "TimeoutError", None, 6),
        (PLAIN, "x", "ValueError", "several lines", 3),
    ],
)
async def test_the_trace_says_what_an_action_raised_and_where(
    tmp_path: Path, source: str, email: str, error: str, text: str | None, line: int
) -> None:
    file = tmp_path / "bad.py"
    file.write_text(source)

    reply = await run_trial(load_chain(file, environ={}), {**EVENT, "user": {"email": email}}, timeout_ms=100)

    entry = reply["trace"][0]
    assert (error, text, f"{file}:{line}") == (entry["error"], entry.get("error_text"), entry["error_at"])
    assert text is None or text not in str(reply["denial"])


async def test_no_patience_is_expired_before_anything_runs(chain: Chain) -> None:
    reply = await run_trial(chain, EVENT, timeout_ms=0)

    assert ("expired", ["not_reached"]) == (reply["denial"]["cause"], [entry["outcome"] for entry in reply["trace"]])


async def test_an_unreadable_event_is_denied_as_a_worker_denies_it_if_asked_to(chain: Chain) -> None:
    reply = await run_trial(chain, {"user": []}, deny_invalid=True)

    assert ("invalid_attempt", ["not_reached"]) == (reply["denial"]["cause"], [entry["outcome"] for entry in reply["trace"]])
    assert [{"code": "invalid_attempt", "message": "$.connection: is missing"}] == reply["warnings"]
