"""Fixed texts as the operator words them, through a worker on real Kafka: each asker is told in its own language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings
from gate.model.decision import FIXED_TEXTS, Cause

from .peers import EVENT, Asker, body, serving

pytestmark = pytest.mark.kafka


def spoken(mailbox: str, language: str) -> bytes:
    request = {**EVENT["request"], "language": language}
    return json.dumps({**EVENT, "request": request, "user": {"email": f"{mailbox}@example.com"}}).encode()


async def test_failure_expiry_conflict_and_unreadable_attempt_are_told_in_the_askers_language(
    asker: Asker, topics: Settings, tmp_path: Path, eventually: Any
) -> None:
    told = {cause: f"es {cause}" for cause in ("action_failed", "expired", "conflict", "invalid_attempt")}
    (tmp_path / "texts.toml").write_text("[es]\n" + "".join(f'{cause} = "{text}"\n' for cause, text in told.items()))
    await asker.submit("late", spoken("zoe", "es"), gate__timeout__ms=b"1")

    async with serving(topics.model_copy(update={"messages": tmp_path / "texts.toml"})):
        await eventually(lambda: len(asker.replies) == 1)
        await asker.submit("failing", spoken("failing", "es-MX,es;q=0.9"))
        await asker.submit("unreadable", b'{"request": {"language": "es"}}')
        await asker.submit("english", spoken("failing", "en"))
        await asker.submit("taken", spoken("failing", "en"))
        await eventually(lambda: len(asker.replies) == 5)
        await asker.submit("taken", spoken("failing", "es"))
        await eventually(lambda: len(asker.replies) == 6)

    denials = [(body(record)["attempt_id"], body(record)["denial"]) for record in asker.replies]
    assert {
        ("late", "expired", "es expired"),
        ("failing", "action_failed", "es action_failed"),
        ("unreadable", "invalid_attempt", "es invalid_attempt"),
        ("english", "action_failed", FIXED_TEXTS[Cause.ACTION_FAILED][1]),
        ("taken", "action_failed", FIXED_TEXTS[Cause.ACTION_FAILED][1]),
        ("taken", "conflict", "es conflict"),
    } == {(attempt_id, denial["reason"], denial["user_message"]) for attempt_id, denial in denials}
